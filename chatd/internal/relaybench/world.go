//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/ticket"
)

// accounts is how many phones there are with a ticket.
const accounts = 15_000

// world is what all measurements share: programs, certificates, tickets, Redis, the
// vault; and what is to be ended.
type world struct {
	ctx                        context.Context
	dir                        string
	self, chatd, floors, doors string // programs
	pki                        *chatdtest.PKI
	caFile, roleCert, roleKey  string // chatd's for the uplink
	tlsCert, tlsKey            string // of servers, for clients
	issuerKey                  string // file
	redisURL                   string
	redis                      *redis.Client
	vault                      agent
	vaultAddr, echoAddr        string
	closers                    []func()

	profiles string // where profiles go; empty: none are taken
	profiled int
}

func (w *world) onClose(f func()) { w.closers = append(w.closers, f) }

func (w *world) close() {
	for _, f := range slices.Backward(w.closers) {
		f()
	}
	w.closers = nil
}

// standIn lets package chatdtest, which is written for tests, make certificates,
// tickets and bundles for a program. Whatever would fail a test ends the benchmark.
type standIn struct {
	testing.TB // nil: what is not here is not called
	dir        string
	made       *int
}

type failure struct{ error }

func (standIn) Helper()                   {}
func (standIn) Fatal(args ...any)         { panic(failure{errors.New(fmt.Sprint(args...))}) }
func (standIn) Fatalf(f string, a ...any) { panic(failure{fmt.Errorf(f, a...)}) }

func (s standIn) TempDir() string {
	*s.made++
	dir := filepath.Join(s.dir, strconv.Itoa(*s.made))
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.Fatal(err)
	}
	return dir
}

// newWorld builds what is not given, makes the files, and starts Redis and the
// vault. w is to be closed whether there is an error or not.
func newWorld(ctx context.Context, chatd string) (w *world, err error) {
	w = &world{ctx: ctx, chatd: chatd}
	defer func() {
		if f, ok := recover().(failure); ok {
			err = f.error
		}
	}()
	if w.dir, err = os.MkdirTemp("", "relaybench-"); err != nil {
		return w, err
	}
	w.onClose(func() { os.RemoveAll(w.dir) })
	if w.self, err = os.Executable(); err != nil {
		return w, err
	}
	for _, step := range []func() error{w.build, w.files, w.startRedis, w.startVault} {
		if err := step(); err != nil {
			return w, err
		}
	}
	return w, nil
}

// build builds chatd as "make build" does, and the floors.
func (w *world) build() error {
	static := []string{"CGO_ENABLED=0"}
	if w.chatd == "" {
		w.chatd = filepath.Join(w.dir, "chatd")
		if err := build(w.ctx, static, "", w.chatd, "-trimpath", "chatvault/chatd"); err != nil {
			return err
		}
	}
	w.floors, w.doors = filepath.Join(w.dir, "floors"), filepath.Join(w.dir, "doors")
	floors, err := packageDir(w.ctx, "chatvault/chatd/internal/relaybench")
	if err != nil {
		return err
	}
	floors = filepath.Join(floors, "floors") // a module of its own
	if err := build(w.ctx, append(static, "GOWORK=off"), floors, w.floors, "-trimpath", "."); err != nil {
		return err
	}
	return buildDoor(w.ctx, w.dir, w.doors)
}

// packageDir is where the source of a package of this module is.
func packageDir(ctx context.Context, path string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		return "", fmt.Errorf("go list %s: %w", path, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func build(ctx context.Context, env []string, dir, to string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", to}, args...)...)
	cmd.Env, cmd.Dir = append(os.Environ(), env...), dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return nil
}

// files makes certificates, the bundle, and a ticket for each account.
func (w *world) files() error {
	t := standIn{dir: w.dir, made: new(int)}
	w.pki = chatdtest.NewPKI(t)
	w.caFile = w.pki.CAFile
	w.roleCert, w.roleKey = w.pki.Issue(uplink.ChatRole)
	w.tlsCert, w.tlsKey = w.pki.Issue("127.0.0.1")
	ca, err := os.ReadFile(w.caFile)
	if err != nil {
		return err
	}
	issuer, device := chatdtest.NewIssuer(t), chatdtest.NewDevice(t)
	w.issuerKey = issuer.Config[0].KeyFile
	pem, err := device.MarshalPEM()
	if err != nil {
		return err
	}
	var tickets bytes.Buffer
	now := time.Now()
	for i := range accounts {
		c := issuer.Claims(now, fmt.Sprintf("account-%d", i), device)
		c.Expires = now.Add(ticket.MaxLifetime)
		fmt.Fprintln(&tickets, issuer.Mint(c))
	}
	for name, b := range map[string][]byte{
		caFile: ca, deviceFile: pem, ticketsFile: tickets.Bytes(), "bundle": chatdtest.Bundle(t, 1),
	} {
		if err := os.WriteFile(filepath.Join(w.dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) startRedis() error {
	socket := filepath.Join(w.dir, "redis")
	p, err := start("redis-server", false, 0, "redis-server", "--port", "0", "--unixsocket", socket, "--dir", w.dir, "--save", "", "--appendonly", "no")
	if err != nil {
		return err
	}
	w.onClose(p.kill)
	w.redisURL = "unix://" + socket
	w.redis = redis.NewClient(&redis.Options{
		Network: "unix", Addr: socket, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, addr)
		},
	})
	w.onClose(func() { w.redis.Close() })
	return p.await(w.ctx, func(string) bool { return w.redis.Ping(w.ctx).Err() == nil })
}

func (w *world) startVault() error {
	cert, key := w.pki.Issue(uplink.VaultRole)
	p, err := start("vault", false, 1, w.self, "vault", w.caFile, cert, key)
	if err != nil {
		return err
	}
	w.onClose(p.kill)
	w.vault = agent{p}
	a, err := w.vault.ask(w.ctx, order{Do: "say"})
	w.vaultAddr, w.echoAddr = a.Addr, a.Echo
	return err
}

// clients starts a process that plays phones.
func (w *world) clients() (agent, error) {
	p, err := start("clients", false, 0, w.self, "clients", w.dir)
	return agent{p}, err
}

// server is a chatd or a floor, with its listener for the benchmark.
type server struct {
	*process
	kind        string
	addr, admin string
	tls         bool
}

// chatdOptions are what differs between chatds.
type chatdOptions struct {
	tls   bool
	ping  time.Duration // 0: so rarely that none is seen
	procs int           // GOMAXPROCS; 0: Go's own
}

// startChatd starts the real program. The limits that count frames and the
// connections of an address are off: a few addresses stand for everybody.
func (w *world) startChatd(o chatdOptions) (*server, error) {
	if o.ping == 0 {
		o.ping = 10 * time.Minute
	}
	settings := map[string]any{
		"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "admin-pprof": true,
		"vault": []string{w.vaultAddr}, "vault-ca": w.caFile, "vault-cert": w.roleCert, "vault-key": w.roleKey,
		"fleet": chatdtest.Fleet, "fleet-bundle": filepath.Join(w.dir, "bundle"),
		"issuers": []map[string]any{{"name": "app", "issuers": []string{"https://app.example"}, "key-file": w.issuerKey}},
		"redis":   w.redisURL, "ping": o.ping.String(),
		"limit": map[string]string{"ConnectionsPerIP": "off", "FramesPerConnection": "off"},
	}
	if o.tls {
		settings["tls-cert"], settings["tls-key"] = w.tlsCert, w.tlsKey
	}
	file, err := os.CreateTemp(w.dir, "chatd-*.yaml")
	if err != nil {
		return nil, err
	}
	err = json.NewEncoder(file).Encode(settings) // JSON is YAML
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	p, err := start("chatd", true, o.procs, w.chatd, "serve", "--config", file.Name())
	if err != nil {
		return nil, err
	}
	s := &server{process: p, kind: kindRelay, tls: o.tls}
	return s, s.ready(w.ctx)
}

func (s *server) ready(ctx context.Context) error {
	var listening, admin struct {
		Address string `json:"address"`
	}
	up := false
	err := s.await(ctx, func(line string) bool {
		var m struct {
			Msg     string `json:"msg"`
			Address string `json:"address"`
		}
		if json.Unmarshal([]byte(line), &m) == nil {
			switch m.Msg {
			case "listening":
				listening.Address = m.Address
			case "admin":
				admin.Address = m.Address
			case "uplink is up":
				up = true
			}
		}
		return listening.Address != "" && admin.Address != "" && up
	})
	s.addr, s.admin = listening.Address, admin.Address
	if err != nil {
		s.kill()
	}
	return err
}

// startFloor starts a floor: as package floors describes them, by kind.
func (w *world) startFloor(kind string, procs int, args ...string) (*server, error) {
	return w.startPlain(kind, procs, w.floors, append([]string{"-kind", kind}, args...)...)
}

// startPlain starts a server that says on stdout where it listens.
func (w *world) startPlain(name string, procs int, path string, args ...string) (*server, error) {
	p, err := start(name, false, procs, path, args...)
	if err != nil {
		return nil, err
	}
	s := &server{process: p, kind: kindWS}
	if name == "raw" {
		s.kind = kindRaw
	}
	var at struct {
		Address string `json:"address"`
		Admin   string `json:"admin"`
	}
	if err := p.said(w.ctx, "listening", &at); err != nil {
		p.kill()
		return nil, err
	}
	s.addr, s.admin = at.Address, at.Admin
	return s, nil
}

// startTLS starts a floor with TLS.
func (w *world) startTLS(kind string, procs int) (*server, error) {
	s, err := w.startFloor(kind, procs, "-cert", w.tlsCert, "-key", w.tlsKey)
	if err == nil {
		s.tls = true
	}
	return s, err
}
