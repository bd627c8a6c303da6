// Package etcdcluster starts etcd clusters on this machine, as processes, for tests
// and benchmarks. It builds the server from the module engines/etcdserver into
// bin/etcd. Nothing shipped links it.
package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"chatvault/vaultd/internal/recordstore/engines/proc"
	"chatvault/vaultd/internal/recordstore/remote"
)

// Options of New. The zero value is good.
type Options struct {
	// Args are added to every member's command line.
	Args []string

	// Dir gives member i (from 0) its data directory, which must exist. Nil:
	// temporary ones.
	Dir func(i int) string

	// Host gives member i its address. Nil: 127.0.0.1. The machine on which the
	// cluster is made must reach it.
	Host func(i int) string

	// PeerURL is how the others reach member i, if not under the address at which
	// it listens: through a proxy that delays or cuts. Nil: directly.
	PeerURL func(i int, listens string) string

	// TLS, with all three files, has members ask clients for a certificate of the
	// CA. The same certificate serves members and this package's own questions.
	TLS remote.TLS

	// Wrap puts a command around a member's: nsenter, strace. Nil: none.
	Wrap func(i int, argv []string) []string
}

// Cluster is a running cluster.
type Cluster struct {
	Members []*Member

	dir string // of everything temporary
}

// Member is one of its processes. Its methods are not safe for concurrent use with
// each other.
type Member struct {
	name   string
	argv   []string
	client string // host:port
	url    string // the same with its scheme
	tls    remote.TLS
	proc   *proc.Process
}

// startLimit is how long a cluster may take until a majority answers.
const startLimit = time.Minute

// Build builds the server, unless that was done before, and returns its path.
func Build() (string, error) {
	root, err := proc.ModuleRoot()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(bin, ".etcd.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	path := filepath.Join(bin, "etcd")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Dir = filepath.Join(root, "vaultd", "internal", "recordstore", "engines", "etcdserver")
	build.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building etcd: %w\n%s", err, out)
	}
	return path, nil
}

// Start starts n members and ends them with the test.
func Start(t testing.TB, n int, o Options) *Cluster {
	t.Helper()
	c, err := New(n, o)
	proc.OrFatal(t, err)
	t.Cleanup(c.Close)
	return c
}

// New starts n members and waits until they have a leader and all answer.
func New(n int, o Options) (*Cluster, error) {
	binary, err := Build()
	if err != nil {
		return nil, err
	}
	dir, err := proc.TempDir("etcd")
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir}
	ports, err := proc.Ports(2 * n)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c.layOut(binary, ports, o)
	for _, m := range c.Members {
		if err := m.Start(); err != nil {
			c.Close()
			return nil, err
		}
	}
	for i := range c.Members {
		if err := c.WaitFor(i); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// layOut decides every member's command line.
func (c *Cluster) layOut(binary string, ports []int, o Options) {
	n := len(ports) / 2
	var all []string
	peers := make([]string, n)
	for i := range n {
		peers[i] = "http://" + host(o, i) + ":" + strconv.Itoa(ports[2*i+1])
		reached := peers[i]
		if o.PeerURL != nil {
			reached = o.PeerURL(i, peers[i])
		}
		all = append(all, fmt.Sprintf("m%d=%s", i, reached))
	}
	for i := range n {
		dir := filepath.Join(c.dir, "m"+strconv.Itoa(i))
		if o.Dir != nil {
			dir = o.Dir(i)
		}
		client := host(o, i) + ":" + strconv.Itoa(ports[2*i])
		url := "http://" + client
		_, advertised, _ := strings.Cut(all[i], "=")
		var secure []string
		if o.TLS.CA != "" {
			url = "https://" + client
			secure = []string{"--client-cert-auth", "--trusted-ca-file", o.TLS.CA, "--cert-file", o.TLS.Cert, "--key-file", o.TLS.Key}
		}
		argv := append([]string{
			binary, "--name", "m" + strconv.Itoa(i), "--data-dir", dir,
			"--listen-client-urls", url, "--advertise-client-urls", url,
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", advertised,
			"--initial-cluster", strings.Join(all, ","), "--initial-cluster-token", filepath.Base(c.dir),
			"--log-level", "warn",
		}, slices.Concat(secure, o.Args)...)
		if o.Wrap != nil {
			argv = o.Wrap(i, argv)
		}
		c.Members = append(c.Members, &Member{name: "etcd m" + strconv.Itoa(i), argv: argv, client: client, url: url, tls: o.TLS})
	}
}

func host(o Options, i int) string {
	if o.Host != nil {
		return o.Host(i)
	}
	return "127.0.0.1"
}

// Endpoints are the members' client addresses, host:port.
func (c *Cluster) Endpoints() []string {
	var out []string
	for _, m := range c.Members {
		out = append(out, m.client)
	}
	return out
}

// WaitFor waits until member i answers a read that needs a majority.
func (c *Cluster) WaitFor(i int) error {
	m := c.Members[i]
	return proc.Until(startLimit, m.proc, func() error {
		return m.ask(func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Get(ctx, "any")
			return err
		})
	})
}

// Leader is the number of the member that leads, in the eyes of the others too.
func (c *Cluster) Leader() (int, error) {
	ids := make(map[uint64]int) // member id → number
	votes := make(map[uint64]int)
	for i, m := range c.Members {
		err := m.ask(func(ctx context.Context, client *clientv3.Client) error {
			s, err := client.Status(ctx, m.url)
			if err == nil {
				ids[s.Header.MemberId] = i
				votes[s.Leader]++
			}
			return err
		})
		if err != nil {
			continue // it is down
		}
	}
	for id, n := range votes {
		if i, ok := ids[id]; ok && 2*n > len(c.Members) {
			return i, nil
		}
	}
	return 0, errors.New("no majority agrees on a leader")
}

// Close ends all members and removes what is temporary.
func (c *Cluster) Close() {
	for _, m := range c.Members {
		if m.proc != nil {
			m.proc.End(syscall.SIGKILL)
		}
	}
	os.RemoveAll(c.dir)
}

// ask gives f a client of this member alone, and a second.
func (m *Member) ask(f func(context.Context, *clientv3.Client) error) error {
	config, err := m.tls.Config("")
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{m.url}, TLS: config, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return f(ctx, client)
}

// Endpoint is the member's client address, host:port.
func (m *Member) Endpoint() string { return m.client }

// Process is the member's process.
func (m *Member) Process() *proc.Process { return m.proc }

// Start starts a member that has ended.
func (m *Member) Start() (err error) {
	m.proc, err = proc.Start(m.name, exec.Command(m.argv[0], m.argv[1:]...))
	return err
}

// Kill kills the member with signal 9.
func (m *Member) Kill() error { return m.proc.End(syscall.SIGKILL) }

// Pause stops the member with SIGSTOP: its connections stay, nothing answers.
func (m *Member) Pause() error { return m.proc.Pause() }

// Resume lets a paused member go on.
func (m *Member) Resume() error { return m.proc.Signal(syscall.SIGCONT) }
