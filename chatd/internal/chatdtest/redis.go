// Package chatdtest starts what chatd's tests need: a Redis of either kind, a
// certificate authority, an issuer of tickets, a vault that answers.
package chatdtest

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Redises connects to an empty Redis of each kind, by name. Every suite about
// Redis runs over both.
var Redises = map[string]func(testing.TB) *redis.Client{
	"redis-server": func(t testing.TB) *redis.Client { return StartRedis(t, "").Client(t) },
	"embedded": func(t testing.TB) *redis.Client {
		m := miniredis.RunT(t)
		return client(t, &redis.Options{Addr: m.Addr()})
	},
}

// RedisServer is a real redis-server of its own.
type RedisServer struct {
	Socket string
	// Password, if not empty, is wanted of every client.
	Password string

	mu  sync.Mutex
	cmd *exec.Cmd
	out *bytes.Buffer
}

// StartRedis starts a redis-server on a Unix socket, and fails the test when
// this machine has none.
func StartRedis(t testing.TB, password string) *RedisServer {
	t.Helper()
	// A Unix socket's path has 107 bytes at most: t.TempDir() may be longer.
	dir, err := os.MkdirTemp("", "chatd-redis-")
	if err != nil {
		t.Fatal(err)
	}
	s := &RedisServer{Socket: filepath.Join(dir, "s"), Password: password}
	t.Cleanup(func() {
		s.Stop(t)
		os.RemoveAll(dir)
	})
	s.Start(t)
	return s
}

// URL is how --redis names it.
func (s *RedisServer) URL() string { return "unix://" + s.Socket }

// Client connects to it.
func (s *RedisServer) Client(t testing.TB) *redis.Client {
	return client(t, &redis.Options{Network: "unix", Addr: s.Socket, Password: s.Password})
}

// Start starts it, again if it was stopped, without any key.
func (s *RedisServer) Start(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = new(bytes.Buffer)
	s.cmd = exec.Command("redis-server", "--port", "0", "--unixsocket", s.Socket,
		"--dir", filepath.Dir(s.Socket), "--save", "", "--appendonly", "no", "--requirepass", s.Password)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("this test needs redis-server (Debian: apt-get install redis-server): %v", err)
	}
	s.await(t)
}

// await returns as soon as the server answers.
func (s *RedisServer) await(t testing.TB) {
	t.Helper()
	probe := redis.NewClient(quiet(&redis.Options{Network: "unix", Addr: s.Socket, Password: s.Password}))
	defer probe.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if probe.Ping(ctx).Err() == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("redis-server does not answer")
		}
	}
}

// Stop kills it, as a crash would.
func (s *RedisServer) Stop(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Kill(); err != nil {
		t.Errorf("stopping redis-server: %v", err)
	}
	s.cmd.Wait()
	s.cmd = nil
}

func client(t testing.TB, o *redis.Options) *redis.Client {
	c := redis.NewClient(quiet(o))
	t.Cleanup(func() { c.Close() })
	return c
}

func quiet(o *redis.Options) *redis.Options {
	o.ContextTimeoutEnabled = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, addr)
	}
	return o
}
