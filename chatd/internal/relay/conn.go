package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/route"
	"chatvault/chatd/internal/uplink"
	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// conn is one client's connection: 320 bytes, a size that Go's allocator has. What
// only an active one needs stands in input.
type conn struct {
	// static after construction
	relay *Relay
	wire  wire            // set by the upgrade, as raw
	raw   syscall.RawConn // of the socket below wire; nil: it cannot be parked
	nonce [frame.NonceSize]byte
	began int64 // Unix ns, when the upgrade was asked for

	out  outbox
	wake wheel.Entry

	heard atomic.Int64 // Unix ns of the last frame, ping or pong

	// owned by the reader, while there is none by whoever holds mu
	in                               *input // nil: it is parked
	pushed                           int64  // when the read deadline was last moved; 0: move it
	until                            int64  // Unix ns, when the client must have answered our close frame; 0: not sent
	framesTAT, attachesTAT, authsTAT int64  // GCRA, see ratelimit.Limit.Spend
	calm                             calm
	idle                             bool // it was, when pushed

	fd int32 // that the poller knows; guarded by its mu

	mu       sync.Mutex // guards what follows
	identity *identity  // nil until AUTH was accepted; never changed after
	expires  int64      // Unix ms, of the ticket
	goodbye  int64      // Unix ns when a drain reaches this connection; 0: never
	drains   bool       // it has been reached
	ended    bool
	reason   Reason
	parked   bool
	isCut    bool
	// nil while empty: most connections have no session
	streams  map[*uplink.Link]uplink.Stream
	sessions map[frame.SessionID]*attachment
	pending  map[uint32]pending // by the tag that the vault was told
	room     chan struct{}      // wakes a reader that waits for credit; nil: none ever did

	seat seat // guarded by the relay's mu
}

// identity is who a connection belongs to.
type identity struct {
	account route.Account
	issuer  string   // the configured name
	peer    [32]byte // account and device, as UplinkPeer names them
	// name is what the app calls the account, nil when nobody asks.
	name *ticket.Account
}

// whose is who the limits of id are asked for; nil is nobody known yet.
func (id *identity) whose() ratelimit.Who {
	if id == nil {
		return ratelimit.Who{}
	}
	return ratelimit.Who{Issuer: id.issuer, Account: id.account}
}

// pending is an OPEN or ATTACH that the vault has not answered. It went there
// under a tag of the relay's own, one after the other for all connections: the
// client may use its tags again, and an answer that comes when nobody waits for it
// any more must not be taken for that of another.
type pending struct {
	kind    frame.Type
	tag     uint32          // the client's
	session frame.SessionID // of ATTACH
	stream  uplink.Stream
	since   time.Time
	sending bool // it is on its way to the stream
}

func newConn(r *Relay, began time.Time) *conn {
	c := &conn{relay: r, nonce: newNonce(), began: began.UnixNano()}
	c.out.conn = c
	c.wake.Owner = c
	return c
}

// greet says HELLO. The connection has no reader yet.
func (c *conn) greet() {
	r := c.relay
	r.Counts.Add("connections")
	c.heard.Store(r.Wheel.Now())
	hello := frame.Hello{Version: frame.Version, Nonce: c.nonce, BundleEpoch: r.settings.Load().bundleEpoch}
	// The wheel knows the connection before the client hears of it, and waits for
	// mu before it writes anything. HELLO itself is written here: a new socket has
	// room for that much. If it has not, or the client has gone, reading fails.
	c.mu.Lock()
	known := r.add(c)
	r.Wheel.Set(&c.wake, r.cfg.AuthTimeout)
	size, err := c.wire.release(hello)
	c.mu.Unlock()
	if err != nil {
		c.wire.Conn.Close()
	}
	r.traffic.framesOut.Add(1)
	r.traffic.bytesOut.Add(int64(size))
	if !known {
		c.end(draining)
	}
}

// serve handles message after message until the connection parks, or cannot be
// read any more; then it cleans up. Once the connection has ended it discards
// what still comes, until the client has answered the close frame.
func (c *conn) serve() {
	c.attach()
	for {
		err := c.await()
		if err == errParked {
			return
		}
		var raw *[]byte
		var kind int
		if err == nil {
			raw, kind, err = c.read()
		}
		if err != nil {
			// The close frame may be on its way, or not be written yet.
			closing := c.hasEnded() && c.until == 0 || errors.Is(err, websocket.ErrReadLimit)
			c.end(readReason(err))
			if closing {
				c.linger()
			}
			c.cleanUp()
			return
		}
		c.hear(kind, *raw)
		frames.Put(raw)
	}
}

// hear acts on one message, if the connection still lives.
func (c *conn) hear(kind int, raw []byte) {
	switch kind {
	case websocket.PingMessage:
		c.onControl(websocket.PongMessage, raw)
		return
	case websocket.PongMessage:
		c.onControl(0, nil)
		return
	}
	if c.calm != restless {
		c.calm, c.pushed = restless, 0
	}
	c.relay.traffic.framesIn.Add(1)
	c.relay.traffic.bytesIn.Add(int64(len(raw)))
	if !c.hasEnded() {
		c.handle(kind, raw)
	}
}

func readReason(err error) Reason {
	if err == io.EOF { // nearly always: it costs no search
		return clientLeft
	}
	var closed *websocket.CloseError
	var network net.Error
	switch {
	case errors.Is(err, websocket.ErrReadLimit):
		return oversized
	case errors.As(err, &network) && network.Timeout():
		return silent // in the midst of a message
	case errors.As(err, &closed), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return clientLeft
	}
	return wsProtocol
}

// handle acts on one message of a live connection.
func (c *conn) handle(kind int, raw []byte) {
	c.heard.Store(c.relay.Wheel.Now())
	if kind != websocket.BinaryMessage || len(raw) == 0 {
		c.refuseAndEnd(frame.Refuse{Status: frame.Malformed})
		return
	}
	t := frame.Type(raw[0])
	if wait := c.spend(&c.framesTAT, ratelimit.FramesPerConnection); wait > 0 {
		c.refuseAndEnd(limited(t, ratelimit.FramesPerConnection, wait))
		return
	}
	authenticated := c.who() != nil
	switch {
	case t == frame.TData && authenticated:
		c.onData(raw)
	case t == frame.TAuth || authenticated:
		c.onFrame(raw)
	default:
		// Nothing is parsed for strangers but AUTH.
		c.refuseAndEnd(frame.Refuse{Refused: t, Status: frame.NotAuthorised})
	}
}

// onFrame acts on everything but DATA.
func (c *conn) onFrame(raw []byte) {
	f, err := frame.Parse(raw)
	if err != nil {
		c.refuseAndEnd(frame.Refuse{Refused: frame.Type(raw[0]), Status: frame.Malformed})
		return
	}
	switch f := f.(type) {
	case frame.Auth:
		c.onAuth(f)
	case frame.Open:
		c.onOpen(f)
	case frame.Attach:
		c.onAttach(f)
	case frame.Close:
		c.onClose(f)
	default: // what only the relay says
		c.refuseAndEnd(frame.Refuse{Refused: f.Type(), Status: frame.Malformed})
	}
}

// onControl hears a ping or pong, and answers the ping. gorilla calls it from
// the read loop too.
func (c *conn) onControl(answer int, data []byte) error {
	if c.calm == roused {
		c.calm = pinged
	}
	c.heard.Store(c.relay.Wheel.Now())
	if c.hasEnded() {
		return nil
	}
	if wait := c.spend(&c.framesTAT, ratelimit.FramesPerConnection); wait > 0 {
		c.refuseAndEnd(limited(0, ratelimit.FramesPerConnection, wait))
	} else if answer != 0 && !c.pingFollows() && !c.out.send(answer, data) {
		c.end(slowConsumer)
	}
	return nil
}

// pingFollows says that the next message is here and a ping too: then that one alone
// is answered (RFC 6455 §5.5.3). A pong costs a system call, and a flood of pings
// brings eighty with one read.
func (c *conn) pingFollows() bool {
	b, _ := c.in.br.Peek(c.in.br.Buffered())
	return beginsWithPing(b)
}

// onClosed answers the client's close frame, unless it is itself the answer to
// ours. gorilla calls it from the read loop.
func (c *conn) onClosed(code int, _ string) error {
	if !c.hasEnded() {
		c.in.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
	}
	return nil
}

// limit is a limit of this connection: its account may have one of its own. Where
// nobody has, nothing is locked for it: it is on the path of every frame.
func (c *conn) limit(name string) ratelimit.Limit {
	rules := c.relay.settings.Load().limits
	if rules.Overrides(name) == 0 {
		return rules.Set[name]
	}
	return rules.For(name, c.who().whose())
}

func (c *conn) limitLocked(name string) ratelimit.Limit {
	return c.relay.settings.Load().limits.For(name, c.identity.whose())
}

// spend counts one against a limit of this connection; it returns how long to
// wait, or 0.
func (c *conn) spend(tat *int64, name string) time.Duration {
	return c.spendOf(c.limit(name), tat)
}

func (c *conn) spendOf(limit ratelimit.Limit, tat *int64) time.Duration {
	// The coarse clock is behind: what it allows is allowed, and when it
	// refuses, the exact one decides.
	next, wait := limit.Spend(*tat, c.relay.Wheel.Now()/1000)
	if wait > 0 {
		next, wait = limit.Spend(*tat, c.relay.Clock.Now().UnixMicro())
	}
	*tat = next
	return time.Duration(wait) * time.Microsecond
}

func (c *conn) sendFrame(f frame.Frame) {
	if !c.out.sendFrame(f) {
		c.end(slowConsumer)
	}
}

// linger reads away what is unread: a close with unread bytes would discard
// the close frame on its way.
func (c *conn) linger() {
	raw := c.wire.Conn
	raw.SetReadDeadline(time.Now().Add(c.relay.closeGrace))
	io.CopyN(io.Discard, raw, 256<<10)
}

// who is whose connection it is, nil before AUTH.
func (c *conn) who() *identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.identity
}

func (c *conn) hasEnded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// end begins the end of the connection; the first reason counts. The read loop
// finishes it.
func (c *conn) end(why Reason) {
	c.mu.Lock()
	first := !c.ended
	if first {
		c.ended, c.reason = true, why
		c.wakeLocked()
	}
	c.mu.Unlock()
	if !first {
		return
	}
	c.relay.Counts.Add("closed_" + why.String())
	if s := reasons[why].status; s != noStatus {
		c.out.close(s, why == slowConsumer)
		c.kick()
	} else if why == silent {
		c.cut()
	}
}

// cleanUp leaves everything that the connection was part of.
func (c *conn) cleanUp() {
	c.wire.Conn.Close()
	c.mu.Lock()
	c.ended = true
	id, streams, sessions := c.identity, c.streams, c.sessions
	c.streams, c.sessions, c.pending = nil, nil, nil
	c.relay.Wheel.Clear(&c.wake)
	reason := c.reason
	c.mu.Unlock()
	for s := range sessions {
		c.relay.release(s, c)
	}
	for _, s := range streams {
		s.Leave(c.heir(id))
	}
	c.relay.leave(c)
	c.detach()
	if c.relay.poller != nil {
		c.relay.poller.forget(c)
	}
	c.relay.places.Add(-1)
	c.relay.Log.Debug("connection ended", "reason", reason.String())
}
