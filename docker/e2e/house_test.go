// Package e2e plays whole stories against the real programs: chatd, vaultd on a
// SoftHSM token, a Redis, and the SDK, with a relay in between that can lie.
package e2e

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/docker/stack"
	"chatvault/protocol/backupfile"
	"chatvault/protocol/fleet"
	"chatvault/protocol/opaque"
	"chatvault/protocol/secret"
	"chatvault/protocol/ticket"
)

// cheap is the least KSF that clients accept: what is tested here is not Argon2.
var cheap = client.RegisterOptions{KSF: opaque.Argon2id{MemoryKiB: 19 << 10, Time: 2, Parallelism: 1}}

// binaries builds the programs once.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "chatvault-bin-")
	if err != nil {
		return "", err
	}
	return dir, stack.Build(context.Background(), dir)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := binaries(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// house is a running stack, with a relay in front of chatd that does as it is told.
type house struct {
	*stack.Stack
	t           *testing.T
	relay       *relay
	connectWait time.Duration // of phones; 0: the default
}

// bothRedis runs a test with the embedded Redis and with a real redis-server.
func bothRedis(t *testing.T, run func(t *testing.T, h *house), change ...func(*stack.Options)) {
	for name, kind := range map[string]stack.Redis{"embedded": stack.EmbeddedRedis, "redis-server": stack.RealRedis} {
		t.Run(name, func(t *testing.T) {
			run(t, start(t, append(change, func(o *stack.Options) { o.Redis = kind })...))
		})
	}
}

func start(t *testing.T, change ...func(*stack.Options)) *house {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, relay: newRelay(t)}
	o := stack.Options{Dir: t.TempDir(), BinDir: bin, ChatdArgs: []string{
		"--host", h.relay.addr(), "--drain", "5s",
		// The tests come from one address and few accounts.
		"--limit", "ConnectionsPerIP=off,OpensPerAccount=off,ConnectionsPerAccount=off,OpensPerDevice=off,ConnectionsPerDevice=off",
	}}
	for _, f := range change {
		f(&o)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if h.Stack, err = stack.Start(ctx, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, d := range []*stack.Daemon{h.Vault, h.Chatd} {
				log, _ := d.Logs()
				t.Logf("%s:\n%s", d.Name, log)
			}
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	h.relay.target.Store(ptr(h.ChatdAddr()))
	return h
}

func ptr[T any](v T) *T { return &v }

// phone is a device with a client of its own.
type phone struct {
	*client.Client
	h   *house
	key ticket.DeviceKey
	log *syncBuffer
}

func (h *house) phone(sub string) *phone {
	h.t.Helper()
	key, err := ticket.NewDeviceKey()
	if err != nil {
		h.t.Fatal(err)
	}
	return h.phoneOf(key, func(context.Context) (string, error) { return h.Ticket(sub, key.Thumbprint()) })
}

// phoneOf is a device whose tickets come from somewhere else.
func (h *house) phoneOf(key ticket.DeviceKey, tickets func(context.Context) (string, error)) *phone {
	h.t.Helper()
	b, err := os.ReadFile(h.PinsFile)
	if err != nil {
		h.t.Fatal(err)
	}
	pins, err := fleet.ParsePins(b)
	if err != nil {
		h.t.Fatal(err)
	}
	p := &phone{h: h, key: key, log: &syncBuffer{}}
	p.Client, err = client.New(client.Config{
		URL: h.relay.url(), Pins: pins, Device: key, Store: &client.MemStore{}, Tickets: tickets,
		// The machine is busy with the tests beside this one.
		Timeout: 5 * time.Minute, ConnectWait: h.connectWait,
		Logger: slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { p.Close() })
	return p
}

// password types a password: the SDK may wipe what it was given.
func password(s string) secret.Bytes { return secret.Bytes(s) }

func newKey() (k backupfile.BackupKey) {
	rand.Read(k.B[:])
	return k
}

// registered is a house in which anna has registered key under pw.
func (h *house) registered(sub, pw string) (key backupfile.BackupKey) {
	h.t.Helper()
	key = newKey()
	if _, err := h.phone(sub).Register(h.t.Context(), password(pw), key, cheap); err != nil {
		h.t.Fatal("register:", err)
	}
	return key
}

// syncBuffer collects what several goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = append(s.b, b...)
	return len(b), nil
}

func (s *syncBuffer) Bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]byte(nil), s.b...)
}

func (s *syncBuffer) String() string { return string(s.Bytes()) }
