package relay

import (
	"context"
	"time"

	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/frame"
)

const (
	// retryVault is what a client is told to wait when no vault can be reached.
	retryVault = time.Second
	// learnTimeout bounds the search for a node that this relay does not know.
	learnTimeout = 3 * time.Second
	// answerTimeout is after how long an OPEN or ATTACH without an answer no
	// longer counts as a session.
	answerTimeout = 30 * time.Second
)

// SessionsPerConnection is the limit that a REFUSE names when
// --max-sessions-per-connection is reached.
const SessionsPerConnection = "SessionsPerConnection"

// onOpen asks a random vault node for a new session, on the link that has the
// fewest clients.
func (c *conn) onOpen(o frame.Open) {
	r := c.relay
	refusal := frame.Refuse{Refused: frame.TOpen, Tag: o.Tag}
	if !c.mayBegin(&refusal) {
		return
	}
	link := r.Vaults.Pick()
	if link == nil {
		c.refuseNoVault(refusal)
		return
	}
	id := c.who()
	d := r.spend(ratelimit.OpensPerAccount, ratelimit.OpensPerDevice, id)
	if !d.Allowed {
		l := limited(frame.TOpen, d.Limit, d.Retry)
		l.Tag = o.Tag
		c.refuse(l)
		return
	}
	c.begin(link, refusal, o.Payload)
}

// onAttach asks the session's own node to continue it on this connection.
func (c *conn) onAttach(a frame.Attach) {
	refusal := frame.Refuse{Refused: frame.TAttach, Tag: a.Tag, Session: a.Session}
	if wait := c.spend(&c.attachesTAT, ratelimit.AttachesPerConnection); wait > 0 {
		l := limited(frame.TAttach, ratelimit.AttachesPerConnection, wait)
		l.Tag, l.Session = a.Tag, a.Session
		c.refuse(l)
		return
	}
	if !c.mayBegin(&refusal) {
		return
	}
	link := c.findLink(a.Session)
	switch {
	case link != nil:
		c.begin(link, refusal, nil)
	case c.relay.Vaults.Over(a.Session.Node()):
		// No use in waiting for a node that has restarted.
		refusal.Status = frame.NoSession
		c.refuse(refusal)
	default:
		c.refuseNoVault(refusal)
	}
}

// findLink returns a link to the session's node: where the session is attached to
// this connection already that one, so that what is said of it stays in order.
func (c *conn) findLink(id frame.SessionID) *uplink.Link {
	c.mu.Lock()
	a := c.sessions[id]
	c.mu.Unlock()
	if a != nil {
		return a.stream.Link()
	}
	return c.findNode(id.Node())
}

// findNode returns a link to a node, if need be to an address that another relay
// told.
func (c *conn) findNode(n frame.NodeID) *uplink.Link {
	r := c.relay
	if link := r.Vaults.Node(n); link != nil {
		return link
	}
	ctx, cancel := context.WithTimeout(r.ctx, learnTimeout)
	defer cancel()
	addr, ok := r.Directory.FindNode(ctx, n)
	if !ok {
		return nil
	}
	return r.Vaults.Learn(ctx, n, addr)
}

// mayBegin checks what needs nobody else: an expired ticket, a drain, a tag
// that is taken, too many sessions. It refuses by itself.
func (c *conn) mayBegin(refusal *frame.Refuse) bool {
	c.mu.Lock()
	c.dropLateLocked()
	taken, attaching := c.waitingLocked(*refusal)
	_, attached := c.sessions[refusal.Session]
	switch {
	case c.expiredLocked():
		refusal.Status = frame.TicketExpired
	case c.drains:
		refusal.Status = frame.Draining
	case taken:
		refusal.Status = frame.Malformed
	case attaching:
		refusal.Status, refusal.RetryMillis = frame.Busy, millis(time.Second)
	case !attached && len(c.sessions)+len(c.pending) >= c.relay.cfg.MaxSessionsPerConnection:
		refusal.Status, refusal.Limit, refusal.RetryMillis = frame.Busy, SessionsPerConnection, millis(time.Second)
	}
	c.mu.Unlock()
	if refusal.Status != frame.OK {
		c.refuse(*refusal)
		return false
	}
	return true
}

// dropLateLocked forgets what the vault has not answered in time; it says whether
// there was anything. The stream may then be left, so what is still to be sent on it
// stays.
func (c *conn) dropLateLocked() (dropped bool) {
	if len(c.pending) == 0 {
		return false
	}
	now := c.relay.Clock.Now()
	for tag, p := range c.pending {
		if !p.sending && now.Sub(p.since) >= answerTimeout {
			delete(c.pending, tag)
			dropped = true
		}
	}
	return dropped
}

// waitingLocked says whether an unanswered OPEN or ATTACH of the client has the tag
// of this one, and whether the vault was asked to attach this session here and has
// not answered: between two answers nobody could say which frame counts from which
// of them on.
func (c *conn) waitingLocked(refusal frame.Refuse) (taken, attaching bool) {
	for _, p := range c.pending {
		taken = taken || p.tag == refusal.Tag
		attaching = attaching || refusal.Refused == frame.TAttach && p.kind == frame.TAttach && p.session == refusal.Session
	}
	return taken, attaching
}

// begin sends the OPEN, with its payload, or ATTACH that refusal would refuse.
func (c *conn) begin(link *uplink.Link, refusal frame.Refuse, payload []byte) {
	stream, tag, err := c.expect(link, refusal)
	if err != nil {
		c.refuseNoVault(refusal)
		return
	}
	var f frame.Frame = frame.Attach{Tag: tag, Session: refusal.Session}
	if refusal.Refused == frame.TOpen {
		f = frame.Open{Tag: tag, Payload: payload}
	}
	// If the link is lost now, Lost finds the pending entry and refuses.
	stream.Send(f.Append(nil))
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, waits := c.pending[tag]; waits {
		p.sending = false
		c.pending[tag] = p
	}
}

// expect notes that the vault node will answer under this tag, on the connection's
// stream on the link; it makes one if need be. Both at once: a stream on which
// nothing is expected may be left at any time.
func (c *conn) expect(link *uplink.Link, refusal frame.Refuse) (stream uplink.Stream, tag uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stream, joined := c.streams[link]
	if !joined {
		if stream, err = link.Join(c, c.identity.peer); err != nil {
			return stream, 0, err
		}
		if c.streams == nil {
			c.streams = map[*uplink.Link]uplink.Stream{}
		}
		c.streams[link] = stream
	}
	if c.pending == nil {
		c.pending = map[uint32]pending{}
	}
	if refusal.Refused == frame.TAttach {
		// Until the answer nothing of the session may follow the ATTACH: the answer
		// begins the count of its windows anew, on both sides.
		c.unbindLocked(refusal.Session)
	}
	tag = c.relay.asked.Add(1)
	c.pending[tag] = pending{
		kind: refusal.Refused, tag: refusal.Tag, session: refusal.Session, stream: stream, since: c.relay.Clock.Now(),
		sending: true,
	}
	return stream, tag, nil
}

func (c *conn) refuseNoVault(refusal frame.Refuse) {
	refusal.Status, refusal.RetryMillis = frame.NoVault, millis(retryVault)
	c.refuse(refusal)
}

// onData carries a frame to the vault node of a session that is attached to
// this very connection: what others have is none of its business.
func (c *conn) onData(raw []byte) {
	d, err := frame.ParseData(raw)
	if err != nil {
		c.refuseAndEnd(frame.Refuse{Refused: frame.TData, Status: frame.Malformed})
		return
	}
	stream, ok := c.passage(d.Session)
	if !ok {
		c.refuse(frame.Refuse{Refused: frame.TData, Session: d.Session, Status: frame.NoSession})
		return
	}
	// A lost link has closed the session: the client is told by Lost.
	stream.Send(raw)
}

// onClose carries a CLOSE.
func (c *conn) onClose(f frame.Close) {
	if !c.unbindAndClose(f) {
		c.refuse(frame.Refuse{Refused: frame.TClose, Session: f.Session, Status: frame.NoSession})
		return
	}
	c.settle()
}

// unbindAndClose takes a session off this connection and tells the vault; false: it
// was not attached here. Both at once: from then on the stream may be left at any
// time, and the vault would take no CLOSE after that.
func (c *conn) unbindAndClose(f frame.Close) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	stream, ok := c.unbindLocked(f.Session)
	if ok {
		stream.SendNow(f)
	}
	return ok
}

// unbindLocked takes a session off this connection.
func (c *conn) unbindLocked(id frame.SessionID) (uplink.Stream, bool) {
	a, ok := c.sessions[id]
	if !ok {
		return uplink.Stream{}, false
	}
	delete(c.sessions, id)
	c.relay.release(id, c)
	c.wakeLocked()
	return a.stream, true
}
