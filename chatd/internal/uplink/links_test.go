package uplink

import (
	"crypto/tls"
	"errors"
	"testing"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
)

// several is a pool with n links to a vault.
func several(t *testing.T, n int) (*fixture, *chatdtest.Vault) {
	t.Helper()
	f := newFixture(t)
	vault := chatdtest.StartVault(t, f.pki, 1, VaultRole)
	f.start(func(c *Config) { c.Vaults, c.Links = []string{vault.Addr}, n })
	f.links(n)
	return f, vault
}

// links waits for so many.
func (f *fixture) links(n int) {
	f.t.Helper()
	chatdtest.Await(f.t, "all links are up", func() bool { l := f.pool.Load(); return l.Links == n && l.Missing == 0 })
}

// join has a new client on a link that the pool picks.
func (f *fixture) join() (*peer, Stream) {
	f.t.Helper()
	p := newPeer()
	s, err := f.pool.Pick().Join(p, [32]byte{})
	if err != nil {
		f.t.Fatal(err)
	}
	return p, s
}

func TestClientsAreSpreadOverTheLinks(t *testing.T) {
	f, vault := several(t, 3)
	on := map[*Link][]Stream{}
	for range 9 {
		_, s := f.join()
		on[s.Link()] = append(on[s.Link()], s)
	}
	for l, streams := range on {
		if len(streams) != 3 {
			t.Errorf("%d of 9 clients are on one of %d links", len(streams), len(on))
		}
		if l.Node() != vault.Hello.Node {
			t.Error("a link to another node")
		}
	}
	// Where clients leave, the next ones come, those with an ATTACH too.
	_, s := f.join()
	for l, streams := range on {
		if l == s.Link() {
			continue
		}
		streams[0].Leave(newPeer())
		if f.pool.Pick() != l || f.pool.Node(vault.Hello.Node) != l {
			t.Error("another link than that with the fewest clients")
		}
		f.join()
	}
	if n := len(f.up); n != 1 {
		t.Errorf("the node came %d times", n)
	}
}

func TestOneOfTwoLinksIsLost(t *testing.T) {
	f, vault := several(t, 2)
	one, s1 := f.join()
	two, s2 := f.join()
	if s1.Link() == s2.Link() {
		t.Fatal("both are on one link")
	}
	s1.Send(frame.Open{Tag: 1, Payload: []byte("x")}.Append(nil))
	id := (<-one.frames).(frame.Attach).Session
	session, _ := vault.Session(id)
	session.Link.Cut()
	<-one.lost
	if err := f.reason(); !errors.Is(err, ErrLost) {
		t.Errorf("it ended with %v", err)
	}
	if len(two.lost)+len(f.down) != 0 || f.pool.Node(vault.Hello.Node) == nil || f.pool.Load().Up != 1 {
		t.Error("the node has gone with one of its links")
	}
	s2.Send(frame.Open{Tag: 2, Payload: []byte("y")}.Append(nil))
	if a := (<-two.frames).(frame.Attach); a.Tag != 2 {
		t.Errorf("%+v", a)
	}
	f.links(2)
	if l := f.pool.Pick(); l == s1.Link() || l == s2.Link() {
		t.Error("the new link is not used")
	}
	vault.Drain()
	chatdtest.Await(t, "the drain", func() bool { l := f.pool.Load(); return l.Draining == 1 && l.Up == 0 && f.pool.Pick() == nil })
	if f.pool.Node(vault.Hello.Node) == nil {
		t.Error("nobody can attach at a node that drains")
	}
	vault.Stop()
	<-two.lost
	if n := <-f.down; n != vault.Hello.Node {
		t.Errorf("%x has gone", n)
	}
	chatdtest.Await(t, "both are missing", func() bool { return f.pool.Load() == Load{Down: 1, Missing: 2} })
	if len(f.up) != 1 || len(f.down) != 0 {
		t.Errorf("the node came %d times, and went %d times", len(f.up), 1+len(f.down))
	}
}

// New certificates are for the links that are made from then on.
func TestLinksAfterAReload(t *testing.T) {
	f, vault := several(t, 2)
	good := f.pool.tls.Load()
	bad := good.Clone()
	tried := make(chan struct{}, 100)
	bad.VerifyConnection = func(tls.ConnectionState) error {
		tried <- struct{}{}
		return errors.New("nobody is good enough")
	}
	f.pool.SetTLS(bad)
	stays, s := f.join()
	lost, _ := f.join()
	s.Send(frame.Open{Tag: 1, Payload: []byte("x")}.Append(nil))
	id := (<-stays.frames).(frame.Attach).Session
	session, _ := vault.Session(id)
	vault.CutBut(session.Link)
	<-lost.lost
	<-tried
	if f.pool.Pick() != s.Link() || len(stays.lost) != 0 {
		t.Error("the link that is there is not used")
	}
	f.pool.SetTLS(good)
	f.links(2)
	if len(stays.lost) != 0 {
		t.Error("a link that was up has ended")
	}
}
