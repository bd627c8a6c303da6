package relay

import (
	"crypto/sha256"
	"runtime"
	"testing"
	"time"
	"weak"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

func TestASessionFromOpenToClose(t *testing.T) {
	h, vault := simple(t, nil)
	device := chatdtest.NewDevice(t)
	c := h.login("alice", device)
	if c.Hello.BundleEpoch != 7 {
		t.Errorf("HELLO names epoch %d", c.Hello.BundleEpoch)
	}
	s := c.Open(3, "message 1")
	if s.Node() != vault.Hello.Node {
		t.Errorf("session %x is on another node", s)
	}
	for n := uint32(1); n <= 20; n++ {
		c.Echo(s, n, "payload")
	}
	thumb := device.Thumbprint()
	want := sha256.Sum256(append(ticket.Account{Issuer: "app", Subject: "alice"}.Bytes(), thumb[:]...))
	if session, ok := vault.Session(s); !ok || session.Peer != want {
		t.Errorf("the vault was told another peer: %+v", session)
	}
	c.Send(frame.Close{Session: s, Status: frame.OK})
	vault.Await("CLOSE", func(s *chatdtest.VaultState) bool { return len(s.Sessions) == 0 })
	c.Send(frame.Data{Session: s, Sequence: 21, Payload: []byte("late")})
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.NoSession || r.Session != s || r.Refused != frame.TData {
		t.Errorf("DATA after CLOSE: %+v", r)
	}
	c.Send(frame.Close{Session: s})
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.NoSession || r.Refused != frame.TClose {
		t.Errorf("CLOSE after CLOSE: %+v", r)
	}
}

func TestTheVaultEndsASession(t *testing.T) {
	h, _ := simple(t, nil)
	c := h.phone("alice")
	s := c.Open(1, "x")
	c.Send(frame.Data{Session: s, Sequence: 1, Payload: []byte("end")})
	if f := chatdtest.Expect[frame.Close](c); f.Session != s || f.Status != frame.SessionEnded {
		t.Errorf("%+v", f)
	}
	c.Send(frame.Data{Session: s, Sequence: 2, Payload: []byte("x")})
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.NoSession {
		t.Errorf("DATA after the end: %+v", r)
	}
	c.Send(frame.Open{Tag: 9, Payload: []byte("refuse")})
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.Busy || r.Tag != 9 || r.RetryMillis != 100 {
		t.Errorf("the vault's refusal: %+v", r)
	}
}

// A session id is no key: whoever learned one can do nothing with it.
func TestNobodyTouchesSomebodyElsesSession(t *testing.T) {
	h, vault := simple(t, nil)
	alice, mallory := h.phone("alice"), h.phone("mallory")
	s := alice.Open(1, "x")
	mallory.Open(1, "x")

	mallory.Send(frame.Data{Session: s, Sequence: 1, Payload: []byte("mine")})
	if r := chatdtest.Expect[frame.Refuse](mallory); r.Status != frame.NoSession || r.Session != s {
		t.Errorf("DATA: %+v", r)
	}
	mallory.Send(frame.Close{Session: s})
	if r := chatdtest.Expect[frame.Refuse](mallory); r.Status != frame.NoSession {
		t.Errorf("CLOSE: %+v", r)
	}
	mallory.Send(frame.Attach{Tag: 2, Session: s})
	if r := chatdtest.Expect[frame.Refuse](mallory); r.Status != frame.NoSession || r.Refused != frame.TAttach || r.Tag != 2 {
		t.Errorf("ATTACH: %+v", r)
	}
	// The same account on another device is somebody else, too.
	second := h.phone("alice")
	second.Send(frame.Attach{Tag: 2, Session: s})
	if r := chatdtest.Expect[frame.Refuse](second); r.Status != frame.NoSession {
		t.Errorf("ATTACH of another device: %+v", r)
	}
	alice.Echo(s, 1, "untouched")
	vault.Await("one DATA", func(v *chatdtest.VaultState) bool {
		return v.Count(func(f frame.Frame) bool { return f.Type() == frame.TData }) == 1 &&
			v.Count(func(f frame.Frame) bool { return f.Type() == frame.TClose }) == 0
	})
}

// What a vault node sends to the wrong connection goes nowhere.
func TestTheVaultReachesOnlyTheConnectionThatHasTheSession(t *testing.T) {
	h, vault := simple(t, nil)
	alice, bob := h.phone("alice"), h.phone("bob")
	a, b := alice.Open(1, "x"), bob.Open(1, "x")
	session, _ := vault.Session(b)
	session.Link.Send(session.Number, frame.Data{Session: a, Sequence: 9, Payload: []byte("stray")})
	session.Link.Send(session.Number, frame.Close{Session: a, Status: frame.SessionEnded})
	session.Link.Send(session.Number, frame.Attach{Tag: 77, Session: frame.SessionID(append(vault.Hello.Node[:], make([]byte, 16)...))})
	bob.Echo(b, 1, "the next that comes")
	alice.Echo(a, 1, "and it lives")
	if n := h.relay.Counts.Get("dropped_not_attached"); n != 1 {
		t.Errorf("%d were counted as dropped", n)
	}
	vault.Await("what nobody asked for is closed", func(v *chatdtest.VaultState) bool {
		return v.Count(func(f frame.Frame) bool { c, ok := f.(frame.Close); return ok && c.Status == frame.SessionEnded }) == 1
	})
}

func TestAttachAfterTheConnectionWasCut(t *testing.T) {
	h, vault := simple(t, nil)
	device := chatdtest.NewDevice(t)
	first := h.login("alice", device)
	s := first.Open(1, "x")
	first.Echo(s, 1, "before")
	first.WS.NetConn().Close()
	vault.Await("the connection is gone", func(v *chatdtest.VaultState) bool { return v.Sessions[s].Link == nil })

	second := h.login("alice", device)
	second.Send(frame.Data{Session: s, Sequence: 1, Payload: []byte("x")})
	if r := chatdtest.Expect[frame.Refuse](second); r.Status != frame.NoSession {
		t.Errorf("DATA before ATTACH: %+v", r)
	}
	second.Send(frame.Attach{Tag: 5, Session: s})
	if a := chatdtest.Expect[frame.Attach](second); a.Tag != 5 || a.Session != s {
		t.Errorf("%+v", a)
	}
	second.Echo(s, 1, "the last frame, repeated")
	second.Echo(s, 2, "and the next")
}

func TestTheNewestConnectionWins(t *testing.T) {
	h, _ := simple(t, nil)
	device := chatdtest.NewDevice(t)
	older, other := h.login("alice", device), h.phone("alice")
	s := older.Open(1, "x")
	newer := h.login("alice", device)
	if last, code := older.Closed(); code != frame.Replaced.CloseCode() || len(last) != 0 {
		t.Errorf("the old one was told %v, %d", last, code)
	}
	newer.Send(frame.Attach{Tag: 1, Session: s})
	chatdtest.Expect[frame.Attach](newer)
	newer.Echo(s, 1, "the new one")
	// Its end does not end what it has no more.
	poll(t, "the old one has gone", func() bool {
		return h.relay.Counts.Get("closed_replaced") == 1 && h.relay.Load().Active+h.relay.Load().Parked == 2
	})
	newer.Echo(s, 2, "ring")
	chatdtest.Expect[frame.Notice](other) // another device of the account is not replaced
	newer.Send(frame.Attach{Tag: 2, Session: s})
	chatdtest.Expect[frame.Attach](newer)
	newer.Echo(s, 3, "attached twice to one connection")
}

func TestAttachThroughAnotherRelay(t *testing.T) {
	one, vault := simple(t, nil)
	two := newHouse(t, one.pki, one.issuer, func(s *setup) { s.vaults = []*chatdtest.Vault{vault} })
	device := chatdtest.NewDevice(t)
	here, there := one.login("alice", device), two.login("alice", device)
	s := here.Open(1, "x")
	there.Send(frame.Attach{Tag: 1, Session: s})
	chatdtest.Expect[frame.Attach](there)
	if c := chatdtest.Expect[frame.Close](here); c.Session != s || c.Status != frame.Replaced {
		t.Errorf("the old one was told %+v", c)
	}
	there.Echo(s, 1, "x")
}

func TestSessionsAreOnTheNodeThatTheirIDNames(t *testing.T) {
	pki, issuer := chatdtest.NewPKI(t), chatdtest.NewIssuer(t)
	a, b := chatdtest.StartVault(t, pki, 1, uplink.VaultRole), chatdtest.StartVault(t, pki, 2, uplink.VaultRole)
	h := newHouse(t, pki, issuer, func(s *setup) { s.vaults = []*chatdtest.Vault{a, b} })
	nodes := map[frame.NodeID]int{}
	device := chatdtest.NewDevice(t)
	for range 20 {
		c := h.login("alice", device)
		s := c.Open(1, "x")
		nodes[s.Node()]++
		again := h.login("alice", device)
		again.Send(frame.Attach{Tag: 1, Session: s})
		chatdtest.Expect[frame.Attach](again)
		again.Echo(s, 1, "x")
		again.Send(frame.Close{Session: s})
		c.WS.Close()
		again.WS.Close()
	}
	if len(nodes) != 2 {
		t.Errorf("20 sessions were opened on %v", nodes)
	}

	// A node that drains takes no new ones and keeps its own.
	c := h.login("alice", device)
	var s frame.SessionID
	for tag := uint32(0); s.Node() != a.Hello.Node; tag++ {
		if s != (frame.SessionID{}) {
			c.Send(frame.Close{Session: s})
		}
		s = c.Open(tag, "x")
	}
	a.Drain()
	session, _ := a.Session(s)
	session.Link.Send(session.Number, frame.Data{Session: s, Sequence: 1, Payload: []byte("after the drain")})
	chatdtest.Expect[frame.Data](c)
	for tag := range uint32(3) {
		if other := c.Open(100+tag, "x"); other.Node() != b.Hello.Node {
			t.Error("a session was opened on a node that drains")
		}
	}
	c.Echo(s, 2, "its own go on")
}

func TestTooManySessions(t *testing.T) {
	h, _ := simple(t, func(s *setup) { s.cfg.MaxSessionsPerConnection = 2 })
	c := h.phone("alice")
	first := c.Open(1, "x")
	c.Send(frame.Open{Tag: 2, Payload: []byte("mute")}) // counts while it is not answered
	c.Send(frame.Open{Tag: 3, Payload: []byte("x")})
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.Busy || r.Limit != SessionsPerConnection || r.Tag != 3 || r.RetryMillis == 0 {
		t.Errorf("%+v", r)
	}
	c.Send(frame.Attach{Tag: 4, Session: frame.SessionID{1, 0, 0, 1}})
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.Busy || r.Refused != frame.TAttach {
		t.Errorf("%+v", r)
	}
	c.Send(frame.Attach{Tag: 5, Session: first}) // it has that one already
	chatdtest.Expect[frame.Attach](c)
	h.clock.Advance(answerTimeout)
	c.Open(6, "x")
}

func TestATagThatIsTaken(t *testing.T) {
	h, _ := simple(t, nil)
	c := h.phone("alice")
	c.Send(frame.Open{Tag: 1, Payload: []byte("mute")})
	c.Send(frame.Open{Tag: 1, Payload: []byte("x")})
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.Malformed || r.Tag != 1 {
		t.Errorf("%+v", r)
	}
	s := c.Open(2, "x")
	c.Echo(s, 1, "x")
}

// An answer that comes too late is not that to another request, though the client
// has used its tag again.
func TestALateAnswerAnswersNothingElse(t *testing.T) {
	h, vault := simple(t, nil)
	c := h.phone("alice")
	here := c.Open(1, "x")
	session, _ := vault.Session(here)
	open := func() (tag uint32) { // the one that the vault sees
		c.Send(frame.Open{Tag: 2, Payload: []byte("mute")})
		vault.Await("OPEN", func(s *chatdtest.VaultState) bool {
			o, seen := s.Frames[len(s.Frames)-1].(frame.Open)
			if seen = seen && string(o.Payload) == "mute"; seen {
				tag, s.Frames = o.Tag, []frame.Frame{frame.Notice{}}
			}
			return seen
		})
		return tag
	}
	late, inTime := here, here
	late[19]++
	inTime[18]++
	first := open()
	h.clock.Advance(answerTimeout)
	second := open()
	session.Link.Send(session.Number, frame.Attach{Tag: first, Session: late})
	session.Link.Send(session.Number, frame.Attach{Tag: second, Session: inTime})
	if a := chatdtest.Expect[frame.Attach](c); a.Tag != 2 || a.Session != inTime {
		t.Errorf("%+v, want session %x", a, inTime)
	}
	vault.Await("the late one's end", func(s *chatdtest.VaultState) bool {
		return s.Count(func(f frame.Frame) bool { c, ok := f.(frame.Close); return ok && c.Session == late }) == 1
	})
	// Nor does it end what is attached here since.
	session.Link.Send(session.Number, frame.Attach{Tag: first, Session: here})
	c.Echo(here, 1, "untouched")
}

// What the vault never answers keeps neither the stream nor, later, the connection.
func TestWhatIsNeverAnsweredIsForgotten(t *testing.T) {
	for name, test := range map[string]struct {
		session bool
		after   time.Duration
	}{
		"by itself":                 {false, 2 * answerTimeout},
		"with the last session end": {true, answerTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			h, vault := simple(t, nil)
			c := h.phone("alice")
			var s frame.SessionID
			if test.session {
				s = c.Open(1, "x")
			}
			c.Send(frame.Open{Tag: 2, Payload: []byte("mute")})
			c.Send(frame.Close{Session: frame.SessionID{9}}) // its answer says that the OPEN was sent
			chatdtest.Expect[frame.Refuse](c)
			h.clock.Advance(test.after)
			if test.session {
				c.Send(frame.Close{Session: s})
			}
			vault.Await("the stream is left", func(v *chatdtest.VaultState) bool {
				return v.Count(func(f frame.Frame) bool { return f.Type() == frame.TUplinkGone }) == 1
			})
		})
	}
}

func TestOpensPerAccount(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.cfg.Limits.Set[ratelimit.OpensPerAccount] = ratelimit.Limit{Burst: 2, Count: 1, Period: time.Minute}
	})
	one, two := h.phone("alice"), h.phone("alice")
	one.Open(1, "x")
	two.Open(1, "x")
	one.Send(frame.Open{Tag: 2, Payload: []byte("x")})
	r := chatdtest.Expect[frame.Refuse](one)
	if r.Status != frame.RateLimited || r.Limit != ratelimit.OpensPerAccount || r.RetryMillis != 60_000 || r.Tag != 2 {
		t.Errorf("%+v", r)
	}
	h.phone("bob").Open(1, "x")
	h.clock.Advance(time.Minute)
	one.Open(3, "x")
}

func TestAttachesPerConnection(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.cfg.Limits.Set[ratelimit.AttachesPerConnection] = ratelimit.Limit{Burst: 1, Count: 1, Period: time.Second}
	})
	c := h.phone("alice")
	c.Send(frame.Attach{Tag: 1, Session: frame.SessionID{1, 0, 0, 1}})
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.NoSession {
		t.Errorf("%+v", r)
	}
	c.Send(frame.Attach{Tag: 2, Session: frame.SessionID{1, 0, 0, 1}})
	if r := chatdtest.Expect[frame.Refuse](c); r.Limit != ratelimit.AttachesPerConnection || r.Tag != 2 || r.RetryMillis != 1000 {
		t.Errorf("%+v", r)
	}
}

func TestAnIdleClientCostsTheVaultNothing(t *testing.T) {
	h, vault := simple(t, nil)
	c, watching := h.phone("alice"), h.phone("alice")
	peers := func(n, gone int) {
		t.Helper()
		vault.Await("the peers", func(v *chatdtest.VaultState) bool {
			return v.Count(func(f frame.Frame) bool { return f.Type() == frame.TUplinkPeer }) == n &&
				v.Count(func(f frame.Frame) bool { return f.Type() == frame.TUplinkGone }) == gone
		})
	}
	a, b := c.Open(1, "x"), c.Open(2, "x")
	c.Send(frame.Close{Session: a})
	c.Echo(b, 1, "x")
	peers(1, 0)
	session, _ := vault.Session(b)
	c.Send(frame.Close{Session: b})
	peers(1, 1)
	// The doorbell of what it did last rings on the other devices, not here.
	session.Link.Send(session.Number, frame.Notice{})
	chatdtest.Expect[frame.Notice](watching)
	c.Send(frame.Open{Tag: 3, Payload: []byte("refuse")})
	chatdtest.Expect[frame.Refuse](c)
	peers(2, 2)
	again := c.Open(4, "x")
	c.Echo(again, 1, "x")
	c.Send(frame.Data{Session: again, Sequence: 2, Payload: []byte("end")})
	chatdtest.Expect[frame.Close](c)
	peers(3, 3)
}

func TestDoorbells(t *testing.T) {
	h, vault := simple(t, nil)
	acting, watching, stranger := h.phone("alice"), h.phone("alice"), h.phone("bob")
	s := acting.Open(1, "x")
	acting.Echo(s, 1, "ring")
	chatdtest.Expect[frame.Notice](watching)
	acting.Echo(s, 2, "the acting one is not rung")
	stranger.Echo(stranger.Open(1, "x"), 1, "nor is a stranger")

	// A thief who leaves before the operation has ended does not silence it.
	session, _ := vault.Session(s)
	acting.WS.NetConn().Close()
	vault.Await("the connection is gone", func(v *chatdtest.VaultState) bool { return v.Sessions[s].Link == nil })
	session.Link.Send(session.Number, frame.Notice{})
	chatdtest.Expect[frame.Notice](watching)
}

// What is remembered of a connection that has gone, for the doorbell of what it did
// last, is not the connection.
func TestADeadConnectionHoldsNoMemory(t *testing.T) {
	h, vault := simple(t, nil)
	watching := h.phone("alice")
	c := h.phone("alice")
	s := c.Open(1, "x")
	session, _ := vault.Session(s)
	c.Send(frame.Close{Session: s})
	vault.Await("the stream is left", func(v *chatdtest.VaultState) bool {
		return v.Count(func(f frame.Frame) bool { return f.Type() == frame.TUplinkGone }) == 1
	})
	c.Open(2, "and cut off in the midst of a session")
	var dead weak.Pointer[conn]
	for _, c := range h.relay.all() {
		c.mu.Lock()
		if len(c.sessions) == 1 {
			dead = weak.Make(c)
		}
		c.mu.Unlock()
	}
	c.WS.NetConn().Close()
	poll(t, "it is collected", func() bool { runtime.GC(); return dead.Value() == nil })
	session.Link.Send(session.Number, frame.Notice{})
	chatdtest.Expect[frame.Notice](watching)
}
