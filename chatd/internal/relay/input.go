package relay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

// frameTimeout is how long a client that began a message may take for the rest
// of it.
const frameTimeout = 10 * time.Second

// frames holds buffers for one incoming frame each, and one byte more to find
// its end.
var frames = sync.Pool{New: func() any { b := make([]byte, frame.MaxFrame+1); return &b }}

// The first byte of the WebSocket frames (RFC 6455 §5.2) that are read here:
// whole ones, without extensions.
const (
	wholeBinary = 0x80 | websocket.BinaryMessage
	wholePing   = 0x80 | websocket.PingMessage
	wholePong   = 0x80 | websocket.PongMessage
	masked      = 0x80 // bit of the second byte
	maxControl  = 125
)

// read reads one message into a buffer of frames: kind says whether it is a
// binary or text message, a ping or a pong.
//
// What every client sends all the time is read here and not by
// gorilla/websocket, for two reasons. Its NextReader makes a reader for each
// message: 1 allocation of 8 bytes, where a relayed frame is to make none. And
// after a ping or pong it waits for the next message by itself, where an error,
// a deadline's too, is for ever: a client that pings could never be parked.
// Everything else is left to it: fragments, text, close frames, and whatever
// breaks the protocol or a limit. Between two messages it holds no state, so the
// two may take turns; FuzzReadAgreesWithGorilla compares them.
func (c *conn) read() (raw *[]byte, kind int, err error) {
	head, err := c.peek(2)
	if err != nil {
		return nil, 0, err
	}
	first, size, n := head[0], 6, int(head[1]&^masked)
	known := first == wholeBinary && n <= 126 || (first == wholePing || first == wholePong) && n <= maxControl
	if !known || head[1]&masked == 0 {
		return c.readOther()
	}
	if n == 126 {
		if head, err = c.peek(4); err != nil {
			return nil, 0, err
		}
		size, n = 8, int(binary.BigEndian.Uint16(head[2:]))
	}
	if n > frame.MaxFrame {
		return c.readOther()
	}
	if head, err = c.peek(size); err != nil {
		return nil, 0, err
	}
	key := [4]byte(head[size-4:])
	c.in.br.Discard(size) // it was peeked: it cannot fail
	raw = frames.Get().(*[]byte)
	*raw = (*raw)[:n]
	if err := c.fill(*raw); err != nil {
		frames.Put(raw)
		return nil, 0, err
	}
	unmask(key, *raw)
	return raw, int(first &^ 0x80), nil
}

// readOther lets gorilla/websocket read one message. It has checked its size.
func (c *conn) readOther() (raw *[]byte, kind int, err error) {
	ws, err := c.gorilla()
	if err != nil {
		return nil, 0, err
	}
	c.pushForMessage() // its errors are for ever, a deadline's too
	kind, in, err := ws.NextReader()
	if err != nil {
		return nil, 0, err
	}
	raw = frames.Get().(*[]byte)
	*raw = (*raw)[:cap(*raw)]
	n := 0
	for {
		m, err := in.Read((*raw)[n:])
		n += m
		if err == io.EOF {
			*raw = (*raw)[:n]
			return raw, kind, nil
		}
		if err != nil {
			frames.Put(raw)
			return nil, 0, err
		}
	}
}

// gorilla is gorilla/websocket on this connection. It is half a kilobyte, which
// most connections never need, so it is made when it is, and gone when the
// connection parks. There is one way to make one: to upgrade a request, here one
// that is always the same.
func (c *conn) gorilla() (*websocket.Conn, error) {
	if c.in.ws != nil {
		return c.in.ws, nil
	}
	kept := *c.in.br // Upgrade resets it: see there
	c.in.br.Reset(nil)
	l := &late{Conn: c.wire.Conn, conn: c}
	ws, err := c.relay.upgrader.Upgrade(l, upgradeAgain, nil)
	*c.in.br = kept
	if err != nil {
		return nil, err
	}
	l.upgraded = true
	ws.SetReadLimit(frame.MaxFrame)
	ws.SetPingHandler(func(data string) error { return c.onControl(websocket.PongMessage, []byte(data)) })
	ws.SetPongHandler(func(string) error { return c.onControl(0, nil) })
	ws.SetCloseHandler(c.onClosed)
	c.in.ws = ws
	return ws, nil
}

var upgradeAgain = &http.Request{Method: http.MethodGet, Header: http.Header{
	"Connection": {"upgrade"}, "Upgrade": {"websocket"},
	"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
}}

// late is what gorilla/websocket takes for a new connection. The client was
// answered long ago.
type late struct {
	net.Conn
	http.ResponseWriter // nil: Upgrade would need it for an error that cannot be
	conn                *conn
	upgraded            bool
}

// Hijack implements http.Hijacker.
func (l *late) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return l, bufio.NewReadWriter(l.conn.in.br, bufio.NewWriterSize(nil, 256)), nil
}

// Write implements net.Conn. What gorilla/websocket writes by itself is close frames.
// What it still says after our own, nobody is to hear.
func (l *late) Write(b []byte) (int, error) {
	switch {
	case !l.upgraded || l.conn.hasEnded():
		return len(b), nil
	case l.conn.plain():
		l.conn.out.interject(b)
		return len(b), nil
	}
	return l.Conn.Write(b) // so does the writer, whole frames
}

// SetDeadline implements net.Conn.
func (l *late) SetDeadline(t time.Time) error {
	if !l.upgraded {
		return nil
	}
	return l.Conn.SetDeadline(t)
}

// peek is bufio's, in the midst of a message.
func (c *conn) peek(n int) ([]byte, error) {
	for late := false; ; late = true {
		b, err := c.in.br.Peek(n)
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err == nil || !c.moreTime(err, late) {
			return b, err
		}
	}
}

// fill reads the rest of a message.
func (c *conn) fill(b []byte) error {
	late := false
	for len(b) > 0 {
		n, err := c.in.br.Read(b)
		b = b[n:]
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			if !c.moreTime(err, late) {
				return err
			}
			late = true
		}
	}
	return nil
}

// moreTime gives a message that met the deadline of silence its own, once.
func (c *conn) moreTime(err error, late bool) bool {
	if late || !errors.Is(err, os.ErrDeadlineExceeded) || c.hasEnded() {
		return false
	}
	c.pushForMessage()
	return true
}

// pushForMessage sets the deadline of the rest of a message. Who was told of the
// end of the connection has no longer than until then.
func (c *conn) pushForMessage() {
	c.wire.Conn.SetReadDeadline(time.Now().Add(c.relay.frameTimeout))
	c.pushed = 0
	if c.hasEnded() { // before, or while the deadline was moved
		c.push(true, false)
	}
}

// unmask is RFC 6455 §5.3.
func unmask(key [4]byte, b []byte) {
	k := uint64(binary.LittleEndian.Uint32(key[:]))
	k |= k << 32
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^k)
	}
	for i := range b {
		b[i] ^= key[i%4]
	}
}
