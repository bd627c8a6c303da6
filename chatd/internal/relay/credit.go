package relay

import (
	"time"

	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/frame"
)

// creditTimeout is how long a vault may leave a session without credit while its
// client has more to send. Only a client that does not wait for replies gets
// there. It is at most two pings, shorter than a client's silence may last: its
// reader waits and hears none.
const creditTimeout = 30 * time.Second

// attachment is a session that is attached to a connection, and its part in the
// flow control of the uplink (protocol/frame, flow.go).
type attachment struct {
	// static after construction
	id     frame.SessionID
	stream uplink.Stream

	// guarded by conn.mu
	requests frame.SendWindow
	replies  frame.ReceiveWindow
}

// passage takes one frame from the window of a session on its way to the vault.
// While there is none left it waits, and nobody else does: this is the reader of
// the client's own connection, and what the client goes on sending stays in its
// socket. A session that is not attached here, any more, has no passage.
func (c *conn) passage(id frame.SessionID) (uplink.Stream, bool) {
	c.mu.Lock()
	a := c.sessions[id]
	free := a != nil && a.requests.Take()
	c.mu.Unlock()
	switch {
	case a == nil:
		return uplink.Stream{}, false
	case free:
		return a.stream, true
	}
	return c.awaitCredit(id)
}

func (c *conn) awaitCredit(id frame.SessionID) (uplink.Stream, bool) {
	r := c.relay
	r.Counts.Add("credit_waits")
	late := time.NewTimer(r.creditTimeout)
	defer late.Stop()
	defer func() { c.heard.Store(r.Wheel.Now()) }() // it was not silent: nobody listened
	for {
		c.mu.Lock()
		if c.room == nil {
			c.room = make(chan struct{}, 1)
		}
		a := c.sessions[id]
		over := a == nil || c.ended || c.isCut
		free := !over && a.requests.Take()
		c.mu.Unlock()
		if over {
			return uplink.Stream{}, false
		}
		if free {
			return a.stream, true
		}
		select {
		case <-c.room:
		case <-late.C:
			r.Counts.Add("sessions_stalled")
			c.giveUp(a, frame.NoVault)
			return uplink.Stream{}, false
		}
	}
}

// wakeLocked lets a reader that waits for credit look again.
func (c *conn) wakeLocked() {
	select {
	case c.room <- struct{}{}: // nil before anybody has ever waited
	default:
	}
}

// giveUp ends a session on both sides: the client is told why.
func (c *conn) giveUp(a *attachment, why frame.Status) {
	told := frame.Close{Session: a.id, Status: why}
	c.mu.Lock()
	there := c.sessions[a.id] == a
	if there {
		c.unbindLocked(a.id)
		a.stream.SendNow(told) // under mu: see unbindAndClose
	}
	c.mu.Unlock()
	if there {
		c.sendFrame(told)
		c.settle()
	}
}

// overrun ends a session whose vault node sent beyond its window, or gave back
// more than it was sent. The others on the uplink go on.
func (c *conn) overrun(a *attachment) {
	c.relay.Counts.Add("sessions_overrun")
	c.giveUp(a, frame.Internal)
}

// deliverCredit hears how much of a session's window the vault has used. Credit
// of what is not attached any more comes late.
func (c *conn) deliverCredit(l *uplink.Link, raw []byte) error {
	f, err := frame.ParseCredit(raw)
	if err != nil {
		return err
	}
	c.mu.Lock()
	a := c.attachedLocked(l, f.Session)
	kept := a == nil || a.requests.Credit(f.Frames)
	c.wakeLocked()
	c.mu.Unlock()
	if !kept {
		c.overrun(a)
	}
	return nil
}

// written gives the vault credit for the DATA frames that the client was sent.
// Under mu, so that no credit follows the ATTACH that begins the count anew.
func (c *conn) written(sent ...*attachment) {
	if len(sent) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range sent {
		if n := a.replies.Use(1); n > 0 && c.sessions[a.id] == a {
			a.stream.Credit(a.id, n)
		}
	}
}
