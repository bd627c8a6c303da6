package session_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/vaultd/internal/session"
)

// How sessions begin and end, and how many there may be.

func TestSessionEndsAfterItsLastNewNumber(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	w.pass(59 * time.Second)
	request := p.seal("a")
	p.line.Data(request)
	p.reply("re:a")
	w.pass(59 * time.Second)
	p.line.Data(request) // a repeat is no new number,
	p.reply("re:a")
	again := w.dial(alice)
	p.attach(again) // nor is ATTACH,
	bad := frame.Data{Session: p.id, Sequence: 2, Payload: []byte("garbage")}
	p.line.Data(bad) // nor what does not decrypt.
	w.talk(0).wantEnds(t, 0)
	w.pass(time.Second)
	if c := want[frame.Close](again); c.Session != p.id || c.Status != frame.SessionEnded {
		t.Errorf("got %+v", c)
	}
	w.talk(0).wantEnds(t, 1)
	again.line.Data(p.seal("b"))
	if c := want[frame.Close](again); c.Status != frame.NoSession {
		t.Errorf("after the end: %+v", c)
	}
	if w.table.Len() != 0 {
		t.Errorf("%d sessions are left", w.table.Len())
	}
	w.wantCount(session.EndedIdle, 1)
}

func TestIdleSessionEndsWithoutASweep(t *testing.T) {
	w := newWorld(t, nil)
	p, q := w.open(w.dial(alice)), w.open(w.dial(alice))
	w.mu.Lock()
	w.now = w.now.Add(time.Minute)
	w.mu.Unlock()
	p.line.Data(p.seal("a"))
	if c := want[frame.Close](p.conn); c.Status != frame.SessionEnded {
		t.Errorf("DATA: %+v", c)
	}
	p.wantSilence()
	c := w.dial(alice)
	c.line.Attach(frame.Attach{Session: q.id})
	if r := want[frame.Refuse](c); r.Status != frame.NoSession {
		t.Errorf("ATTACH: %+v", r)
	}
	w.talk(0).wantEnds(t, 1)
	w.talk(1).wantEnds(t, 1)
}

func TestWorkIsNotCutOffByIdleness(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	began, goOn := w.talk(0).hold()
	p.line.Data(p.seal("wait"))
	<-began
	w.pass(2 * time.Minute)
	w.talk(0).wantEnds(t, 0)
	close(goOn)
	p.reply("re:wait")
	w.table.Sweep()
	if c := want[frame.Close](p.conn); c.Status != frame.SessionEnded {
		t.Errorf("got %+v", c)
	}
	w.talk(0).wantEnds(t, 1)
}

func TestRequestHasADeadline(t *testing.T) {
	w := newWorld(t, func(c *session.Config) { c.Idle = 20 * time.Millisecond })
	p := w.open(w.dial(alice))
	w.talk(0).hold() // nobody lets it go on
	p.line.Data(p.seal("wait"))
	p.reply("re:wait")
}

func TestClientCloses(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	p.line.Close(frame.Close{Session: p.id, Status: frame.OK})
	p.line.Close(frame.Close{Session: p.id, Status: frame.OK})
	p.wantSilence()
	w.talk(0).wantEnds(t, 1)
	w.wantCount(session.EndedByClient, 1)

	// In the middle of a request: it goes on, and only then is the end told.
	p = w.open(w.dial(alice))
	began, goOn := w.talk(1).hold()
	p.line.Data(p.seal("wait"))
	<-began
	p.line.Close(frame.Close{Session: p.id})
	w.talk(1).wantEnds(t, 0)
	close(goOn)
	w.table.Drain(t.Context())
	w.talk(1).wantEnds(t, 1)
	p.wantSilence()
}

func TestCaps(t *testing.T) {
	w := newWorld(t, func(c *session.Config) { c.MaxSessions, c.MaxPerPeer = 3, 2 })
	refused := func(peer session.Peer, limit string) {
		t.Helper()
		c := w.dial(peer)
		c.line.Open(frame.Open{Tag: 5, Payload: make([]byte, noisenk.Message1Size)})
		r := want[frame.Refuse](c)
		if r.Refused != frame.TOpen || r.Tag != 5 || r.Status != frame.Busy || r.Limit != limit || r.RetryMillis == 0 {
			t.Errorf("got %+v, want busy by %s", r, limit)
		}
	}
	a1 := w.open(w.dial(alice))
	w.open(w.dial(alice))
	refused(alice, session.LimitPerPeer)
	w.open(w.dial(mallo))
	refused(mallo, session.LimitSessions)
	a1.line.Close(frame.Close{Session: a1.id})
	w.open(w.dial(alice))
}

func TestASessionThatNobodyHoldsMakesRoom(t *testing.T) {
	w := newWorld(t, func(c *session.Config) { c.MaxPerPeer = 2 })
	lost := w.dial(alice)
	first := w.open(lost)
	lost.line.Gone()
	held := w.open(w.dial(alice))
	w.open(w.dial(alice)) // takes the place of the first
	if n := w.table.Count(session.EndedForRoom); n != 1 || w.table.Len() != 2 {
		t.Errorf("%d ended for room, %d left", n, w.table.Len())
	}
	again := w.dial(alice)
	again.line.Attach(frame.Attach{Tag: 1, Session: first.id})
	if r := want[frame.Refuse](again); r.Status != frame.NoSession {
		t.Errorf("the first session: %+v", r)
	}
	again.line.Attach(frame.Attach{Tag: 2, Session: held.id})
	want[frame.Attach](again)
}

func TestBadHandshakesLeaveNothing(t *testing.T) {
	w := newWorld(t, func(c *session.Config) { c.MaxSessions = 1 })
	c := w.dial(alice)
	for _, n := range []int{1, noisenk.Message1Size - 1, noisenk.Message1Size, noisenk.Message1Size + 1, frame.MaxPayload} {
		c.line.Open(frame.Open{Tag: 1, Payload: make([]byte, n)})
		if r := want[frame.Refuse](c); r.Status != frame.Malformed || r.Refused != frame.TOpen || r.Tag != 1 {
			t.Errorf("%d bytes: %+v", n, r)
		}
	}
	for _, fault := range []error{errors.New("the HSM is away"), errBug} {
		w.mu.Lock()
		w.dhErr = fault
		w.mu.Unlock()
		_, msg1 := w.message1()
		c.line.Open(frame.Open{Tag: 2, Payload: msg1})
		if r := want[frame.Refuse](c); r.Status != frame.Internal || r.Tag != 2 || r.RetryMillis == 0 {
			t.Errorf("%v: %+v", fault, r)
		}
	}
	w.wantCount(session.FailedHandshake, 2)
	w.mu.Lock()
	w.dhErr = nil
	w.mu.Unlock()
	w.open(c) // the one place is free
}

func TestDrain(t *testing.T) {
	w := newWorld(t, nil)
	p, q := w.open(w.dial(alice)), w.open(w.dial(mallo))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		w.table.Drain(ctx)
	}()
	// Sessions go on; new ones are refused as soon as Drain has begun.
	for c := w.dial(alice); ; {
		c.line.Open(frame.Open{Payload: make([]byte, noisenk.Message1Size)})
		if r := want[frame.Refuse](c); r.Status == frame.Draining {
			break
		}
	}
	p.attach(w.dial(alice))
	p.ask("one more")
	p.line.Close(frame.Close{Session: p.id})
	began, goOn := w.talk(1).hold()
	q.line.Data(q.seal("wait"))
	<-began
	cancel() // the deadline: q is in the middle of its work
	if c := want[frame.Close](q.conn); c.Status != frame.Draining {
		t.Errorf("got %+v", c)
	}
	select {
	case <-drained:
		t.Error("Drain returned while a request was being worked on")
	default:
	}
	close(goOn)
	<-drained
	w.talk(0).wantEnds(t, 1)
	w.talk(1).wantEnds(t, 1)
	w.table.Drain(t.Context()) // once more does nothing
}

// Who hung up during the handshake never learned of a session: none is kept.
func TestGoneDuringTheHandshake(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial(alice)
	_, msg1 := w.message1()
	began, goOn := w.hang()
	c.line.Open(frame.Open{Payload: msg1})
	<-began
	if w.table.Len() != 1 {
		t.Error("a handshake takes no place")
	}
	c.line.Gone()
	close(goOn)
	w.table.Drain(t.Context())
	c.wantSilence()
	if w.table.Len() != 0 {
		t.Error("its place was not given back")
	}
	w.wantCount(session.EndedUnheard, 1)
}

// A handshake that outlasts the drain opens nothing.
func TestHandshakeDuringTheDrain(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	c := w.dial(alice)
	_, msg1 := w.message1()
	began, goOn := w.hang()
	c.line.Open(frame.Open{Tag: 6, Payload: msg1})
	<-began
	over, cancel := context.WithCancel(t.Context())
	cancel()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		w.table.Drain(over)
	}()
	if c := want[frame.Close](p.conn); c.Status != frame.Draining {
		t.Errorf("got %+v", c)
	}
	close(goOn)
	if r := want[frame.Refuse](c); r.Tag != 6 || r.Status != frame.Draining {
		t.Errorf("got %+v", r)
	}
	<-drained
	if w.table.Len() != 0 {
		t.Error("a session is left")
	}
}

func TestSessionsAreSmall(t *testing.T) {
	const n = 200
	w := newWorld(t, func(c *session.Config) { c.MaxPerPeer = n + 1 })
	c := w.dial(alice)
	for len(c.in) < cap(c.in) {
		c.in <- frame.Notice{} // the channel's own memory first
	}
	for len(c.in) > 0 {
		<-c.in
	}
	w.open(c)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range n {
		p := w.open(c)
		p.ask(strings.Repeat("x", session.MaxReply-3)) // the largest reply is kept
	}
	for _, e := range w.talks {
		e.asked = nil // that is not the table's
	}
	size := (int64(heap()) - int64(before)) / n
	if size < frame.MaxPayload || size > 8<<10 {
		t.Errorf("%d bytes a session", size)
	}
	t.Logf("%d bytes a session", size)
	runtime.KeepAlive(w)
}
