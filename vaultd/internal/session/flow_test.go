package session_test

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/session"
)

// junk is a frame that the session ignores.
func (p *phone) junk() frame.Data {
	return frame.Data{Session: p.id, Sequence: p.n + 9, Payload: []byte("junk")}
}

// held sends a request and returns when its reply is held.
func (p *phone) held(request frame.Data) {
	p.t.Helper()
	before := p.w.table.Count(session.Held)
	p.line.Data(request)
	for late := time.Now().Add(10 * time.Second); p.w.table.Count(session.Held) == before; runtime.Gosched() {
		if time.Now().After(late) {
			p.t.Fatal("the reply was not held")
		}
	}
}

// A chatd that sends more than it has credit for loses that session, and no other.
func TestARelayBeyondItsWindow(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial(alice)
	p, other := w.open(c), w.open(c)
	began, goOn := w.talk(0).hold()
	c.line.Data(p.seal("long"))
	<-began
	for range frame.Window - 1 {
		c.line.Data(p.junk())
	}
	c.wantSilence()
	if n := c.credit.Load(); n != 0 {
		t.Errorf("a session that is at work gave %d frames back", n)
	}
	c.line.Data(p.junk())
	if f := want[frame.Close](c); f.Session != p.id || f.Status != frame.Internal {
		t.Errorf("got %+v", f)
	}
	w.wantCount(session.EndedBeyondWindow, 1)
	close(goOn)
	other.ask("goes on")
	c.line.Credit(frame.UplinkCredit{Session: p.id, Frames: 1}) // late: of no session
	c.line.Credit(frame.UplinkCredit{Session: other.id, Frames: frame.Window})
	if f := want[frame.Close](c); f.Session != other.id || f.Status != frame.Internal {
		t.Errorf("more credit than was taken: %+v", f)
	}
	w.wantCount(session.EndedBeyondWindow, 2)
}

// What comes during the work is used with it; then the relay gets its credit.
func TestAWindowIsGivenBackAfterTheWork(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	began, goOn := w.talk(0).hold()
	p.line.Data(p.seal("long"))
	<-began
	for range frame.CreditBatch {
		p.line.Data(p.junk())
	}
	close(goOn)
	p.reply("re:long")
	w.table.Len() // the table's lock: what sent the reply has let go of it
	if n := p.credit.Load(); n != frame.CreditBatch+1 {
		t.Errorf("%d frames were given back", n)
	}
	for range 10 * frame.Window {
		p.line.Data(p.junk())
	}
	p.ask("it goes on")
	w.wantCount(session.EndedBeyondWindow, 0)
}

// Without credit a session holds its latest reply, and nobody else waits.
func TestARelayThatGivesNoCredit(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial(alice)
	p, other := w.open(c), w.open(w.dial(mallo))
	c.keeps = true
	for range frame.Window - 1 { // and DATA 0
		p.ask("x")
	}
	p.held(p.seal("held"))
	p.held(p.seal("held too"))
	c.wantSilence()
	for range 3 * frame.Window {
		other.ask("undisturbed")
	}
	c.used[p.id] = new(frame.ReceiveWindow)
	for range frame.CreditBatch { // what was used before
		c.line.Credit(frame.UplinkCredit{Session: p.id, Frames: 1})
	}
	p.reply("re:held too")
	c.wantSilence()
}

// ATTACH fills both windows, whatever was used of them, also of a session whose
// reply was held; credit for what was before it would be too much.
func TestAttachBeginsTheCountAnew(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial(alice)
	p := w.open(c)
	c.keeps = true
	for range frame.Window - 1 {
		p.ask("x")
	}
	last := p.seal("lost with the uplink")
	p.held(last)
	before := c
	for _, to := range []*conn{w.dial(alice), c} { // another connection, and back
		to.keeps = true
		p.attach(to)
		to.wantSilence()
		if f := want[frame.Close](before); f.Status != frame.Replaced {
			t.Errorf("got %+v", f)
		}
		before = to
		to.line.Data(last)
		p.reply("re:lost with the uplink")
		for range frame.Window - 1 {
			to.line.Data(last)
			p.reply("re:lost with the uplink")
		}
		to.line.Data(last)
		to.wantSilence()
	}
	before.line.Attach(frame.Attach{Tag: 1, Session: p.id}) // where it is already
	want[frame.Attach](before)
	before.line.Data(last)
	p.reply("re:lost with the uplink")
	w.wantCount(session.EndedBeyondWindow, 0)
}

// Whatever the order in which requests, repeats and credit come, a relay that
// keeps the rule loses no session, and the latest request is answered.
func TestFlowNeverGetsStuck(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, nil)
		c := w.dial(alice)
		p := w.open(c)
		c.keeps = true
		var sender frame.SendWindow
		given, unused := int64(0), 1 // DATA 0
		var last frame.Data
		step := func(kind int) {
			for ; given < c.credit.Load(); given++ {
				sender.Credit(1)
			}
			switch {
			case kind == 0 && unused > 0:
				unused--
				c.line.Credit(frame.UplinkCredit{Session: p.id, Frames: 1})
			case kind == 1 && sender.Take():
				c.line.Data(p.junk())
			case kind == 2 && p.n > 0 && sender.Take():
				c.line.Data(last)
			case kind == 3 && len(c.in) > 0:
				want[frame.Data](c)
				unused++
				c.used[p.id] = new(frame.ReceiveWindow)
			}
		}
		for range 5 {
			before := p.w.table.Count(session.Requests)
			last = p.seal("x")
			for late := time.Now().Add(10 * time.Second); ; step(random.IntN(4)) {
				if p.w.table.Count(session.Requests) > before && sequenceIs(c, &unused, p) {
					break
				}
				if time.Now().After(late) {
					t.Fatalf("seed %d: stuck at request %d", seed, p.n)
				}
			}
		}
		w.wantCount(session.EndedBeyondWindow, 0)
	}
}

// sequenceIs takes one frame, if there is any, and says whether it answers the
// latest request.
func sequenceIs(c *conn, unused *int, p *phone) bool {
	if len(c.in) == 0 {
		return false
	}
	d := want[frame.Data](c)
	*unused++
	c.used[p.id] = new(frame.ReceiveWindow)
	return d.Sequence == p.n
}
