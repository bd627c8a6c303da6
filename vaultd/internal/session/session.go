package session

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"runtime/debug"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
)

// session is one vault session. All of it is guarded by Table.mu, except that
// whoever set working owns talk until it clears it.
type session struct {
	id   frame.SessionID
	peer Peer
	talk Conversation

	noise *noisenk.Session // nil once ended
	line  *Line            // where it is attached, or nil
	bell  *Line            // where it was attached last: where a doorbell goes

	// The last request accepted. Number 0 is message 1 of the handshake.
	sequence uint32
	request  [sha256.Size]byte // hash of its ciphertext
	reply    []byte            // the ciphertext that answers it; nil while working
	accepted time.Time
	working  bool
	ended    bool

	flow
}

// data acts on one DATA frame that came over the session's own line. The payload
// is not kept.
func (t *Table) data(s *session, d frame.Data) {
	switch {
	case d.Sequence == s.sequence:
		t.repeat(s, d)
	case d.Sequence < s.sequence:
		t.counts.add(IgnoredOld)
	// The reply of n must be out before n+1. The second condition keeps n+1
	// from wrapping around.
	case s.working || s.sequence == math.MaxUint32 || d.Sequence != s.sequence+1:
		t.counts.add(IgnoredAhead)
	default:
		t.next(s, d)
	}
}

// repeat answers the same bytes by the same bytes. A lost reply must cost nothing
// (A18), and a request must never be worked on twice.
func (t *Table) repeat(s *session, d frame.Data) {
	switch {
	case sha256.Sum256(d.Payload) != s.request:
		t.counts.add(IgnoredDiffers)
	case s.working:
		t.counts.add(RepeatedAtWork) // its reply is on the way
	default:
		t.counts.add(Repeated)
		s.answer()
	}
}

// next accepts request n+1, if it decrypts.
func (t *Table) next(s *session, d frame.Data) {
	plaintext, err := s.noise.Open(s.id[:], d.Sequence, d.Payload)
	if err != nil {
		t.counts.add(IgnoredSealed)
		return
	}
	t.counts.add(Requests)
	s.sequence = d.Sequence
	s.request = sha256.Sum256(d.Payload)
	s.reply, s.held = nil, false
	s.accepted = t.cfg.Now()
	s.working = true
	t.work.Add(1)
	go t.handle(s, d.Sequence, plaintext)
}

// handle works on one request, to its end, whatever becomes of the connection.
func (t *Table) handle(s *session, n uint32, request []byte) {
	defer t.work.Done()
	ctx, cancel := context.WithTimeout(context.Background(), t.cfg.Idle)
	defer cancel()
	reply, ring := t.ask(ctx, s.talk, request)
	clear(request)
	defer clear(reply)

	t.mu.Lock()
	defer t.unlock()
	s.working = false
	if s.ended {
		t.ended = append(t.ended, s.talk) // end left this to us
		return
	}
	if len(reply) == 0 || len(reply) > MaxReply {
		t.endAndTell(s, frame.Internal, EndedInternal)
	} else {
		s.reply = s.noise.Seal(s.id[:], n, reply)
		s.answer()
		s.giveBack()
	}
	if ring {
		// Also when the connection has gone: chatd may still know whose it was,
		// and a thief should not escape the doorbell by hanging up.
		s.bell.send(frame.Notice{})
	}
}

// ask survives a panic: one client's request must not end the sessions of all. The
// session with the half-done conversation ends.
func (t *Table) ask(ctx context.Context, c Conversation, request []byte) (reply []byte, ring bool) {
	defer func() {
		if r := recover(); r != nil {
			t.logPanic("a conversation", r)
			reply, ring = nil, false
		}
	}()
	return c.Handle(ctx, request)
}

// logPanic names the kind of value and the place, not the value: it could hold what
// no log may.
func (t *Table) logPanic(where string, r any) {
	t.cfg.Log.Error(where+" panicked", "type", fmt.Sprintf("%T", r), "stack", string(debug.Stack()))
}

// endIfIdle ends a session whose time is over, and says whether it did. One that
// is being worked on gets its reply first.
func (t *Table) endIfIdle(s *session, now time.Time) bool {
	if s.working || now.Sub(s.accepted) < t.cfg.Idle {
		return false
	}
	t.endAndTell(s, frame.SessionEnded, EndedIdle)
	return true
}

// endAndTell ends a session and tells its client why.
func (t *Table) endAndTell(s *session, why frame.Status, event Event) {
	if s.line != nil {
		s.line.send(frame.Close{Session: s.id, Status: why})
	}
	t.end(s, event)
}

// end takes a session out of the table and drops its secrets. Those of a
// conversation at work are dropped when the work is done.
func (t *Table) end(s *session, event Event) {
	t.counts.add(event)
	s.ended = true
	delete(t.sessions, s.id)
	if s.line != nil {
		delete(s.line.sessions, s.id)
	}
	s.line, s.noise, s.reply = nil, nil, nil
	if !s.working {
		t.ended = append(t.ended, s.talk)
	}
	t.release(s.peer)
}
