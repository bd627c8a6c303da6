package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
	"chatvault/protocol/frame"
)

func TestNamesAreResolvedAgain(t *testing.T) {
	f := newFixture(t)
	fake := clock.NewFake(time.Unix(1_700_000_000, 0))
	vault := chatdtest.StartVault(t, f.pki, 1, VaultRole)
	var mu sync.Mutex
	var ips []string
	var fault error
	asked := make(chan struct{}, 100)
	_, port, err := net.SplitHostPort(vault.Addr)
	if err != nil {
		t.Fatal(err)
	}
	f.start(func(c *Config) {
		c.Vaults, c.Clock = []string{"vaults.internal:" + port}, fake
		c.Resolve = func(_ context.Context, host string) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			asked <- struct{}{}
			if host != "vaults.internal" {
				t.Errorf("resolved %q", host)
			}
			return ips, fault
		}
	})
	change := func(to []string, err error) {
		mu.Lock()
		ips, fault = to, err
		mu.Unlock()
		awaitTimer(t, fake, 2) // the resolver's and the wheel's
		for len(asked) > 0 {
			<-asked
		}
		for range resolveEvery / pingEvery {
			fake.Advance(pingEvery)
			if l := f.pool.Node(vault.Hello.Node); l != nil {
				l.conn.at.Store(fake.Now().UnixNano()) // in fake time, the pong is late
			}
		}
		<-asked
	}
	<-asked
	change([]string{"127.0.0.1"}, nil)
	if addr := <-f.up; addr != vault.Addr {
		t.Errorf("dialled %s", addr)
	}
	link := f.pool.Pick()
	change(nil, errors.New("no such host"))
	if f.pool.Pick() != link {
		t.Error("an outage of DNS cut a vault off")
	}
	change([]string{"127.0.0.2"}, nil)
	chatdtest.Await(t, "the old address takes no new sessions", func() bool { return f.pool.Pick() == nil })
	if f.pool.Node(vault.Hello.Node) != link {
		t.Error("its sessions were cut off")
	}
}

// TestANodeThatRestarted: whoever asks for its sessions need not wait for it.
func TestANodeThatRestarted(t *testing.T) {
	f := newFixture(t)
	vault := chatdtest.StartVault(t, f.pki, 1, VaultRole)
	f.start(func(c *Config) { c.Vaults = []string{vault.Addr} })
	<-f.up
	before := vault.Hello.Node
	vault.Cut()
	f.reason()
	<-f.up
	if f.pool.Over(before) {
		t.Error("a node that is linked again is over")
	}
	vault.Stop()
	f.reason()
	if f.pool.Over(before) {
		t.Error("a node that may come back is over")
	}
	vault.Hello.Node = frame.NodeID{9}
	vault.Start()
	<-f.up
	if !f.pool.Over(before) || f.pool.Over(vault.Hello.Node) || f.pool.Over(frame.NodeID{7}) {
		t.Error("the node that was there before is over, and no other")
	}
}

// Another address of a linked node is not missed, nor dialled again before the node
// may have moved; and at once when the first address has lost its last link.
func TestTwoAddressesOfOneNode(t *testing.T) {
	for links := range MaxLinks + 1 {
		f := newFixture(t)
		fake := clock.NewFake(time.Unix(1_700_000_000, 0))
		a, b := chatdtest.StartVault(t, f.pki, 1, VaultRole), chatdtest.StartVault(t, f.pki, 1, VaultRole)
		var dialled atomic.Int32
		f.start(func(c *Config) {
			c.Vaults, c.Links, c.Clock = []string{a.Addr, b.Addr}, links, fake
			c.TLS.VerifyConnection = func(tls.ConnectionState) error { dialled.Add(1); return nil }
		})
		links = max(links, 1) // what 0 means
		first := <-f.up
		if err := f.reason(); !errors.Is(err, errDuplicate) {
			t.Errorf("the second one ended with %v", err)
		}
		chatdtest.Await(t, "nothing is missing", func() bool { return f.pool.Load() == Load{Up: 1, Links: links} })
		fake.Advance(resolveEvery - time.Second)
		if n := dialled.Load(); n != int32(links)+1 {
			t.Errorf("%d links: dialled %d times", links, n)
		}
		if first == a.Addr {
			a.Stop()
		} else {
			b.Stop()
		}
		// The clock stands still.
		if second := <-f.up; second == first {
			t.Errorf("%s came back from the dead", second)
		}
		chatdtest.Await(t, "its links", func() bool { return f.pool.Load().Links == links })
		if l := f.pool.Load(); l.Missing != links || l.Down != 1 {
			t.Errorf("%+v, but nobody is at the first address", l)
		}
	}
}

// A node without a place for more links is not asked again at once: who has none
// comes first. Nor is one without a first link asked for more.
func TestMoreLinksComeAfterTheFirst(t *testing.T) {
	first, more := &keeper{}, &keeper{slot: slot{number: 1}}
	for range 100 {
		if d := first.pause(ErrHello, 9); d > backoffMost {
			t.Errorf("the first link waits %v", d)
		}
		if d := more.pause(ErrHello, 0); d < refusedMost/2 || d > refusedMost {
			t.Errorf("another link waits %v", d)
		}
	}
	f := newFixture(t)
	vault := chatdtest.StartVault(t, f.pki, 1, VaultRole)
	open := make(chan struct{})
	var dialled atomic.Int32
	f.start(func(c *Config) {
		c.Vaults, c.Links = []string{vault.Addr}, MaxLinks
		c.TLS.VerifyConnection = func(tls.ConnectionState) error { dialled.Add(1); <-open; return nil }
	})
	chatdtest.Await(t, "a dial", func() bool { return dialled.Load() > 0 })
	if n := dialled.Load(); n != 1 {
		t.Errorf("%d dial at once", n)
	}
	close(open)
	f.links(MaxLinks)
}

func TestLearnedAddresses(t *testing.T) {
	f := newFixture(t)
	vault := chatdtest.StartVault(t, f.pki, 2, VaultRole)
	f.start(func(*Config) {})
	chatdtest.Await(t, "the pool runs", func() bool { f.pool.mu.Lock(); defer f.pool.mu.Unlock(); return f.pool.ctx != nil })
	if l := f.pool.Learn(t.Context(), frame.NodeID{9}, vault.Addr); l != nil {
		t.Error("a forged address led to another node, and it was taken for the one asked for")
	}
	l := f.pool.Learn(t.Context(), vault.Hello.Node, vault.Addr)
	if l == nil || f.pool.Node(vault.Hello.Node) != l || f.pool.Pick() != nil {
		t.Errorf("learned %p, node %p, picked %p", l, f.pool.Node(vault.Hello.Node), f.pool.Pick())
	}
	vault.Stop()
	<-f.down
	chatdtest.Await(t, "it is forgotten", func() bool { f.pool.mu.Lock(); defer f.pool.mu.Unlock(); return len(f.pool.keepers) == 0 })
	if l := f.pool.Learn(t.Context(), vault.Hello.Node, vault.Addr); l != nil {
		t.Error("learned an address where nobody is")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if l := f.pool.Learn(ctx, vault.Hello.Node, vault.Addr); l != nil {
		t.Error("learned after the caller had left")
	}
}
