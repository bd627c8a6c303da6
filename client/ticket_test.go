package client_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"chatvault/client"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

func (f *fakeRelay) ticketsFor(d ticket.DeviceKey, subject string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return f.mint(d, subject, 10*time.Minute), nil }
}

// A connection that lives for hours authenticates again before each ticket ends,
// and is never made anew.
func TestTicketIsRenewedOnTheLiveConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		var rings atomic.Int32
		p := f.phone(func(c *client.Config) { c.Notice = func() { rings.Add(1) } })
		ctx, cancel := context.WithCancel(t.Context())
		watching := make(chan error)
		go func() { watching <- p.Watch(ctx) }()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := f.count(&f.dials); n != 1 {
			t.Errorf("%d connections", n)
		}
		if auths, tickets := f.count(&f.auths), int(p.tickets.Load()); auths != tickets || auths < 12 || auths > 16 {
			t.Errorf("%d AUTH with %d tickets of ten minutes in two hours", auths, tickets)
		}
		f.broadcast(frame.Notice{})
		synctest.Wait()
		if rings.Load() != 1 {
			t.Errorf("%d notices heard", rings.Load())
		}
		cancel()
		if err := <-watching; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestWatchReconnects(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		ctx, cancel := context.WithCancel(t.Context())
		watching := make(chan error)
		go func() { watching <- p.Watch(ctx) }()
		for range 5 {
			time.Sleep(time.Minute)
			f.cutAll()
		}
		f.unplug()
		time.Sleep(10 * time.Minute)
		f.plug()
		time.Sleep(time.Minute)
		synctest.Wait()
		// The first, one after each cut but the last, one after the outage.
		if n := f.count(&f.auths); n != 6 {
			t.Errorf("%d connections, want 6", n)
		}
		// Full jitter up to 20 s: about sixty tries in ten minutes.
		if n := f.count(&f.dials); n < 30 || n > 150 {
			t.Errorf("%d dials", n)
		}
		cancel()
		<-watching
	})
}

func TestWatchEndsWhenTheRelayRefusesForGood(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		f.mu.Lock()
		f.onAuth = func(frame.Auth) frame.Frame {
			return frame.Refuse{Refused: frame.TAuth, Status: frame.NotAuthorised}
		}
		f.mu.Unlock()
		wantError(t, p.Watch(t.Context()), client.ErrNotAuthorised)
	})
}

func TestTicketRefusedByTheRelayIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		refused := 0
		f.mu.Lock()
		f.onAuth = func(frame.Auth) frame.Frame {
			if refused++; refused == 1 {
				return frame.Refuse{Refused: frame.TAuth, Status: frame.TicketExpired}
			}
			return nil
		}
		f.mu.Unlock()
		if _, err := p.Status(t.Context()); err != nil || p.tickets.Load() != 2 {
			t.Errorf("%v with %d tickets", err, p.tickets.Load())
		}
	})
}

func TestTicketRefusedByTheVaultIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		p.register(t, "pw")
		for _, kind := range []vaultmsg.Kind{vaultmsg.KAuthorise, vaultmsg.KRecoverStart, vaultmsg.KRecoverFinish} {
			refused := false
			f.vault.do(func() {
				f.vault.before = func(r vaultmsg.Request) *vaultmsg.Reply {
					if r.Kind() == kind && !refused {
						refused = true
						return &vaultmsg.Reply{Status: frame.TicketExpired}
					}
					return nil
				}
			})
			before := p.tickets.Load()
			if _, err := p.Recover(t.Context(), []byte("pw")); err != nil || p.tickets.Load() != before+1 {
				t.Errorf("kind %d: %v with %d more tickets", kind, err, p.tickets.Load()-before)
			}
		}
		if n := f.vault.charges(); n != 3 {
			t.Errorf("%d charges for three recoveries", n)
		}
	})
}

func TestTicketsThatCannotWork(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		device, other := testDevice(t), testDevice(t)
		mint := func(change func(*ticket.Claims)) string {
			c := ticket.Claims{
				Issuer: "https://app.example", Subject: "alice", Audience: []string{testFleet},
				IssuedAt: time.Now(), Expires: time.Now().Add(time.Minute), Device: device.Thumbprint(),
			}
			change(&c)
			s, err := ticket.Mint(f.vault.issuer, "", c)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		down := errors.New("backend is down")
		for _, c := range []struct {
			name  string
			fetch func(context.Context) (string, error)
			want  error
			dials int
		}{
			{"callback fails", func(context.Context) (string, error) { return "", down }, down, 2},
			{"no ticket", func(context.Context) (string, error) { return "", nil }, ticket.ErrMalformed, 2},
			{"another device's", f.ticketsFor(other, "alice"), ticket.ErrDevice, 2},
			{"another fleet's", func(context.Context) (string, error) {
				return mint(func(c *ticket.Claims) { c.Audience = []string{"elsewhere"} }), nil
			}, ticket.ErrAudience, 2},
		} {
			p := f.phone(func(cfg *client.Config) { cfg.Device, cfg.Tickets = device, c.fetch })
			before := f.count(&f.auths)
			_, err := p.Status(t.Context())
			if wantError(t, err, client.ErrNotAuthorised); !errors.Is(err, c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
			if n := f.count(&f.auths) - before; n != 0 {
				t.Errorf("%s: sent to the relay", c.name)
			}
		}
		// The same ended ticket again and again.
		calls := 0
		ended := mint(func(*ticket.Claims) {})
		time.Sleep(time.Hour)
		p := f.phone(func(cfg *client.Config) {
			cfg.Device = device
			cfg.Tickets = func(context.Context) (string, error) { calls++; return ended, nil }
		})
		_, err := p.Status(t.Context())
		wantError(t, err, client.ErrTicketExpired)
		wantError(t, err, client.ErrNotAuthorised)
		if calls > 3 {
			t.Errorf("asked %d times", calls)
		}
	})
}

// A phone whose clock is hours off works as long as the bundle has not ended for
// it.
func TestClockOff(t *testing.T) {
	for _, off := range []time.Duration{-5 * time.Hour, 5 * time.Hour} {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			f.mu.Lock()
			f.skew = off
			f.mu.Unlock()
			p := f.phone()
			ctx, cancel := context.WithCancel(t.Context())
			watching := make(chan error)
			go func() { watching <- p.Watch(ctx) }()
			for range 60 {
				if _, err := p.Status(t.Context()); err != nil {
					t.Fatalf("%s off: %v", off, err)
				}
				time.Sleep(time.Minute)
			}
			if n := p.tickets.Load(); n < 6 || n > 8 {
				t.Errorf("%s off: %d tickets of ten minutes in an hour", off, n)
			}
			cancel()
			<-watching
		})
	}
}

func TestGoawayMovesTheSession(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "pw")
		opens, told := f.count(&f.opens), false
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == up && data.Sequence == 2 && !told {
				told = true
				f.broadcast(frame.Goaway{Status: frame.Draining, ReconnectMillis: 1500})
				return drop // it drains, and does not relay any more
			}
			return pass
		})
		begin := time.Now()
		got, err := p.Recover(t.Context(), []byte("pw"))
		if err != nil || !got.Key.Equal(key.Key) {
			t.Fatal(err)
		}
		if d := time.Since(begin); d < 1500*time.Millisecond || d > 3*time.Second {
			t.Errorf("moved after %s", d)
		}
		if o, a := f.count(&f.opens)-opens, f.count(&f.attaches); o != 1 || a != 1 {
			t.Errorf("%d OPEN, %d ATTACH", o, a)
		}
	})
}

// A connection that was asked to leave begins nothing: the next operation makes
// another one, not before the relay's delay is over.
func TestGoawayWhileIdle(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		if _, err := p.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		auths := f.count(&f.auths)
		begin := time.Now()
		f.broadcast(frame.Goaway{Status: frame.Draining, ReconnectMillis: 4000})
		synctest.Wait()
		if _, err := p.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d < 4*time.Second || d > 6*time.Second || f.count(&f.auths) != auths+1 {
			t.Errorf("%d connections, after %s", f.count(&f.auths), d)
		}
	})
}

// A relay that loses its uplink says no_vault; the vault and the session may
// still be there.
func TestLostUplinkIsAttachedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "pw")
		opens, lost := f.count(&f.opens), false
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == up && data.Sequence == 3 && !lost {
				lost = true
				f.broadcast(frame.Close{Session: data.Session, Status: frame.NoVault})
				f.broadcast(frame.Refuse{Refused: frame.TData, Session: data.Session, Status: frame.NoSession})
				return drop
			}
			return pass
		})
		got, err := p.Recover(t.Context(), []byte("pw"))
		if err != nil || !got.Key.Equal(key.Key) {
			t.Fatal(err)
		}
		if o, a := f.count(&f.opens)-opens, f.count(&f.attaches); o != 1 || a != 1 || f.count(&f.auths) != 1 {
			t.Errorf("%d OPEN, %d ATTACH, %d AUTH", o, a, f.auths)
		}
	})
}

func TestSilentRelayIsGivenUp(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		ctx, cancel := context.WithCancel(t.Context())
		watching := make(chan error)
		go func() { watching <- p.Watch(ctx) }()
		time.Sleep(time.Hour) // pings are answered
		synctest.Wait()
		if n := f.count(&f.dials); n != 1 {
			t.Errorf("%d connections while pings are answered", n)
		}
		f.mu.Lock()
		f.mute = true
		f.mu.Unlock()
		time.Sleep(2 * time.Minute) // longer than two pings
		synctest.Wait()
		if n := f.count(&f.dials); n != 2 {
			t.Errorf("%d connections after a relay fell silent", n)
		}
		cancel()
		<-watching
	})
}

func TestTLSIsRequired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRelay(t)
		good := f.phone().cfg
		for _, url := range []string{"ws://relay.example/v1/ws", "http://localhost/v1/ws", "wss:///v1/ws", "wss://a@b/v1/ws", "wss://b/v1/ws?ticket=1", "localhost"} {
			cfg := good
			cfg.URL = url
			if _, err := client.New(cfg); err == nil {
				t.Errorf("%s was accepted", url)
			}
		}
		for _, url := range []string{"ws://127.0.0.1:8080", "ws://[::1]/v1/ws", "wss://relay.example", "wss://relay.example/base/v1/ws"} {
			cfg := good
			cfg.URL = url
			if _, err := client.New(cfg); err != nil {
				t.Errorf("%s: %v", url, err)
			}
		}
		cfg := good
		cfg.URL, cfg.AllowInsecure = "ws://relay.example/v1/ws", true
		if _, err := client.New(cfg); err != nil {
			t.Error(err)
		}
	})
}
