package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
)

// fixture is a pool with its authority.
type fixture struct {
	t    *testing.T
	pki  *chatdtest.PKI
	pool *Pool
	up   chan string // addresses
	down chan frame.NodeID
	logs chan slog.Record
	stop func()
}

func newFixture(t *testing.T) *fixture {
	return &fixture{
		t: t, pki: chatdtest.NewPKI(t),
		up: make(chan string, 100), down: make(chan frame.NodeID, 100), logs: make(chan slog.Record, 1000),
	}
}

// Handle implements slog.Handler.
func (f *fixture) Handle(_ context.Context, r slog.Record) error { f.logs <- r; return nil }
func (f *fixture) Enabled(context.Context, slog.Level) bool      { return true }
func (f *fixture) WithAttrs([]slog.Attr) slog.Handler            { return f }
func (f *fixture) WithGroup(string) slog.Handler                 { return f }

func (f *fixture) start(change func(*Config)) {
	f.t.Helper()
	certFile, keyFile := f.pki.Issue(ChatRole)
	config, err := LoadTLS(f.pki.CAFile, certFile, keyFile)
	if err != nil {
		f.t.Fatal(err)
	}
	cfg := Config{
		Fleet: chatdtest.Fleet, TLS: config, Clock: clock.System{}, Log: slog.New(f),
		Up:   func(_ frame.NodeID, addr string) { f.up <- addr },
		Down: func(n frame.NodeID) { f.down <- n },
	}
	change(&cfg)
	cfg.Wheel = wheel.New(cfg.Clock)
	f.t.Cleanup(cfg.Wheel.Stop)
	f.pool = NewPool(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.pool.Run(ctx)
	}()
	f.stop = sync.OnceFunc(func() { cancel(); <-done })
	f.t.Cleanup(f.stop)
}

// reason waits until an uplink is said to be down, and returns why.
func (f *fixture) reason() error {
	f.t.Helper()
	late := time.After(time.Minute)
	for {
		select {
		case r := <-f.logs:
			var why error
			r.Attrs(func(a slog.Attr) bool {
				if a.Key == "reason" {
					why, _ = a.Value.Any().(error)
				}
				return true
			})
			if r.Message == "uplink is down" {
				return why
			}
		case <-late:
			f.t.Fatal("no uplink went down")
		}
	}
}

// peer is a client's connection.
type peer struct {
	frames chan frame.Frame
	lost   chan struct{}
}

func newPeer() *peer { return &peer{make(chan frame.Frame, 100), make(chan struct{}, 2)} }

func (p *peer) Deliver(_ *Link, raw []byte) error {
	f, err := frame.Parse(append([]byte(nil), raw...))
	if err != nil {
		return err
	}
	p.frames <- f
	return nil
}

func (p *peer) Lost(*Link) { p.lost <- struct{}{} }

func TestFramesGoBothWays(t *testing.T) {
	f := newFixture(t)
	vault := chatdtest.StartVault(t, f.pki, 1, VaultRole)
	f.start(func(c *Config) { c.Vaults = []string{vault.Addr} })
	<-f.up
	link := f.pool.Pick()
	if link == nil || link != f.pool.Node(vault.Hello.Node) {
		t.Fatalf("picked %p, node %p", link, f.pool.Node(vault.Hello.Node))
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			p := newPeer()
			s, err := link.Join(p, [32]byte{byte(i)})
			if err != nil {
				t.Error(err)
				return
			}
			s.Send(frame.Open{Tag: uint32(i), Payload: []byte{byte(i)}}.Append(nil))
			a := (<-p.frames).(frame.Attach)
			if a.Tag != uint32(i) {
				t.Errorf("peer %d got the answer to %d", i, a.Tag)
			}
			<-p.frames
			for n := range uint32(20) {
				s.Send(frame.Data{Session: a.Session, Sequence: n, Payload: []byte{byte(i)}}.Append(nil))
				if d := (<-p.frames).(frame.Data); d.Sequence != n || d.Payload[0] != byte(i) {
					t.Errorf("peer %d got %+v", i, d)
				}
			}
			s.Leave(newPeer())
		})
	}
	wg.Wait()
	vault.Await("everybody has gone", func(v *chatdtest.VaultState) bool {
		return v.Count(func(f frame.Frame) bool { return f.Type() == frame.TUplinkGone }) == 50
	})
	f.stop()
	if _, err := link.Join(newPeer(), [32]byte{}); !errors.Is(err, ErrLost) {
		t.Errorf("joined a closed link: %v", err)
	}
}

func TestWhoIsNotAVaultOfThisFleet(t *testing.T) {
	for name, c := range map[string]struct {
		role  string
		hello func(h *frame.UplinkHello)
		want  error // nil: any error of TLS
	}{
		"a certificate of another role":  {role: ChatRole},
		"a certificate for its address":  {role: "127.0.0.1"},
		"another fleet":                  {VaultRole, func(h *frame.UplinkHello) { h.Fleet = "other" }, ErrFleet},
		"another version":                {VaultRole, func(h *frame.UplinkHello) { h.Version = frame.UplinkVersion - 1 }, ErrVersion},
		"no node id":                     {VaultRole, func(h *frame.UplinkHello) { h.Node = frame.NodeID{} }, ErrHello},
		"a certificate of its own maker": {role: "own"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			pki := f.pki
			if c.role == "own" {
				pki, c.role = chatdtest.NewPKI(t), VaultRole
			}
			vault := chatdtest.StartVault(t, pki, 1, c.role)
			if c.hello != nil {
				c.hello(&vault.Hello)
			}
			f.start(func(cfg *Config) { cfg.Vaults = []string{vault.Addr} })
			if err := f.reason(); err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("refused with %v, want %v", err, c.want)
			}
			if f.pool.Pick() != nil {
				t.Error("it is used")
			}
		})
	}
}

func TestLoadTLSWantsTheRole(t *testing.T) {
	pki := chatdtest.NewPKI(t)
	certFile, keyFile := pki.Issue("somebody")
	if _, err := LoadTLS(pki.CAFile, certFile, keyFile); err == nil {
		t.Error("a certificate without the role was accepted")
	}
	if _, err := LoadTLS(keyFile, certFile, keyFile); err == nil {
		t.Error("a key was accepted for an authority")
	}
	if _, err := LoadTLS("nowhere", certFile, keyFile); err == nil {
		t.Error("no authority was accepted")
	}
}

func TestLostAndBack(t *testing.T) {
	f := newFixture(t)
	vault := chatdtest.StartVault(t, f.pki, 1, VaultRole)
	f.start(func(c *Config) { c.Vaults = []string{vault.Addr} })
	<-f.up
	p, left, heir := newPeer(), newPeer(), newPeer()
	old := f.pool.Pick()
	s, err := old.Join(p, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := old.Join(left, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	gone.Leave(heir)
	vault.Cut()
	<-p.lost
	<-heir.lost
	if err := s.Send(frame.Notice{}.Append(nil)); !errors.Is(err, ErrLost) {
		t.Errorf("sending on a lost link: %v", err)
	}
	if err := f.reason(); !errors.Is(err, ErrLost) {
		t.Errorf("it ended with %v", err)
	}
	<-f.up
	if l := f.pool.Pick(); l == nil || l == old {
		t.Errorf("picked %p, the old one was %p", l, old)
	}
	if len(p.lost)+len(left.lost) != 0 {
		t.Error("somebody was told twice, or after leaving")
	}
}

// awaitTimer waits until the pool's goroutines have set so many timers.
func awaitTimer(t *testing.T, fake *clock.Fake, n int) {
	t.Helper()
	chatdtest.Await(t, fmt.Sprintf("%d timers", n), func() bool { return fake.Pending() >= n })
}

func TestChatdAnswersPings(t *testing.T) {
	f := newFixture(t)
	vault := chatdtest.StartVault(t, f.pki, 1, VaultRole)
	f.start(func(c *Config) { c.Vaults = []string{vault.Addr} })
	<-f.up
	vault.Broadcast(0, frame.UplinkPing{})
	vault.Await("a pong", func(v *chatdtest.VaultState) bool {
		return v.Count(func(f frame.Frame) bool { return f.Type() == frame.TUplinkPong }) == 1
	})
}

func TestABrokenProtocolEndsTheLink(t *testing.T) {
	for name, send := range map[string]func(*chatdtest.Vault){
		"a client's frame on connection 0": func(v *chatdtest.Vault) { v.Broadcast(0, frame.Notice{}) },
		"a second hello":                   func(v *chatdtest.Vault) { v.Broadcast(0, v.Hello) },
		"a connection that never was":      func(v *chatdtest.Vault) { v.Broadcast(77, frame.Notice{}) },
		"what a peer refuses":              func(v *chatdtest.Vault) { v.Broadcast(1, frame.UplinkDrain{}) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			vault := chatdtest.StartVault(t, f.pki, 1, VaultRole)
			f.start(func(c *Config) { c.Vaults = []string{vault.Addr} })
			<-f.up
			p := newPeer()
			if _, err := f.pool.Pick().Join(p, [32]byte{}); err != nil {
				t.Fatal(err)
			}
			send(vault)
			if err := f.reason(); !errors.Is(err, ErrProtocol) {
				t.Errorf("it ended with %v", err)
			}
			<-p.lost
		})
	}
}
