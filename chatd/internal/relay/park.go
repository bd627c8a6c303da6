package relay

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

// A connection is active or parked. An active one has a goroutine, which reads,
// and a read buffer. After parkAfter without a byte from the client it parks,
// after parkIdle if it has no vault session: goroutine and buffer go, the socket
// stands in the poller's set. The poller itself hears pings and pongs of a plain
// connection (hearParked). Whatever needs a reader resumes it: other bytes from
// the client, TLS, the end of the connection. Where there is no poller,
// connections stay active.

const (
	// parkAfter is how long a silent connection keeps its goroutine: a few of a
	// phone's round trips. The memory that a relay needs at most is of those who
	// are active at a time.
	parkAfter = 2 * time.Second
	// parkIdle is how long it does without a vault session, open or asked for: such a
	// client may have nothing to say for hours. Go keeps for good what describes a
	// goroutine, some 450 bytes, of as many as there ever were at a time.
	parkIdle = 500 * time.Millisecond
	// pushEvery is how often the deadline that tells of silence is moved at
	// most; a connection may so be parked that much earlier.
	pushEvery = time.Second
)

// calm is how soon a connection parks.
type calm uint8

const (
	restless calm = iota // it does after parkAfter
	roused               // it was parked, and has said nothing since
	pinged               // it was parked, and has sent nothing but pings and pongs since: at once
)

// readBuffer is the size of a read buffer, in bytes: a frame of 256 bytes and
// what comes with it. Larger ones are read past it.
const readBuffer = 512

// inputs holds those of connections that read.
var inputs = sync.Pool{New: func() any { return newInput(readBuffer) }}

// firstInputs holds those of connections that have not parked yet: AUTH, with its
// ticket, is read at once.
var firstInputs = sync.Pool{New: func() any { return newInput(2 * readBuffer) }}

// input is where a connection reads, and what only a reader needs: a parked
// connection has none.
type input struct {
	br    *bufio.Reader   // reads from the input itself
	conn  net.Conn        // below br
	ahead *[]byte         // of encoded: what the poller has read already; nil: nothing
	ws    *websocket.Conn // reads from br; nil: nothing has needed it
}

func newInput(size int) *input {
	i := new(input)
	i.br = bufio.NewReaderSize(i, size)
	return i
}

// Read implements io.Reader.
func (i *input) Read(b []byte) (int, error) {
	if i.ahead == nil {
		return i.conn.Read(b)
	}
	n := copy(b, *i.ahead)
	if *i.ahead = (*i.ahead)[:copy(*i.ahead, (*i.ahead)[n:])]; len(*i.ahead) == 0 {
		encoded.Put(i.ahead)
		i.ahead = nil
	}
	return n, nil
}

// prepend puts what was read already in front of what is read next.
func (c *conn) prepend(b []byte) {
	if len(b) > 0 {
		c.attach()
		c.in.ahead = encoded.Get().(*[]byte)
		*c.in.ahead = append((*c.in.ahead)[:0], b...)
	}
}

// attach gives the connection an input, if it has none.
func (c *conn) attach() {
	if c.in == nil {
		c.in = inputs.Get().(*input)
		c.in.conn = c.wire.Conn
	}
}

// attachFirst is attach for a connection whose AUTH is still to come.
func (c *conn) attachFirst() {
	c.in = firstInputs.Get().(*input)
	c.in.conn = c.wire.Conn
}

// detach gives the input back. No other connection ever gets ws.
func (c *conn) detach() {
	i := c.in
	if i == nil {
		return
	}
	c.in = nil
	if i.ahead != nil {
		encoded.Put(i.ahead)
	}
	i.conn, i.ahead, i.ws = nil, nil, nil
	i.br.Reset(i)
	if i.br.Size() > readBuffer {
		firstInputs.Put(i)
	} else {
		inputs.Put(i)
	}
}

// hijacker hands out a connection's input in place of the buffer of whoever has
// read the request, and its wire.
type hijacker struct {
	http.ResponseWriter
	conn *conn
}

// Hijack implements http.Hijacker. What a client sent before the upgrade was
// answered stays in the other buffer, where gorilla/websocket finds and refuses
// it.
func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	raw, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil || brw.Reader.Buffered() > 0 {
		return raw, brw, err
	}
	if r, ok := raw.(*resumed); ok && (r.in == nil || r.in.Buffered() == 0) {
		raw = r.Conn // net/http has read all that Front had
	}
	c := h.conn
	c.wire = wire{Conn: raw, held: encoded.Get().(*[]byte)}
	*c.wire.held = (*c.wire.held)[:0]
	if c.relay.poller != nil {
		c.raw = rawConn(raw)
	}
	c.attachFirst()
	return &c.wire, bufio.NewReadWriter(c.in.br, brw.Writer), nil
}

// wire is the client's connection, TLS if there is any, below WebSocket. Until
// release it holds back what is written, so that the answer to the request and
// HELLO leave in one packet.
type wire struct {
	net.Conn
	held *[]byte // nil: nothing is held back
}

// Write implements net.Conn.
func (w *wire) Write(b []byte) (int, error) {
	if w.held != nil {
		*w.held = append(*w.held, b...)
		return len(b), nil
	}
	return w.Conn.Write(b)
}

// SetDeadline implements net.Conn. gorilla/websocket would clear the request's
// deadline, which the first read replaces.
func (w *wire) SetDeadline(t time.Time) error {
	if w.held != nil {
		return nil
	}
	return w.Conn.SetDeadline(t)
}

// release writes what was held back, and f after it, whose size it returns.
func (w *wire) release(f frame.Frame) (size int, err error) {
	at := len(*w.held)
	b := f.Append(append(*w.held, 0, 0)) // it is short: see appendMessage
	size = len(b) - at - 2
	b[at], b[at+1] = 0x80|websocket.BinaryMessage, byte(size)
	_, err = w.Conn.Write(b)
	w.noHurry()
	*w.held = b
	encoded.Put(w.held)
	w.held = nil
	return size, err
}

// noHurry takes the deadline of a write away that is over. By TLS the reader writes
// too, when the client asks for new keys; a deadline that has passed would break the
// connection for good. Who does not take that answer is cut off as silent.
func (w *wire) noHurry() {
	if _, secure := w.Conn.(*tls.Conn); secure {
		w.Conn.SetWriteDeadline(time.Time{})
	}
}

var (
	errParked     = errors.New("parked")
	errUnanswered = errors.New("the close frame was not answered")
)

// await returns nil when there is something to read, and errParked when the
// connection was parked: then it belongs to somebody else already.
func (c *conn) await() error {
	for {
		ended, idle := c.state()
		if ended && c.tooLate() {
			return errUnanswered
		}
		if c.in.br.Buffered() > 0 {
			return nil
		}
		c.push(ended, idle)
		if !ended && c.hasEnded() {
			continue // end may have moved the deadline before push did
		}
		_, err := c.in.br.Peek(1)
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if !ended && c.park() {
			return errParked
		}
	}
}

// state says whether the connection has ended, and whether it may park sooner.
func (c *conn) state() (ended, idle bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended, c.identity != nil && c.idleLocked() && c.raw != nil
}

// tooLate says that the client had its time to answer our close frame, or can
// answer nothing any more. What else it sends in that time gives it no more.
func (c *conn) tooLate() bool {
	if c.until == 0 {
		if c.out.over() {
			c.until = time.Now().Add(c.relay.closeGrace).UnixNano()
		}
		return false
	}
	return time.Now().UnixNano() >= c.until
}

// push sets the deadline of the next read.
func (c *conn) push(ended, idle bool) {
	r := c.relay
	switch now := r.Wheel.Now(); {
	case ended && c.until != 0:
		c.wire.Conn.SetReadDeadline(time.Unix(0, c.until))
	case ended: // the writer has its own deadline, and kicks
		c.wire.Conn.SetReadDeadline(time.Now().Add(r.closeGrace))
	case c.calm == pinged: // what was read already, TLS' too, comes before the deadline
		c.pushed = 0
		c.wire.Conn.SetReadDeadline(time.Unix(1, 0))
	case c.pushed == 0 || idle != c.idle || now-c.pushed >= int64(pushEvery):
		after := r.parkAfter
		if idle {
			after = r.parkIdle
		}
		c.pushed, c.idle = now, idle
		c.wire.Conn.SetReadDeadline(time.Now().Add(after))
	}
}

// park gives the connection to the poller; false: the reader stays.
func (c *conn) park() bool {
	r := c.relay
	c.pushed, c.calm = 0, restless
	if r.poller == nil || c.raw == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.detach()
	// Before watch: whoever resumes it waits for c.mu.
	c.parked, c.calm = true, roused
	if err := r.poller.watch(c); err != nil {
		c.parked, c.calm = false, restless
		c.attach()
		return false
	}
	r.parked.Add(1)
	return true
}

// resume gives a parked connection a reader again.
func (c *conn) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resumeLocked()
}

func (c *conn) resumeLocked() {
	if c.parked {
		c.parked = false
		c.relay.poller.rest(c)
		c.relay.parked.Add(-1)
		go c.serve()
	}
}

// cut closes the socket without a word, TLS' own included, which might wait for
// the client. The reader cleans up.
func (c *conn) cut() {
	conn := c.wire.Conn
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	conn.Close()
	c.mu.Lock()
	c.isCut = true
	c.wakeLocked()
	c.mu.Unlock()
	c.resume()
}

// kick wakes the reader, parked or not, because the connection has ended.
func (c *conn) kick() {
	c.wire.Conn.SetReadDeadline(time.Unix(1, 0))
	c.resume()
}

// rawConn is the socket of a connection, nil if it tells of none.
func rawConn(conn net.Conn) (raw syscall.RawConn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if s, ok := conn.(syscall.Conn); ok {
		raw, _ = s.SyscallConn()
	}
	return raw
}

// plain says that what goes through raw is what goes through wire.
func (c *conn) plain() bool {
	_, secure := c.wire.Conn.(*tls.Conn)
	return c.raw != nil && !secure
}
