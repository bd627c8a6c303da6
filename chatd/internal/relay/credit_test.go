package relay

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/protocol/frame"
)

// unlimited is a relay with one vault, without the limits that would end a flood
// sooner.
func unlimited(t *testing.T, change func(*setup)) (*house, *chatdtest.Vault) {
	return simple(t, func(s *setup) {
		s.cfg.Limits.Set[ratelimit.FramesPerConnection] = ratelimit.Off
		s.cfg.Limits.Set[ratelimit.OpensPerAccount] = ratelimit.Off
		if change != nil {
			change(s)
		}
	})
}

func dataOf(id frame.SessionID) func(frame.Frame) bool {
	return func(f frame.Frame) bool { d, ok := f.(frame.Data); return ok && d.Session == id }
}

func closed(id frame.SessionID, s frame.Status) func(frame.Frame) bool {
	return func(f frame.Frame) bool { return f == frame.Close{Session: id, Status: s} }
}

// saw waits until the vault has been sent so many frames of a kind.
func saw(v *chatdtest.Vault, n int, what func(frame.Frame) bool) {
	v.Await(fmt.Sprintf("%d such frames", n), func(s *chatdtest.VaultState) bool { return s.Count(what) >= n })
}

// flood sends DATA until there is an error or n are sent, and never reads.
func flood(c *chatdtest.Client, s frame.SessionID, n int, sent chan<- int) {
	raw := clientFrame(0x82, frame.Data{Session: s, Sequence: 1, Payload: make([]byte, frame.MaxPayload)}.Append(nil))
	for i := range n {
		if _, err := c.WS.NetConn().Write(raw); err != nil {
			sent <- i
			return
		}
	}
	sent <- n
}

// A client that floods a session which does not keep up waits, and so does nobody
// else on the uplink; nothing of it is held but its window.
func TestAFloodedSessionHoldsUpItsOwnClientOnly(t *testing.T) {
	h, vault := unlimited(t, nil)
	c, other := h.phone("alice"), h.phone("bob")
	s, o := c.Open(1, "x"), other.Open(1, "x")
	vault.Starve(s)
	const n = 1000
	sent := make(chan int, 1)
	go flood(c, s, n, sent)
	poll(t, "it waits", func() bool { return h.relay.Counts.Get("credit_waits") == 1 })
	for i := range uint32(500) {
		other.Echo(o, i, "undisturbed")
	}
	vault.Await("the window and no more", func(v *chatdtest.VaultState) bool {
		if v.Count(dataOf(s)) > frame.Window {
			t.Fatal("more than the window was sent")
		}
		return v.Count(dataOf(s)) == frame.Window
	})
	if n := h.relay.Load().QueuedBytes; n > (frame.Window+1)*(frame.MaxFrame+8) {
		t.Errorf("%d bytes are queued", n)
	}
	go func() { // reads the echoes
		for {
			if _, _, err := c.WS.ReadMessage(); err != nil {
				return
			}
		}
	}()
	vault.Feed(s)
	saw(vault, n, dataOf(s))
	if got := <-sent; got != n {
		t.Errorf("%d of %d were sent", got, n)
	}
	c.WS.NetConn().Close()
}

// Whatever ends the session or the connection ends the wait for credit.
func TestWhatEndsTheWaitForCredit(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(h *house, vault *chatdtest.Vault, s frame.SessionID)
		want frame.Status // of CLOSE, and the session goes on being refused; OK: the connection ends
	}{
		"the vault ends the session": {func(_ *house, v *chatdtest.Vault, s frame.SessionID) {
			session, _ := v.Session(s)
			session.Link.Send(session.Number, frame.Close{Session: s, Status: frame.SessionEnded})
		}, frame.SessionEnded},
		"the uplink is lost": {func(_ *house, v *chatdtest.Vault, _ frame.SessionID) { v.Cut() }, frame.NoVault},
		"the vault gives none in time": {func(h *house, v *chatdtest.Vault, s frame.SessionID) {
			saw(v, 1, closed(s, frame.NoVault))
			if n := h.relay.Counts.Get("sessions_stalled"); n != 1 {
				t.Errorf("%d were counted", n)
			}
		}, frame.NoVault},
		"the connection is replaced": {func(h *house, _ *chatdtest.Vault, _ frame.SessionID) {
			for _, c := range h.relay.all() {
				c.end(replaced)
			}
		}, frame.OK},
		"the connection is cut": {func(h *house, _ *chatdtest.Vault, _ frame.SessionID) {
			for _, c := range h.relay.all() {
				c.cut()
			}
		}, frame.OK},
	} {
		t.Run(name, func(t *testing.T) {
			h, vault := unlimited(t, nil)
			if name == "the vault gives none in time" {
				h.relay.creditTimeout = 20 * time.Millisecond
			}
			c := h.phone("alice")
			s := c.Open(1, "x")
			vault.Starve(s)
			for i := range uint32(frame.Window + 1) {
				c.Send(frame.Data{Session: s, Sequence: i, Payload: []byte("mute")})
			}
			poll(t, "it waits", func() bool { return h.relay.Counts.Get("credit_waits") == 1 })
			test.end(h, vault, s)
			if test.want == frame.OK {
				c.Closed()
				poll(t, "the end", func() bool { return h.relay.places.Load() == 0 })
				return
			}
			if f := chatdtest.Expect[frame.Close](c); f.Session != s || f.Status != test.want {
				t.Errorf("%+v", f)
			}
			if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.NoSession || r.Session != s {
				t.Errorf("%+v", r)
			}
		})
	}
}

// Where clients ping often, a vault has less time: the client's reader hears no ping
// while it waits, and must not be taken for silent.
func TestCreditIsAwaitedForTwoPingsAtMost(t *testing.T) {
	const ping = 20 * time.Millisecond
	h, vault := unlimited(t, func(s *setup) { s.cfg.Ping = ping })
	if h.relay.creditTimeout >= 5*ping/2 {
		t.Errorf("%v is waited for credit, and a client is silent after %v", h.relay.creditTimeout, 5*ping/2)
	}
	c := h.phone("alice")
	s, other := c.Open(1, "x"), c.Open(2, "x")
	vault.Starve(s)
	for i := range uint32(frame.Window + 1) {
		c.Send(frame.Data{Session: s, Sequence: i, Payload: []byte("mute")})
	}
	if f := chatdtest.Expect[frame.Close](c); f.Session != s || f.Status != frame.NoVault {
		t.Errorf("%+v", f)
	}
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.NoSession || r.Session != s {
		t.Errorf("%+v", r)
	}
	c.Echo(other, 1, "the connection lives on")
}

// A vault that ignores the window of a session loses that session and no other.
func TestAVaultBeyondItsWindow(t *testing.T) {
	for name, breakIt := range map[string]func(h *house, v *chatdtest.VaultSession, s frame.SessionID){
		"DATA": func(h *house, v *chatdtest.VaultSession, s frame.SessionID) {
			for h.relay.Counts.Get("sessions_overrun") == 0 {
				v.Link.Send(v.Number, frame.Data{Session: s, Sequence: 1, Payload: make([]byte, frame.MaxPayload)})
			}
		},
		"credit": func(_ *house, v *chatdtest.VaultSession, s frame.SessionID) {
			v.Link.Send(v.Number, frame.UplinkCredit{Session: s, Frames: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, vault := unlimited(t, nil)
			c, other := h.phone("alice"), h.phone("bob")
			s, second, o := c.Open(1, "x"), c.Open(2, "x"), other.Open(1, "x")
			vault.Lawless(s)
			session, _ := vault.Session(s)
			breakIt(h, &session, s)
			other.Echo(o, 1, "on the same uplink")
			for f := c.Next(); ; f = c.Next() {
				if end, ok := f.(frame.Close); ok {
					if end.Session != s || end.Status != frame.Internal {
						t.Errorf("%+v", end)
					}
					break
				}
			}
			saw(vault, 1, closed(s, frame.Internal))
			c.Echo(second, 1, "on the same connection")
			if n := h.relay.Counts.Get("sessions_overrun"); n != 1 {
				t.Errorf("%d were counted", n)
			}
		})
	}
}

// Credit that comes too late, or for what was never here, changes nothing; what is
// no credit at all ends the uplink.
func TestStrayCredit(t *testing.T) {
	h, vault := unlimited(t, nil)
	c, other := h.phone("alice"), h.phone("bob")
	s, o := c.Open(1, "x"), other.Open(1, "x")
	session, _ := vault.Session(o)
	session.Link.Send(session.Number, frame.UplinkCredit{Session: s, Frames: 64})
	session.Link.Send(session.Number, frame.UplinkCredit{Frames: 64})
	other.Echo(o, 1, "x")
	c.Echo(s, 1, "x")
	if n := h.relay.Counts.Get("sessions_overrun"); n != 0 {
		t.Errorf("%d were counted", n)
	}
	session.Link.Send(0, frame.UplinkCredit{Frames: 1})
	if f := chatdtest.Expect[frame.Close](c); f.Status != frame.NoVault {
		t.Errorf("%+v", f)
	}
}

// ATTACH fills the windows, whatever was used of them before the uplink was lost.
func TestAttachFillsTheWindows(t *testing.T) {
	h, vault := unlimited(t, nil)
	c := h.phone("alice")
	s := c.Open(1, "x")
	for i := range uint32(frame.CreditBatch + 9) {
		c.Echo(s, i, "half of it")
	}
	attach := func(tag uint32) {
		c.Send(frame.Attach{Tag: tag, Session: s})
		chatdtest.Expect[frame.Attach](c)
		before := 0
		vault.Await("the count", func(v *chatdtest.VaultState) bool { before = v.Count(dataOf(s)); return true })
		vault.Starve(s)
		for i := range uint32(frame.Window) {
			c.Send(frame.Data{Session: s, Sequence: i, Payload: []byte("mute")})
		}
		saw(vault, before+frame.Window, dataOf(s))
		vault.Feed(s)
	}
	vault.Cut()
	if f := chatdtest.Expect[frame.Close](c); f.Status != frame.NoVault {
		t.Errorf("%+v", f)
	}
	<-h.up
	attach(2)
	attach(3) // where it is attached already, its window empty or just given back
	for i := range uint32(3 * frame.Window) {
		c.Echo(s, i, "and it goes on")
	}
	// Between ATTACH and its answer there is no session here.
	all := h.relay.all()
	all[0].mu.Lock()
	all[0].pending = map[uint32]pending{7: {kind: frame.TAttach, session: s, since: h.clock.Now()}}
	all[0].mu.Unlock()
	c.Send(frame.Attach{Tag: 8, Session: s})
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.Busy || r.RetryMillis == 0 || r.Tag != 8 {
		t.Errorf("%+v", r)
	}
	h.clock.Advance(answerTimeout)
	attach(9)
}

// Clients that pipeline and clients in lock-step, readers that dawdle, ATTACH in
// between: every frame is echoed, in order. The vault fails the test when the
// relay breaks the rule.
func TestNobodyIsStuckForCredit(t *testing.T) {
	h, _ := unlimited(t, func(s *setup) { s.cfg.Limits.Set[ratelimit.AttachesPerConnection] = ratelimit.Off })
	var all sync.WaitGroup
	for i := range 6 {
		random := rand.New(rand.NewPCG(uint64(i), 7))
		c := h.phone(fmt.Sprint("person ", i))
		s := []frame.SessionID{c.Open(1, "x"), c.Open(2, "x")}
		all.Go(func() {
			var next [2]uint32
			for round := range uint32(12) {
				depth := []int{1, 10, 300}[random.IntN(3)]
				to := make([]int, depth)
				for j := range to {
					if depth <= 10 { // the windows of two sessions are too much for one queue
						to[j] = random.IntN(2)
					}
				}
				first := next
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					for j, k := range to {
						first[k]++
						c.SendRaw(2, frame.Data{Session: s[k], Sequence: first[k], Payload: make([]byte, 1+(j*97)%2000)}.Append(nil))
					}
				}()
				for range to {
					d := chatdtest.Expect[frame.Data](c)
					k := 0
					if d.Session == s[1] {
						k = 1
					}
					if next[k]++; d.Sequence != next[k] {
						t.Errorf("session %d: echo %d, want %d", k, d.Sequence, next[k])
					}
				}
				<-sent
				if random.IntN(3) == 0 {
					c.Send(frame.Attach{Tag: 10 + round, Session: s[0]})
					chatdtest.Expect[frame.Attach](c)
				}
			}
		})
	}
	all.Wait()
}
