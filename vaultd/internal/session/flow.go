package session

import "chatvault/protocol/frame"

// flow is a session's part in the flow control of the uplink that it is attached
// to (protocol/frame, flow.go), guarded by Table.mu. A relay that gives no credit
// holds up this one session: its latest reply waits, which the session keeps
// anyway, and nothing else does.
type flow struct {
	replies  frame.SendWindow
	requests frame.ReceiveWindow
	unused   int  // requests that came and are not used
	held     bool // the latest reply waits for credit
}

// Credit gives back a part of the window of a session that is attached here. Of
// others it may come late: what it was for has ended.
func (l *Line) Credit(c frame.UplinkCredit) {
	t := l.table
	t.mu.Lock()
	defer t.unlock()
	s := l.sessions[c.Session]
	switch {
	case s == nil:
	case !s.replies.Credit(c.Frames):
		t.endAndTell(s, frame.Internal, EndedBeyondWindow)
	case s.held:
		s.answer()
	}
}

// take counts a frame that came over the session's own line; a relay that had no
// more credit loses the session.
func (t *Table) take(s *session) bool {
	if !s.requests.Take() {
		t.endAndTell(s, frame.Internal, EndedBeyondWindow)
		return false
	}
	s.unused++
	return true
}

// giveBack gives the relay credit for what the session has used. What comes while
// a request is worked on is used with it: a client that floods its session waits.
func (s *session) giveBack() {
	if s.line == nil || s.working {
		return
	}
	n := s.requests.Use(s.unused)
	s.unused = 0
	if n > 0 {
		s.line.send(frame.UplinkCredit{Session: s.id, Frames: n})
	}
}

// answer sends the latest reply, or holds it until there is credit for it.
func (s *session) answer() {
	if s.line == nil {
		return
	}
	s.held = !s.replies.Take()
	if s.held {
		s.line.table.counts.add(Held)
	} else {
		s.line.send(frame.Data{Session: s.id, Sequence: s.sequence, Payload: s.reply})
	}
}
