package chatdtest

import "chatvault/protocol/frame"

// flow is the vault's part in the flow control of a session (protocol/frame,
// flow.go), guarded by the vault's mu.
type flow struct {
	requests frame.ReceiveWindow
	replies  frame.SendWindow
	held     []frame.Frame // DATA that waits for chatd's credit; its requests are not used
	unused   int           // requests
	starves  bool
	lawless  bool
}

// fill begins the count anew.
func (f *flow) fill() {
	f.requests, f.replies, f.held, f.unused = frame.ReceiveWindow{}, frame.SendWindow{}, nil, 0
}

// pass counts a request of the session, and lets through of its answers what there
// is credit for.
func (f *flow) pass(v *Vault, id frame.SessionID, answers []frame.Frame) (now []frame.Frame) {
	if !f.requests.Take() {
		v.t.Errorf("chatd sent beyond the window of session %x", id)
	}
	f.unused++
	for _, a := range answers {
		if _, ok := a.(frame.Data); ok && !f.replies.Take() {
			f.held = append(f.held, a)
		} else {
			now = append(now, a)
		}
	}
	return append(now, f.use(id)...)
}

// use gives credit for the requests that were answered.
func (f *flow) use(id frame.SessionID) []frame.Frame {
	if f.starves || f.lawless {
		return nil
	}
	n := f.requests.Use(f.unused - len(f.held))
	f.unused = len(f.held)
	if n == 0 {
		return nil
	}
	return []frame.Frame{frame.UplinkCredit{Session: id, Frames: n}}
}

// credit sends what was held for it.
func (l *VaultLink) credit(number uint32, c frame.UplinkCredit) {
	var answers []frame.Frame
	l.vault.update(func(s *VaultState) {
		session := s.Sessions[c.Session]
		if session == nil || session.Link != l || session.Number != number {
			return // it comes late
		}
		if session.lawless {
			return
		}
		if !session.replies.Credit(c.Frames) {
			l.vault.t.Errorf("chatd gave back more of session %x than it was sent", c.Session)
		}
		for len(session.held) > 0 && session.replies.Take() {
			answers = append(answers, session.held[0])
			session.held = session.held[1:]
		}
		answers = append(answers, session.use(c.Session)...)
	})
	for _, a := range answers {
		l.Send(number, a)
	}
}

// Push sends a DATA frame that nobody asked for, if there is credit for it.
func (v *Vault) Push(d frame.Data) bool {
	var session VaultSession
	sent := false
	v.update(func(s *VaultState) {
		if p := s.Sessions[d.Session]; p != nil && p.Link != nil && p.replies.Take() {
			session, sent = *p, true
		}
	})
	if sent {
		session.Link.Send(session.Number, d)
	}
	return sent
}

// Lawless makes a session count nothing any more: what VaultLink.Send sends for it
// is within the window or not.
func (v *Vault) Lawless(id frame.SessionID) {
	v.update(func(s *VaultState) { s.Sessions[id].lawless = true })
}

// Starve makes a session use nothing any more, until Feed.
func (v *Vault) Starve(id frame.SessionID) {
	v.update(func(s *VaultState) { s.Sessions[id].starves = true })
}

// Feed ends what Starve began.
func (v *Vault) Feed(id frame.SessionID) {
	var session VaultSession
	var answers []frame.Frame
	v.update(func(s *VaultState) {
		s.Sessions[id].starves = false
		answers = s.Sessions[id].use(id)
		session = *s.Sessions[id]
	})
	for _, a := range answers {
		session.Link.Send(session.Number, a)
	}
}
