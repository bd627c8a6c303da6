package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chatvault/protocol/frame"
)

// Session is a vault session as the relay sees it: an id, and payloads under
// sequence numbers. It goes on over any number of connections. Not safe for
// concurrent use.
type Session struct {
	link *Link
	id   frame.SessionID
	conn *conn // to which it is attached, or nil

	ended bool // the vault or the relay said so
}

// errSilent: no reply in time, on a connection that seems to live.
var errSilent = fmt.Errorf("%w: no reply", ErrLost)

// Open sends handshake message 1 and returns the session with message 2. It
// tries once.
func (l *Link) Open(ctx context.Context, message1 []byte) (*Session, []byte, error) {
	c, err := l.connect(ctx, anew)
	if err != nil {
		return nil, nil, err
	}
	c.drain()
	tag := l.nextTag()
	if err := c.send(frame.Open{Tag: tag, Payload: message1}); err != nil {
		return nil, nil, c.unsent(err)
	}
	s := &Session{link: l, conn: c}
	var message2 []byte
	attached := false
	err = c.await(ctx, l.cfg.ReplyWait, func(f frame.Frame) (bool, error) {
		switch f := f.(type) {
		case frame.Attach:
			if f.Tag == tag {
				s.id, attached = f.Session, true
			}
		case frame.Data:
			if attached && f.Session == s.id && f.Sequence == 0 {
				message2 = f.Payload
				return true, nil
			}
		case frame.Refuse:
			if f.Refused == frame.TOpen && (f.Tag == tag || f.Tag == 0) {
				return false, refusal(f)
			}
		case frame.Close:
			if attached && f.Session == s.id {
				return false, &Ended{f.Status}
			}
		}
		return false, nil
	})
	if err != nil {
		if attached {
			s.Abandon()
		}
		c.expire(err)
		return nil, nil, err
	}
	l.worked()
	return s, message2, nil
}

// ID is the session's id, 20 bytes.
func (s *Session) ID() frame.SessionID { return s.id }

// Exchange sends the payload under its sequence number and waits for a reply
// that accept takes. However often it has to repeat them, the bytes are the
// same. It reconnects and attaches until the context ends; *Ended says that
// the session is gone, *Refusal that the relay will not have the request.
func (s *Session) Exchange(ctx context.Context, sequence uint32, payload []byte, accept func([]byte) bool) error {
	refusals, silences := 0, 0
	for {
		err := s.try(ctx, sequence, payload, accept)
		if err == nil {
			s.link.worked()
			return nil
		}
		if s.conn != nil {
			s.conn.expire(err)
		}
		var ended *Ended
		var refused *Refusal
		switch {
		case errors.As(err, &ended):
			s.ended = true
			return err
		case errors.Is(err, ErrClosed), errors.Is(err, ErrProtocol):
			return err
		case errors.As(err, &refused):
			if refusals++; refusals > maxRefusals {
				return err
			}
			if err := s.link.pause(ctx, refused, refusals); err != nil {
				return err
			}
		case errors.Is(err, errSilent):
			if silences++; silences%maxSilences == 0 && s.conn != nil {
				s.conn.fail(err)
			}
		case !errors.Is(err, ErrLost):
			return err
		}
		if ctx.Err() != nil {
			return s.link.lost(ctx.Err())
		}
	}
}

// try connects, attaches, sends and waits, each once.
func (s *Session) try(ctx context.Context, sequence uint32, payload []byte, accept func([]byte) bool) error {
	c, err := s.link.connect(ctx, inFlight)
	if err != nil {
		return err
	}
	if c != s.conn {
		if err := s.attach(ctx, c); err != nil {
			return err
		}
	}
	if err := c.send(frame.Data{Session: s.id, Sequence: sequence, Payload: payload}); err != nil {
		return c.unsent(err)
	}
	return c.await(ctx, s.link.cfg.ReplyWait, func(f frame.Frame) (bool, error) {
		if d, ok := f.(frame.Data); ok {
			// What does not decrypt is ignored: anybody between could have
			// sent it.
			return d.Session == s.id && d.Sequence == sequence && accept(d.Payload), nil
		}
		return false, s.end(f, frame.TData)
	})
}

// attach moves the session to another connection.
func (s *Session) attach(ctx context.Context, c *conn) error {
	tag := s.link.nextTag()
	if err := c.send(frame.Attach{Tag: tag, Session: s.id}); err != nil {
		return c.unsent(err)
	}
	err := c.await(ctx, s.link.cfg.ReplyWait, func(f frame.Frame) (bool, error) {
		if a, ok := f.(frame.Attach); ok {
			return a.Session == s.id && a.Tag == tag, nil
		}
		return false, s.end(f, frame.TAttach)
	})
	if err != nil {
		if errors.Is(err, errSilent) {
			c.fail(err)
		}
		return err
	}
	s.conn = c
	return nil
}

// end says whether a frame ends the session, or refuses what was sent.
func (s *Session) end(f frame.Frame, sent frame.Type) error {
	switch f := f.(type) {
	case frame.Close:
		if f.Session != s.id {
			return nil
		}
		s.conn = nil
		if f.Status == frame.NoVault {
			// The relay lost its uplink. The vault may live, and the session
			// with it: it is attached again.
			return &Refusal{Status: f.Status}
		}
		return &Ended{f.Status}
	case frame.Refuse:
		if f.Refused != sent || (f.Session != s.id && f.Session != frame.SessionID{}) {
			return nil
		}
		switch f.Status {
		case frame.NoSession, frame.SessionEnded, frame.TicketExpired:
			return &Ended{f.Status}
		}
		return refusal(f)
	}
	return nil
}

// Close tells the vault that the session is over. Nothing depends on its
// arrival.
func (s *Session) Close() {
	if s.conn != nil && !s.conn.dead() {
		s.conn.send(frame.Close{Session: s.id, Status: frame.OK})
	}
}

// Abandon is Close for a session whose connection may be lost: the next one
// closes it again.
func (s *Session) Abandon() {
	s.Close()
	if !s.ended {
		s.link.leave(s.id)
	}
}

// pause waits out a retryable refusal, or returns it: when it is final, or
// asks for more patience than allowed or left.
func (l *Link) pause(ctx context.Context, r *Refusal, n int) error {
	d := max(r.RetryIn, Backoff(n))
	if !r.Status.Retryable() || r.RetryIn > l.cfg.MaxWait {
		return r
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		return r
	}
	return Sleep(ctx, d)
}

// await hands frames to take until it is done or fails, the connection ends,
// or nothing fitting has come for the wait.
func (c *conn) await(ctx context.Context, wait time.Duration, take func(frame.Frame) (bool, error)) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case f := <-c.frames:
			if done, err := take(f); done || err != nil {
				return err
			}
		case <-c.done:
			for { // what came before the end counts
				select {
				case f := <-c.frames:
					if done, err := take(f); done || err != nil {
						return err
					}
					continue
				default:
				}
				return c.ended()
			}
		case <-timer.C:
			return errSilent
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrLost, ctx.Err())
		}
	}
}

// drain forgets frames that nobody waited for.
func (c *conn) drain() {
	for {
		select {
		case <-c.frames:
		default:
			return
		}
	}
}

// expire ends a connection whose ticket has ended, so that the next one starts
// with another.
func (c *conn) expire(err error) {
	var ended *Ended
	var refused *Refusal
	if errors.As(err, &ended) && ended.Status == frame.TicketExpired ||
		errors.As(err, &refused) && refused.Status == frame.TicketExpired {
		c.fail(&Refusal{Status: frame.TicketExpired})
	}
}

// unsent ends a connection that takes no frame, and returns why it ended: the
// relay may have closed it with a reason, which the read loop is about to tell.
func (c *conn) unsent(err error) error {
	timer := time.NewTimer(reasonWait)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	}
	c.fail(err)
	return c.ended()
}

// ended is the error of an exchange whose connection ended under it: a lost
// connection, whatever the reason but replaced. Reconnecting finds out whether
// another refusal lasts.
func (c *conn) ended() error {
	if errors.Is(c.err, ErrClosed) || errors.Is(c.err, ErrLost) || replaced(c.err) {
		return c.err
	}
	return fmt.Errorf("%w: %v", ErrLost, c.err)
}
