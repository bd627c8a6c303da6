package session

import (
	"bytes"
	"crypto/sha256"
	"errors"

	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
)

// Peer is whose connection it is, as chatd says in UplinkPeer. It keeps one
// account's sessions from another's connections, and authorises nothing.
type Peer [sha256.Size]byte

// The limits that REFUSE names.
const (
	LimitSessions = "VaultSessions"
	LimitPerPeer  = "VaultSessionsPerPeer"
)

// What REFUSE says about when to come back, in milliseconds.
const (
	retryBusy      = 2000
	retryHandshake = 1000
)

// Line is a client's connection, as the table sees it. Its methods may be called
// by one goroutine at a time.
type Line struct {
	// static after construction
	table *Table
	peer  Peer
	send  func(frame.Frame)

	// guarded by table.mu
	sessions map[frame.SessionID]*session // attached here
	gone     bool
}

// NewLine makes a line to a client of peer. send sends it a frame, in order; it
// must not block, nor call the table, nor keep what the frame's payload points
// to.
func (t *Table) NewLine(peer Peer, send func(frame.Frame)) *Line {
	return &Line{table: t, peer: peer, send: send, sessions: make(map[frame.SessionID]*session)}
}

// Open begins a session: its answer is ATTACH and DATA 0, or REFUSE, once the
// HSM has done its part. The payload is copied.
func (l *Line) Open(o frame.Open) {
	if len(o.Payload) != noisenk.Message1Size {
		l.table.counts.add(RefusedHandshake)
		l.refuseOpen(o.Tag, frame.Malformed, 0, "")
		return
	}
	t := l.table
	t.mu.Lock()
	defer t.unlock()
	status, limit, event := t.reserve(l.peer)
	if status != frame.OK {
		t.counts.add(event)
		l.refuseOpen(o.Tag, status, retryBusy, limit)
		return
	}
	go l.handshake(o.Tag, bytes.Clone(o.Payload))
}

func (l *Line) handshake(tag uint32, msg1 []byte) {
	t := l.table
	defer t.work.Done()
	msg2, noise, err := t.respond(msg1)

	t.mu.Lock()
	defer t.unlock()
	switch {
	case err != nil:
		t.release(l.peer)
		status, event := frame.Malformed, RefusedHandshake
		if errors.Is(err, noisenk.ErrStaticDH) || errors.Is(err, errPanic) {
			status, event = frame.Internal, FailedHandshake
		}
		t.counts.add(event)
		l.refuseOpen(tag, status, retryHandshake, "")
		return
	case t.stopped:
		t.release(l.peer)
		t.counts.add(RefusedDraining)
		l.refuseOpen(tag, frame.Draining, 0, "")
		return
	case l.gone:
		// Nobody ever learned the session's id.
		t.release(l.peer)
		t.counts.add(EndedUnheard)
		return
	}
	s := &session{
		id: t.newID(), peer: l.peer, noise: noise,
		talk:    t.cfg.NewConversation([noisenk.HashSize]byte(noise.HandshakeHash())),
		request: sha256.Sum256(msg1), reply: msg2, accepted: t.cfg.Now(),
	}
	t.sessions[s.id] = s
	t.counts.add(Opened)
	l.attach(s, tag)
	s.answer()
}

// errPanic is a bug that a handshake met.
var errPanic = errors.New("the handshake panicked")

// respond survives a panic, as ask does.
func (t *Table) respond(msg1 []byte) (msg2 []byte, s *noisenk.Session, err error) {
	defer func() {
		if r := recover(); r != nil {
			t.logPanic("a handshake", r)
			msg2, s, err = nil, nil, errPanic
		}
	}()
	return noisenk.Respond(t.cfg.Fleet, t.cfg.StaticPublic, t.cfg.StaticDH, msg1)
}

func (l *Line) refuseOpen(tag uint32, status frame.Status, retry uint32, limit string) {
	l.send(frame.Refuse{Refused: frame.TOpen, Tag: tag, Status: status, RetryMillis: retry, Limit: limit})
}

// Attach continues a session here; the newest line wins. To any other peer than
// the one that opened it the session does not exist.
func (l *Line) Attach(a frame.Attach) {
	t := l.table
	t.mu.Lock()
	defer t.unlock()
	s := t.sessions[a.Session]
	if s == nil || s.peer != l.peer || t.endIfIdle(s, t.cfg.Now()) {
		t.counts.add(RefusedAttach)
		l.send(frame.Refuse{Refused: frame.TAttach, Tag: a.Tag, Session: a.Session, Status: frame.NoSession})
		return
	}
	if s.line != nil && s.line != l {
		s.line.send(frame.Close{Session: s.id, Status: frame.Replaced})
		delete(s.line.sessions, s.id)
	}
	t.counts.add(Attached)
	l.attach(s, a.Tag)
}

func (l *Line) attach(s *session, tag uint32) {
	s.line, s.bell, s.flow = l, l, flow{}
	l.sessions[s.id] = s
	l.send(frame.Attach{Tag: tag, Session: s.id})
}

// Data brings a session's next frame. A session that is not attached here does
// not exist, for this line.
func (l *Line) Data(d frame.Data) {
	t := l.table
	t.mu.Lock()
	defer t.unlock()
	s := l.sessions[d.Session]
	switch {
	case s == nil:
		t.counts.add(RefusedData)
		l.send(frame.Close{Session: d.Session, Status: frame.NoSession})
	case !t.endIfIdle(s, t.cfg.Now()) && t.take(s):
		t.data(s, d)
		s.giveBack()
	}
}

// Close ends a session that is attached here; others are none of its business.
func (l *Line) Close(c frame.Close) {
	t := l.table
	t.mu.Lock()
	defer t.unlock()
	if s := l.sessions[c.Session]; s != nil {
		t.end(s, EndedByClient)
	}
}

// Gone says that the connection has ended. Its sessions are detached and go on.
func (l *Line) Gone() {
	t := l.table
	t.mu.Lock()
	defer t.unlock()
	l.gone = true
	for _, s := range l.sessions {
		s.line = nil
	}
	clear(l.sessions)
}
