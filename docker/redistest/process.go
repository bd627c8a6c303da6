// Package redistest starts, for tests, a Redis of each kind as real processes:
// one server, a master behind sentinels, a cluster. A test that needs one fails
// when this machine has no redis-server.
package redistest

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// Process is one redis-server, or one sentinel. It keeps nothing on disk
// but its part in a cluster.
type Process struct {
	// Socket is a Unix socket on which it answers too.
	Socket string

	dir    string
	config string // of a sentinel, which rewrites it
	args   []string
	admin  *redis.Client

	mu  sync.Mutex
	cmd *exec.Cmd

	logMu sync.Mutex
	log   bytes.Buffer
}

// Write takes what the process says.
func (p *Process) Write(b []byte) (int, error) {
	p.logMu.Lock()
	defer p.logMu.Unlock()
	return p.log.Write(b)
}

func (p *Process) text() string {
	p.logMu.Lock()
	defer p.logMu.Unlock()
	return p.log.String()
}

// Start starts a redis-server with these arguments, for one test.
func Start(t testing.TB, args ...string) *Process {
	t.Helper()
	p := newProcess(t, args...)
	t.Cleanup(p.close)
	p.Start(t)
	return p
}

// FreePort finds a port of loopback.
func FreePort(t testing.TB) string { t.Helper(); return freePorts(t, 1)[0] }

func newProcess(t testing.TB, args ...string) *Process {
	t.Helper()
	// A Unix socket's path has 107 bytes at most: t.TempDir() may be longer.
	dir, err := os.MkdirTemp("", "chatvault-redis-")
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{Socket: filepath.Join(dir, "s"), dir: dir, args: args}
	o := &redis.Options{Network: "unix", Addr: p.Socket, ContextTimeoutEnabled: true, MaxRetries: -1}
	for i, arg := range args {
		if arg == "--requirepass" {
			o.Password = args[i+1]
		}
	}
	p.admin = redis.NewClient(o)
	return p
}

// Start starts it, again if it was stopped, without any key, and returns when
// it answers.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var args []string
	if p.config != "" {
		file := filepath.Join(p.dir, "sentinel.conf")
		if err := os.WriteFile(file, []byte(p.config), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, file)
	}
	args = append(append(args, p.args...), "--unixsocket", p.Socket, "--dir", p.dir)
	if p.config == "" {
		args = append(args, "--save", "", "--appendonly", "no")
	}
	p.cmd = exec.Command("redis-server", args...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = dieWithParent()
	if err := start(p.cmd); err != nil {
		t.Fatalf("this test needs redis-server (Debian: apt-get install redis-server): %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for p.admin.Ping(ctx).Err() != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.kill()
			t.Fatalf("redis-server does not answer:\n%s", p.text())
		}
	}
}

// Do asks this very process.
func (p *Process) Do(t testing.TB, args ...any) any {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v, err := p.admin.Do(ctx, args...).Result()
	if err != nil {
		t.Fatalf("redis-server: %v: %v", args, err)
	}
	return v
}

// Info is a section of INFO.
func (p *Process) Info(t testing.TB, section string) string {
	t.Helper()
	return p.Do(t, "INFO", section).(string)
}

// IsMaster says whether it takes writes.
func (p *Process) IsMaster(t testing.TB) bool {
	t.Helper()
	return strings.Contains(p.Info(t, "replication"), "role:master")
}

// Kill kills it, as a crash would.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kill()
}

func (p *Process) kill() {
	if p.cmd != nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		p.cmd = nil
	}
}

// Pause stops it in its tracks: it keeps its connections and answers nothing.
func (p *Process) Pause(t testing.TB) { t.Helper(); p.signal(t, syscall.SIGSTOP) }

// Resume lets it go on.
func (p *Process) Resume(t testing.TB) { t.Helper(); p.signal(t, syscall.SIGCONT) }

func (p *Process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("redis-server: %v", err)
	}
}

func (p *Process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kill()
	p.admin.Close()
	os.RemoveAll(p.dir)
}

// freePorts finds ports of loopback that nobody listens on. Another program
// may take one before it is used; then redis-server says so.
func freePorts(t testing.TB, n int) []string {
	t.Helper()
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // together, so that they differ
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	return ports
}
