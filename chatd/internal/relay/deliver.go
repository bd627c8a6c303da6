package relay

import (
	"errors"
	"fmt"
	"weak"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/frame"
)

var errForeignSession = errors.New("the vault node attached a session of another node")

// Deliver implements uplink.Peer.
func (c *conn) Deliver(l *uplink.Link, raw []byte) error {
	switch frame.Type(raw[0]) {
	case frame.TData:
		return c.deliverData(l, raw)
	case frame.TUplinkCredit:
		return c.deliverCredit(l, raw)
	}
	f, err := frame.Parse(raw)
	if err != nil {
		return err
	}
	switch f := f.(type) {
	case frame.Attach:
		return c.deliverAttach(l, f)
	case frame.Close:
		c.deliverClose(l, f.Session, raw)
	case frame.Refuse:
		c.deliverRefuse(l, f)
	case frame.Notice:
		c.relay.ringEverywhere(c.who(), c)
	default:
		return fmt.Errorf("%w: type 0x%02x from a vault node", frame.ErrMalformed, uint8(f.Type()))
	}
	return nil
}

// deliverData carries a frame to the client, if the session is attached to its
// connection by this very link.
func (c *conn) deliverData(l *uplink.Link, raw []byte) error {
	d, err := frame.ParseData(raw)
	if err != nil {
		return err
	}
	c.mu.Lock()
	a := c.attachedLocked(l, d.Session)
	kept := a != nil && a.replies.Take()
	c.mu.Unlock()
	switch {
	case a == nil:
		c.relay.Counts.Add("dropped_not_attached")
	case !kept:
		c.overrun(a)
	case !c.out.sendData(a, raw):
		c.end(slowConsumer)
	}
	return nil
}

func (c *conn) has(l *uplink.Link, id frame.SessionID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attachedLocked(l, id) != nil
}

// attachedLocked is the session, if it is attached to the connection by this very
// link.
func (c *conn) attachedLocked(l *uplink.Link, id frame.SessionID) *attachment {
	if a := c.sessions[id]; a != nil && a.stream.Link() == l {
		return a
	}
	return nil
}

func (c *conn) forward(raw []byte) {
	if !c.out.send(websocket.BinaryMessage, raw) {
		c.end(slowConsumer)
	}
}

// deliverAttach binds a session to the connection. The newest wins: the
// connection that had it is told.
func (c *conn) deliverAttach(l *uplink.Link, a frame.Attach) error {
	if a.Session.Node() != l.Node() {
		return errForeignSession
	}
	c.mu.Lock()
	stream, joined := c.streams[l]
	p, asked := c.pending[a.Tag]
	if !joined || !asked || p.stream != stream || p.kind == frame.TAttach && p.session != a.Session {
		if joined && !c.wantsLocked(a.Session) {
			// Answered too late, or never asked for: nobody would use it.
			stream.SendNow(frame.Close{Session: a.Session, Status: frame.SessionEnded})
		}
		c.mu.Unlock()
		return nil
	}
	delete(c.pending, a.Tag)
	if c.sessions == nil {
		c.sessions = map[frame.SessionID]*attachment{}
	}
	c.sessions[a.Session] = &attachment{id: a.Session, stream: stream}
	before := c.relay.claim(a.Session, c)
	c.mu.Unlock()
	c.relay.Counts.Add("sessions_attached")
	a.Tag = p.tag
	c.sendFrame(a)
	if before != nil && before != c {
		// Only what came over this link before: what another one brings may be newer,
		// and there the vault says itself who was replaced.
		before.lose(l, a.Session, frame.Replaced)
	}
	return nil
}

// wantsLocked says whether the session is attached here, or the vault was asked to
// attach it.
func (c *conn) wantsLocked(id frame.SessionID) bool {
	_, attaching := c.waitingLocked(frame.Refuse{Refused: frame.TAttach, Session: id})
	return attaching || c.sessions[id] != nil
}

// lose takes a session that is attached by this very link off the connection and
// tells the client why.
func (c *conn) lose(l *uplink.Link, id frame.SessionID, why frame.Status) {
	if c.unbindFrom(l, id) {
		c.sendFrame(frame.Close{Session: id, Status: why})
		c.settle()
	}
}

// unbindFrom takes a session off this connection, if it is attached by this very
// link.
func (c *conn) unbindFrom(l *uplink.Link, id frame.SessionID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.attachedLocked(l, id) == nil {
		return false
	}
	c.unbindLocked(id)
	return true
}

func (c *conn) deliverClose(l *uplink.Link, id frame.SessionID, raw []byte) {
	if !c.unbindFrom(l, id) {
		return // both sides closed it, or another connection has it now
	}
	c.forward(raw)
	c.settle()
}

// deliverRefuse carries a refusal of something that this connection asked.
func (c *conn) deliverRefuse(l *uplink.Link, f frame.Refuse) {
	c.relay.Counts.Add("vault_refused_" + knownStatus(f.Status))
	if f.Refused == frame.TOpen || f.Refused == frame.TAttach {
		c.mu.Lock()
		p, asked := c.pending[f.Tag]
		asked = asked && p.stream.Link() == l
		if asked {
			delete(c.pending, f.Tag)
		}
		c.mu.Unlock()
		if asked {
			f.Tag = p.tag
			c.sendFrame(f)
			c.settle()
		}
		return
	}
	if !c.has(l, f.Session) {
		return
	}
	if f.Status == frame.NoSession || f.Status == frame.SessionEnded {
		c.unbindFrom(l, f.Session)
	}
	c.sendFrame(f)
	c.settle()
}

// knownStatus keeps the names of counters a closed set.
func knownStatus(s frame.Status) string {
	if s.Known() {
		return s.String()
	}
	return "unknown"
}

// Lost implements uplink.Peer: every session on the link, and everything asked
// of it, is answered with a status after which the client may try again.
func (c *conn) Lost(l *uplink.Link) {
	c.mu.Lock()
	delete(c.streams, l)
	var lost []frame.SessionID
	for id, a := range c.sessions {
		if a.stream.Link() == l {
			lost = append(lost, id)
		}
	}
	var refused []frame.Refuse
	for tag, p := range c.pending {
		if p.stream.Link() == l {
			delete(c.pending, tag)
			refused = append(refused, frame.Refuse{Refused: p.kind, Tag: p.tag, Session: p.session})
		}
	}
	c.mu.Unlock()
	for _, id := range lost {
		c.lose(l, id, frame.NoVault)
	}
	for _, f := range refused {
		c.refuseNoVault(f)
	}
	c.settle()
}

// heir takes what a vault node still says on a stream that a connection has left:
// the doorbell of an operation whose client left before it had ended must ring on
// the account's other devices all the same (A19). It is remembered for minutes, so
// it does not hold the connection.
type heir struct {
	relay *Relay
	id    *identity
	from  weak.Pointer[conn]
}

func (c *conn) heir(id *identity) heir { return heir{c.relay, id, weak.Make(c)} }

// Deliver implements uplink.Peer.
func (h heir) Deliver(_ *uplink.Link, raw []byte) error {
	switch frame.Type(raw[0]) {
	case frame.TNotice:
		h.relay.ringEverywhere(h.id, h.from.Value())
	case frame.TData:
		h.relay.Counts.Add("dropped_not_attached")
	}
	return nil
}

// Lost implements uplink.Peer.
func (h heir) Lost(*uplink.Link) {}
