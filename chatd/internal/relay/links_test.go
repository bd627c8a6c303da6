package relay

import (
	"testing"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/frame"
)

// twoLinks is a relay with two uplinks to one vault.
func twoLinks(t *testing.T) (*house, *chatdtest.Vault) {
	t.Helper()
	h, vault := simple(t, func(s *setup) { s.links = 2 })
	poll(t, "both uplinks are up", func() bool { return h.relay.Vaults.Load().Links == 2 })
	return h, vault
}

// linkOf is the uplink that the session is attached by, seen from the vault.
func linkOf(t *testing.T, v *chatdtest.Vault, id frame.SessionID) *chatdtest.VaultLink {
	t.Helper()
	s, there := v.Session(id)
	if !there || s.Link == nil {
		t.Fatalf("no session, or detached: %+v", s)
	}
	return s.Link
}

func TestALostLinkEndsItsOwnSessionsOnly(t *testing.T) {
	h, vault := twoLinks(t)
	type client struct {
		*chatdtest.Client
		session frame.SessionID
	}
	on := map[*chatdtest.VaultLink][]client{}
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		c := h.phone(name)
		s := c.Open(1, "x")
		on[linkOf(t, vault, s)] = append(on[linkOf(t, vault, s)], client{c, s})
	}
	if len(on) != 2 {
		t.Fatalf("all sessions are on one of two uplinks")
	}
	var cut *chatdtest.VaultLink
	for l, clients := range on {
		if len(clients) != 2 {
			t.Errorf("%d of 4 sessions are on one of two uplinks", len(clients))
		}
		cut = l
	}
	cut.Cut()
	for l, clients := range on {
		for _, c := range clients {
			if l != cut {
				c.Echo(c.session, 1, "nothing has happened")
				continue
			}
			if f := chatdtest.Expect[frame.Close](c.Client); f.Session != c.session || f.Status != frame.NoVault {
				t.Errorf("%+v", f)
			}
			// At once: the other link is there.
			c.Send(frame.Attach{Tag: 2, Session: c.session})
			if a := chatdtest.Expect[frame.Attach](c.Client); a.Tag != 2 || a.Session != c.session {
				t.Errorf("%+v", a)
			}
			c.Echo(c.session, 1, "on the other link")
		}
	}
}

// A session may be attached by another link than the one that it was opened on, as
// by another relay.
func TestAttachAcrossLinks(t *testing.T) {
	h, vault := twoLinks(t)
	device := chatdtest.NewDevice(t)
	first, second := h.phone("alice"), h.phone("bob")
	clients := map[*chatdtest.VaultLink]*chatdtest.Client{}
	for _, c := range []*chatdtest.Client{first, second} {
		clients[linkOf(t, vault, c.Open(1, "x"))] = c
	}
	older := h.login("carol", device)
	s := older.Open(1, "x")
	before := linkOf(t, vault, s)
	older.Send(frame.Attach{Tag: 2, Session: s})
	chatdtest.Expect[frame.Attach](older)
	if linkOf(t, vault, s) != before {
		t.Error("attached again to its connection, a session changed the link")
	}
	// The link that it is not on becomes the one with fewer clients.
	for l, c := range clients {
		if l != before {
			c.Send(frame.Close{Session: sessionOn(t, vault, l)})
			vault.Await("nobody is there", func(v *chatdtest.VaultState) bool {
				return v.Count(func(f frame.Frame) bool { return f.Type() == frame.TUplinkGone }) == 1
			})
		}
	}
	newer := h.login("carol", device)
	newer.Send(frame.Attach{Tag: 3, Session: s})
	chatdtest.Expect[frame.Attach](newer)
	if linkOf(t, vault, s) == before {
		t.Error("attached by the same link")
	}
	newer.Echo(s, 1, "on the other link")
	if last, code := older.Closed(); code != frame.Replaced.CloseCode() {
		t.Errorf("the old one was told %v, %d", last, code)
	}
	for i := range uint32(2 * frame.Window) {
		newer.Echo(s, 2+i, "with windows of its own")
	}
}

func sessionOn(t *testing.T, v *chatdtest.Vault, l *chatdtest.VaultLink) (id frame.SessionID) {
	t.Helper()
	v.Await("a session on the link", func(s *chatdtest.VaultState) bool {
		for i, session := range s.Sessions {
			if session.Link == l {
				id = i
				return true
			}
		}
		return false
	})
	return id
}

// Two links say nothing of each other's order: what one brings must not undo what
// another one brought later.
func TestOneLinkDoesNotSpeakForTheOther(t *testing.T) {
	h, vault := twoLinks(t)
	a, b := h.phone("alice"), h.phone("bob")
	s, o := a.Open(1, "x"), b.Open(1, "x")
	conns := map[frame.SessionID]*conn{}
	links := map[frame.SessionID]*uplink.Link{}
	for _, c := range h.relay.all() {
		c.mu.Lock()
		for id, at := range c.sessions {
			conns[id], links[id] = c, at.stream.Link()
		}
		c.mu.Unlock()
	}
	if links[s] == links[o] {
		t.Fatal("both are on one link")
	}
	// The vault answers on bob's link, late, that he had alice's session before her.
	_, tag, err := conns[o].expect(links[o], frame.Refuse{Refused: frame.TAttach, Tag: 9, Session: s})
	if err != nil {
		t.Fatal(err)
	}
	bobs, _ := vault.Session(o)
	bobs.Link.Send(bobs.Number, frame.Attach{Tag: tag, Session: s})
	chatdtest.Expect[frame.Attach](b)
	bobs.Link.Send(bobs.Number, frame.Close{Session: s, Status: frame.Replaced})
	if f := chatdtest.Expect[frame.Close](b); f.Session != s || f.Status != frame.Replaced {
		t.Errorf("%+v", f)
	}
	a.Echo(s, 1, "it is still hers")
}
