// Package postgres starts PostgreSQL servers on this machine, as processes, for
// tests and benchmarks. The binaries must be installed (Debian: postgresql); 15 is
// what the project's own tests run on. Nothing shipped links this package.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"chatvault/vaultd/internal/recordstore/engines/proc"
)

// What every server has, beside the superuser "postgres", who needs no password.
const (
	Role     = "vaultd" // logs in with the password of Server.PasswordFile
	Database = "vaultd" // owned by Role
)

// Options of New. The zero value is good.
type Options struct {
	// Args are added to the server's command line: "-c", "name=value".
	Args []string
	// Cert and Key (PEM) make the server accept nothing but TLS from Role, and CA
	// has it ask for a client certificate named like it.
	Cert, Key, CA string
	// Wrap puts a command around the server's: strace. Nil: none.
	Wrap func(argv []string) []string
	// Dir holds the data; it must exist and belong to ServerUser. Empty: temporary.
	Dir string
}

// Server is a server and its data. Its methods are not safe for concurrent use with
// each other.
type Server struct {
	PasswordFile string

	bin, dir string // of the binaries; of everything temporary
	data     string
	port     int
	options  Options
	cred     *syscall.Credential
	proc     *proc.Process
}

// startLimit is how long a server may take until it answers.
const startLimit = time.Minute

// password of Role. It protects nothing: the server listens on the loopback
// interface, and the superuser needs none.
const password = "not a secret"

// binaries finds the directory of the server's binaries.
func binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		slices.SortFunc(found, func(a, b string) int { return major(a) - major(b) })
		return filepath.Dir(found[len(found)-1]), nil
	}
	path, err := exec.LookPath("postgres")
	if err != nil {
		return "", errors.New("PostgreSQL's server is not installed: apt-get install postgresql, or put its bin directory into PATH")
	}
	return filepath.Dir(path), nil
}

func major(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// serverUser is whom the server runs as: PostgreSQL refuses root. Nil: this user.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("this is root, and there is neither a user postgres nor nobody to run PostgreSQL as")
}

// Start starts a server and ends it with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := New(o)
	proc.OrFatal(t, err)
	t.Cleanup(s.Close)
	return s
}

// New makes a database cluster and starts its server.
func New(o Options) (*Server, error) {
	s, err := prepare(o)
	if err != nil {
		return nil, err
	}
	// Nothing of initdb needs to survive a power cut; the server itself syncs.
	err = s.tool("initdb", "-D", s.data, "-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C")
	if err == nil {
		err = s.writeConfig()
	}
	if err == nil {
		err = s.Start()
	}
	if err == nil {
		err = s.Exec(context.Background(), fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", Role, password))
	}
	if err == nil {
		err = s.Exec(context.Background(), fmt.Sprintf("CREATE DATABASE %s OWNER %s", Database, Role))
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// prepare finds binaries, user, port and directories.
func prepare(o Options) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	cred, err := serverUser()
	if err != nil {
		return nil, err
	}
	ports, err := proc.Ports(1)
	if err != nil {
		return nil, err
	}
	dir, err := proc.TempDir("pg")
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, dir: dir, port: ports[0], options: o, cred: cred, data: o.Dir}
	if s.data == "" {
		s.data = filepath.Join(dir, "data")
	}
	s.PasswordFile = filepath.Join(dir, "password")
	if err := os.WriteFile(s.PasswordFile, []byte(password), 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if cred != nil {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	return s, nil
}

// writeConfig says what a server that is copied must not inherit, and what tests
// and replication need.
func (s *Server) writeConfig() error {
	others, tls, err := "host all all 127.0.0.1/32 scram-sha-256\n", "", error(nil)
	if s.options.Cert != "" {
		others = "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n"
		if tls, err = s.copyTLS(); err != nil {
			return err
		}
	}
	hba := "local all all trust\nlocal replication all trust\n" + others
	if err := os.WriteFile(filepath.Join(s.data, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("\nlisten_addresses = '127.0.0.1'\nmax_connections = 200\nwal_level = replica\nmax_wal_senders = 10\nhot_standby = on\n" + tls)
	return errors.Join(err, f.Close())
}

// copyTLS puts the files of TLS where the server's user can read them.
func (s *Server) copyTLS() (config string, err error) {
	for name, from := range map[string]string{"ssl_cert_file": s.options.Cert, "ssl_key_file": s.options.Key, "ssl_ca_file": s.options.CA} {
		b, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		to := filepath.Join(s.dir, name)
		if err := os.WriteFile(to, b, 0o600); err != nil {
			return "", err
		}
		if s.cred != nil {
			if err := os.Chown(to, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
				return "", err
			}
		}
		config += name + " = '" + to + "'\n"
	}
	return "ssl = on\n" + config, nil
}

// tool runs one of PostgreSQL's programs to its end.
func (s *Server) tool(name string, args ...string) error {
	cmd := s.command(append([]string{filepath.Join(s.bin, name)}, args...))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

func (s *Server) command(argv []string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred}
	return cmd
}

// Start starts a server that has ended, and waits until it answers: a standby too,
// once it has something to show.
func (s *Server) Start() error {
	argv := append([]string{filepath.Join(s.bin, "postgres"), "-D", s.data, "-p", strconv.Itoa(s.port), "-k", s.dir}, s.options.Args...)
	if s.options.Wrap != nil {
		argv = s.options.Wrap(argv)
	}
	deadline := time.Now().Add(startLimit)
	for {
		p, err := proc.Start("postgres", s.command(argv))
		if err != nil {
			return err
		}
		s.proc = p
		err = proc.Until(startLimit, p, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			c, err := pgx.Connect(ctx, s.Superuser())
			if err == nil {
				err = c.Close(ctx)
			}
			return err
		})
		// The children of a server that was killed live a moment longer, and keep
		// its shared memory.
		if err == nil || !strings.Contains(p.Log(), "shared memory block") || time.Now().After(deadline) {
			return err
		}
	}
}

// Endpoint is the server's address, host:port.
func (s *Server) Endpoint() string { return proc.Address(s.port) }

// Superuser is the connection string of the superuser, over the socket.
func (s *Server) Superuser() string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres sslmode=disable", s.dir, s.port)
}

// Exec runs SQL as superuser in the database "postgres".
func (s *Server) Exec(ctx context.Context, sql string) error {
	c, err := pgx.Connect(ctx, s.Superuser())
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// Ask runs SQL as superuser and scans its one row.
func (s *Server) Ask(ctx context.Context, sql string, row ...any) error {
	c, err := pgx.Connect(ctx, s.Superuser())
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if err := c.QueryRow(ctx, sql).Scan(row...); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// Set changes a setting in a running server, with ALTER SYSTEM and a reload, and
// returns when new sessions see it.
func (s *Server) Set(ctx context.Context, name, value string) error {
	if err := s.Exec(ctx, fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value)); err != nil {
		return err
	}
	if err := s.Exec(ctx, "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	return proc.Until(startLimit, s.proc, func() error {
		var is string
		if err := s.Ask(ctx, fmt.Sprintf("SELECT current_setting('%s')", name), &is); err != nil {
			return err
		}
		if is != value {
			return fmt.Errorf("%s is still %q", name, is)
		}
		return nil
	})
}

// Standby makes a copy of the server that follows it under a name, for
// synchronous_standby_names, and starts it.
func (s *Server) Standby(name string, o Options) (*Server, error) {
	standby, err := prepare(o)
	if err != nil {
		return nil, err
	}
	standby.options.Args = append([]string{"-c", "cluster_name=" + name}, o.Args...)
	err = standby.Copy(s)
	if err == nil {
		err = standby.Start()
	}
	if err != nil {
		standby.Close()
		return nil, err
	}
	return standby, nil
}

// Promote makes a standby a primary.
func (s *Server) Promote(ctx context.Context) error {
	var done bool
	if err := s.Ask(ctx, "SELECT pg_promote()", &done); err != nil {
		return err
	}
	if !done {
		return errors.New("the standby was not promoted in time")
	}
	return nil
}

// Process is the server's main process.
func (s *Server) Process() *proc.Process { return s.proc }

// Kill kills the server with signal 9; its sessions end themselves when they see it.
func (s *Server) Kill() error { return s.proc.End(syscall.SIGKILL) }

// Pause stops all of the server's processes with SIGSTOP: its connections stay,
// nothing answers.
func (s *Server) Pause() error { return s.signalAll(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *Server) Resume() error { return s.signalAll(syscall.SIGCONT) }

// signalAll signals the main process and its children: sessions, writers, senders.
func (s *Server) signalAll(sig syscall.Signal) error {
	if err := s.proc.Signal(sig); err != nil {
		return err
	}
	children, err := s.children()
	if err != nil {
		return err
	}
	for _, pid := range children {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("%s to process %d: %w", sig, pid, err)
		}
	}
	return nil
}

// children are the processes that the main process started; none if it has ended.
func (s *Server) children() (pids []int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", s.proc.PID()))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for field := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Stop ends the server in an orderly way ("fast"): sessions are ended.
func (s *Server) Stop() error { return s.proc.End(syscall.SIGINT) }

// Close ends the server and removes what is temporary.
func (s *Server) Close() {
	if s.proc != nil {
		s.Resume()                  // a session that is stopped would stay
		s.proc.End(syscall.SIGQUIT) // at once, sessions too
	}
	os.RemoveAll(s.dir)
}
