package session_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/session"
)

func TestOneRequestAfterTheOther(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	for _, request := range []string{"a", "b", strings.Repeat("c", 3072)} {
		p.ask(request)
	}
	if h := w.talk(0).h; !bytes.Equal(h[:], p.noise.HandshakeHash()) {
		t.Error("the conversation knows another handshake hash than the phone")
	}
	q := w.open(p.conn) // a second session on the same connection
	q.ask("d")
	p.ask("e")
	if p.id == q.id || w.table.Len() != 2 {
		t.Errorf("ids %x and %x, %d sessions", p.id, q.id, w.table.Len())
	}
	w.talk(0).wantEnds(t, 0)
}

func TestRepeatGetsTheSameBytes(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	request := p.seal("a")
	p.line.Data(request)
	first := p.reply("re:a")
	for range 3 {
		p.line.Data(request)
		if again := p.reply("re:a"); !same(again, first) {
			t.Fatal("another ciphertext under the same sequence number")
		}
	}
	if n := w.talk(0).requests(); n != 1 {
		t.Errorf("worked on %d times", n)
	}
	w.wantCount(session.Repeated, 3)
	p.ask("b")
}

func TestHandshakeIsSequenceNumberZero(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	p.line.Data(frame.Data{Session: p.id, Sequence: 0, Payload: p.msg1})
	if d := want[frame.Data](p.conn); d.Sequence != 0 || !bytes.Equal(d.Payload, p.msg2) {
		t.Error("message 1 again was not answered by the same message 2")
	}
	p.line.Data(frame.Data{Session: p.id, Sequence: 0, Payload: append([]byte{1}, p.msg1[1:]...)})
	p.wantSilence()
	p.ask("a")
}

// A13: message 1, replayed by the relay, opens another session, which nobody can
// use, and reaches no conversation.
func TestReplayedHandshake(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	c := w.dial(alice)
	c.line.Open(frame.Open{Payload: p.msg1})
	replayed := want[frame.Attach](c).Session
	if d := want[frame.Data](c); replayed == p.id || bytes.Equal(d.Payload, p.msg2) {
		t.Error("the same session again")
	}
	request := p.seal("a")
	request.Session = replayed
	c.line.Data(request)
	c.wantSilence()
	w.wantCount(session.IgnoredSealed, 1)
	if n := w.talk(1).requests(); n != 0 {
		t.Errorf("%d requests were worked on", n)
	}
}

func TestWhatDoesNotFitIsIgnored(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	old := p.seal("a")
	p.line.Data(old)
	p.reply("re:a")
	last := p.seal("b")
	p.line.Data(last)
	answer := p.reply("re:b")
	next := p.seal("c")
	after := p.seal("d")

	flipped := func(d frame.Data) frame.Data {
		d.Payload = bytes.Clone(d.Payload)
		d.Payload[len(d.Payload)/2] ^= 1
		return d
	}
	renumbered := func(d frame.Data, n uint32) frame.Data { d.Sequence = n; return d }
	for _, c := range []struct {
		name  string
		frame frame.Data
		event session.Event
	}{
		{"an old number", old, session.IgnoredOld},
		{"the handshake again", frame.Data{Session: p.id, Payload: p.msg1}, session.IgnoredOld},
		{"other bytes under the last number", flipped(last), session.IgnoredDiffers},
		{"an old ciphertext under the last number", renumbered(old, 2), session.IgnoredDiffers},
		{"the next number, changed", flipped(next), session.IgnoredSealed},
		{"an old ciphertext under the next number", renumbered(old, 3), session.IgnoredSealed},
		{"a later ciphertext under the next number", renumbered(after, 3), session.IgnoredSealed},
		{"our own reply, reflected", renumbered(answer, 3), session.IgnoredSealed},
		{"a number skipped", after, session.IgnoredAhead},
		{"the last number there is", renumbered(next, 1<<32-1), session.IgnoredAhead},
		{"one byte", frame.Data{Session: p.id, Sequence: 3, Payload: []byte{0}}, session.IgnoredSealed},
	} {
		before := w.table.Count(c.event)
		p.line.Data(c.frame)
		p.wantSilence()
		if w.table.Count(c.event) != before+1 {
			t.Errorf("%s: not counted as %s", c.name, c.event)
		}
	}
	// Nothing of it changed the state: the last reply is still there, and the next
	// request still is.
	p.line.Data(last)
	if again := want[frame.Data](p.conn); !same(again, answer) {
		t.Error("the last reply has changed")
	}
	p.n = 3
	p.line.Data(next)
	p.reply("re:c")
	p.n = 4
	p.line.Data(after)
	p.reply("re:d")
	if n := w.talk(0).requests(); n != 4 {
		t.Errorf("%d requests were worked on, want 4", n)
	}
}

func TestRepeatDuringWorkWaitsForTheReply(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	began, goOn := w.talk(0).hold()
	request := p.seal("wait")
	p.line.Data(request)
	<-began
	p.line.Data(request)
	p.line.Data(request)
	w.wantCount(session.RepeatedAtWork, 2)
	early := frame.Data{Session: p.id, Sequence: 2, Payload: p.noise.Seal(p.id[:], 2, []byte("early"))}
	p.line.Data(early)
	w.wantCount(session.IgnoredAhead, 1)
	p.wantSilence()
	close(goOn)
	p.reply("re:wait")
	p.wantSilence()
	p.line.Data(early) // now it is the next
	p.n = 2
	p.reply("re:early")
	if n := w.talk(0).requests(); n != 2 {
		t.Errorf("worked on %d times", n)
	}
}

// The connection goes while the request is being worked on; the phone comes back
// over another.
func TestReplyFollowsThePhone(t *testing.T) {
	for _, when := range []string{"attached before the reply", "repeated before the reply", "attached after the reply"} {
		w := newWorld(t, nil)
		first := w.dial(alice)
		p := w.open(first)
		began, goOn := w.talk(0).hold()
		request := p.seal("ring")
		p.line.Data(request)
		<-began
		first.line.Gone()
		second := w.dial(alice)
		switch when {
		case "repeated before the reply":
			p.attach(second)
			p.line.Data(request)
			w.wantCount(session.RepeatedAtWork, 1)
			fallthrough
		case "attached before the reply":
			p.attach(second)
			close(goOn)
			p.reply("rung")
			want[frame.Notice](second)
		case "attached after the reply":
			close(goOn)
			want[frame.Notice](first) // the doorbell, after the reply was kept
			p.attach(second)
		}
		second.wantSilence()
		p.line.Data(request)
		p.reply("rung")
		first.wantSilence()
		if n := w.talk(0).requests(); n != 1 {
			t.Errorf("%s: worked on %d times", when, n)
		}
		p.ask("next")
	}
}

func TestLostReplyAfterAttachElsewhere(t *testing.T) {
	w := newWorld(t, nil)
	first := w.dial(alice)
	p := w.open(first)
	request := p.seal("a")
	p.line.Data(request)
	lost := p.reply("re:a")
	first.line.Gone()
	p.attach(w.dial(alice))
	p.line.Data(request)
	if again := p.reply("re:a"); !same(again, lost) {
		t.Error("another ciphertext after ATTACH")
	}
	if n := w.talk(0).requests(); n != 1 {
		t.Errorf("worked on %d times", n)
	}
}

func TestNewestConnectionWins(t *testing.T) {
	w := newWorld(t, nil)
	old := w.dial(alice)
	p := w.open(old)
	p.attach(w.dial(alice))
	if c := want[frame.Close](old); c.Session != p.id || c.Status != frame.Replaced {
		t.Errorf("the old connection got %+v", c)
	}
	old.line.Data(p.seal("from the old one"))
	if c := want[frame.Close](old); c.Session != p.id || c.Status != frame.NoSession {
		t.Errorf("DATA over the old connection: %+v", c)
	}
	p.n--
	old.line.Close(frame.Close{Session: p.id})
	old.line.Gone()
	old.wantSilence()
	p.line.Attach(frame.Attach{Tag: 1, Session: p.id}) // again, where it is
	want[frame.Attach](p.conn)
	if n := w.talk(0).requests(); n != 0 {
		t.Errorf("%d requests of the old connection were worked on", n)
	}
}

func TestAnotherPeersSessionDoesNotExist(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	m := w.dial(mallo)
	unknown := frame.SessionID{19: 1}
	var answers []frame.Frame
	for _, id := range []frame.SessionID{p.id, unknown} {
		m.line.Attach(frame.Attach{Tag: 3, Session: id})
		r := want[frame.Refuse](m)
		if r.Session != id || r.Tag != 3 || r.Refused != frame.TAttach || r.Status != frame.NoSession {
			t.Errorf("ATTACH: %+v", r)
		}
		r.Session = frame.SessionID{}
		m.line.Data(frame.Data{Session: id, Sequence: 1, Payload: []byte("x")})
		c := want[frame.Close](m)
		if c.Session != id || c.Status != frame.NoSession {
			t.Errorf("DATA: %+v", c)
		}
		c.Session = frame.SessionID{}
		m.line.Close(frame.Close{Session: id})
		m.wantSilence()
		answers = append(answers, r, c)
	}
	if answers[0] != answers[2] || answers[1] != answers[3] {
		t.Error("a session of somebody else is answered otherwise than none")
	}
	p.wantSilence()
	p.ask("still here")
}

func TestConversationsThatFail(t *testing.T) {
	for _, request := range []string{"panic", "nothing", "too much"} {
		w := newWorld(t, nil)
		p := w.open(w.dial(alice))
		p.line.Data(p.seal(request))
		if c := want[frame.Close](p.conn); c.Session != p.id || c.Status != frame.Internal {
			t.Errorf("%s: %+v", request, c)
		}
		w.table.Drain(t.Context())
		w.talk(0).wantEnds(t, 1)
		w.wantCount(session.EndedInternal, 1)
	}
}

func TestDoorbell(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	p.line.Data(p.seal("ring"))
	p.reply("rung")
	want[frame.Notice](p.conn)
	p.ask("no ring")
	p.wantSilence()
}

// A thief who hangs up does not silence the doorbell.
func TestDoorbellAfterHangingUp(t *testing.T) {
	w := newWorld(t, nil)
	p := w.open(w.dial(alice))
	began, goOn := w.talk(0).hold()
	p.line.Data(p.seal("ring"))
	<-began
	p.line.Gone()
	close(goOn)
	want[frame.Notice](p.conn)
}

// Many phones, each on changing connections, each repeating at random.
func TestManyPhones(t *testing.T) {
	w := newWorld(t, func(c *session.Config) { c.MaxPerPeer = 100 })
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			c := w.dial(alice)
			p := w.open(c)
			for n := range 20 {
				request := p.seal("x")
				p.line.Data(request)
				p.reply("re:x")
				if (n+i)%3 == 0 {
					p.line.Gone()
					p.attach(w.dial(alice))
					p.line.Data(request)
					p.reply("re:x")
				}
			}
			p.line.Close(frame.Close{Session: p.id})
		})
	}
	wg.Wait()
	w.table.Drain(t.Context())
	for i := range 16 {
		w.talk(i).wantEnds(t, 1)
		if n := w.talk(i).requests(); n != 20 {
			t.Errorf("session %d: %d requests", i, n)
		}
	}
	if w.table.Len() != 0 {
		t.Errorf("%d sessions are left", w.table.Len())
	}
}

// FuzzData: whatever comes under whatever number, the session answers the genuine
// repeat by the same bytes and the genuine next request as if nothing had been.
func FuzzData(f *testing.F) {
	f.Add(uint32(0), []byte("x"))
	f.Add(uint32(1), make([]byte, 528))
	f.Add(uint32(2), make([]byte, 528))
	f.Add(uint32(3), []byte{0})
	f.Add(uint32(1<<32-1), make([]byte, frame.MaxPayload))
	f.Fuzz(func(t *testing.T, n uint32, payload []byte) {
		if len(payload) == 0 || len(payload) > frame.MaxPayload {
			return // no frame carries it
		}
		w := newWorld(t, nil)
		p := w.open(w.dial(alice))
		last := p.seal("a")
		p.line.Data(last)
		answer := p.reply("re:a")
		p.line.Data(frame.Data{Session: p.id, Sequence: n, Payload: payload})
		p.wantSilence()
		p.line.Data(last)
		if again := p.reply("re:a"); !same(again, answer) {
			t.Fatal("the last reply has changed")
		}
		p.ask("b")
	})
}

func TestEventsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range session.Events() {
		if e.String() == "" || seen[e.String()] {
			t.Errorf("event %d has the name %q", e, e)
		}
		seen[e.String()] = true
	}
}
