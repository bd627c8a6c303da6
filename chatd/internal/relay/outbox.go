package relay

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

const (
	// maxQueued bounds what waits to be written to one client, in messages: the
	// window of a session, and half as many others. Request and reply alternate in
	// a vault session: an honest client has a few waiting.
	maxQueued = frame.Window + frame.Window/2
	// keptBuffer is the size up to which a write buffer is used again, in bytes.
	keptBuffer = 16 << 10
	// writeTimeout is how long a client may take to accept what was written.
	writeTimeout = 10 * time.Second
	// closeGrace is how long a client may take to answer a close frame, and a
	// slow one to let it through.
	closeGrace = 2 * time.Second
)

// outbox writes to one client. Nobody who sends waits for the client: what the
// socket does not take at once is queued, the queue is bounded, and a goroutine
// writes for as long as there is something.
type outbox struct {
	conn *conn // static after construction

	mu      sync.Mutex // guards what follows
	w       *writer    // nil: nothing waits and nobody writes
	broken  bool       // nothing can be written any more
	closing bool       // nothing more is accepted; once all is written, close
	dropped bool       // what waited was forgotten: the client does not read
	status  frame.Status
}

// writer has the buffers of an outbox that has something to write, and its
// goroutine.
type writer struct {
	run func() // loop, bound once: starting it allocates nothing

	out *outbox // owned by the outbox that has it

	// guarded by outbox.mu
	pending  []byte        // whole WebSocket frames, but for
	torn     int           // bytes at its begin: the rest of one, of which the socket has a part
	messages int           // in pending
	data     []*attachment // whose DATA frames are in pending

	spare     []byte // owned by the loop
	spareData []*attachment
}

var writers sync.Pool

func newWriter() *writer {
	if w, ok := writers.Get().(*writer); ok {
		return w
	}
	w := new(writer)
	w.run = w.loop
	return w
}

// encoded holds frames while they are queued.
var encoded = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// sendFrame queues a frame; it reports false when the queue is full.
func (o *outbox) sendFrame(f frame.Frame) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sendFrameLocked(f)
}

func (o *outbox) sendFrameLocked(f frame.Frame) bool {
	b := encoded.Get().(*[]byte)
	defer encoded.Put(b)
	*b = f.Append((*b)[:0])
	ok, _ := o.sendLocked(nil, websocket.BinaryMessage, *b)
	return ok
}

// send queues a copy of a message: an encoded frame, a ping or a pong. It
// reports false when the queue is full.
func (o *outbox) send(kind int, body []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	ok, _ := o.sendLocked(nil, kind, body)
	return ok
}

// sendData is send for a DATA frame of a session, which is told when it was
// written.
func (o *outbox) sendData(a *attachment, raw []byte) bool {
	o.mu.Lock()
	ok, written := o.sendLocked(a, websocket.BinaryMessage, raw)
	o.mu.Unlock()
	if written {
		o.conn.written(a)
	}
	return ok
}

// sendLocked says whether the message was queued, or nothing is sent any more,
// and whether it was written already.
func (o *outbox) sendLocked(a *attachment, kind int, body []byte) (ok, written bool) {
	r := o.conn.relay
	if o.broken || o.closing {
		return true, false
	}
	if o.w != nil && o.w.messages > 0 {
		full := r.queued.Load() > r.cfg.MaxQueuedBytes
		if full {
			r.Counts.Add("queues_full")
		}
		if full || o.w.messages >= maxQueued {
			return false, false
		}
	}
	if kind == websocket.BinaryMessage {
		r.traffic.framesOut.Add(1)
		r.traffic.bytesOut.Add(int64(len(body)))
	}
	if o.w == nil && o.conn.plain() {
		return true, o.sendNowLocked(a, kind, body)
	}
	o.startLocked()
	before := len(o.w.pending)
	o.w.pending = appendMessage(o.w.pending, kind, body)
	o.w.messages++
	o.w.owe(a)
	r.queued.Add(int64(len(o.w.pending) - before))
	return true, false
}

// sendNowLocked writes a message to a plain connection for which nothing waits:
// a goroutine costs as much as the write. What the socket does not take at once
// waits for a writer as always.
func (o *outbox) sendNowLocked(a *attachment, kind int, body []byte) (written bool) {
	b := encoded.Get().(*[]byte)
	*b = appendMessage((*b)[:0], kind, body)
	defer encoded.Put(b)
	rest := (*b)[writeNow(o.conn.raw, *b):]
	if len(rest) > 0 {
		o.startLocked()
		o.w.pending = append(o.w.pending, rest...)
		if len(rest) < len(*b) {
			o.w.torn = len(rest)
		}
		o.w.messages++
		o.w.owe(a)
		o.conn.relay.queued.Add(int64(len(rest)))
	}
	return a != nil && len(rest) == 0
}

// owe notes whose DATA frame is pending.
func (w *writer) owe(a *attachment) {
	if a != nil {
		w.data = append(w.data, a)
	}
}

// appendMessage appends one WebSocket frame (RFC 6455 §5.2) as a server sends
// it: whole and not masked. gorilla/websocket would allocate for each, and
// write each with a system call of its own.
func appendMessage(b []byte, kind int, body []byte) []byte {
	b = append(b, 0x80|byte(kind))
	if len(body) <= maxControl {
		b = append(b, byte(len(body)))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(len(body)))
	}
	return append(b, body...)
}

// close writes what is queued, then a close frame with the status. drop forgets
// the queue, but for the rest of a frame that has begun: for a client that does
// not read.
func (o *outbox) close(s frame.Status, drop bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closeLocked(s, drop)
}

func (o *outbox) closeLocked(s frame.Status, drop bool) {
	if o.broken || o.closing {
		return
	}
	o.closing, o.dropped, o.status = true, drop, s
	o.startLocked()
	if drop {
		o.dropLocked()
		o.conn.wire.Conn.SetWriteDeadline(time.Now().Add(o.conn.relay.closeGrace))
	}
}

// interject writes a frame to a plain connection past the queue. While something
// waits it writes nothing: the socket may have half of a frame.
func (o *outbox) interject(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.w == nil && !o.broken && writeNow(o.conn.raw, b) < len(b) {
		o.broken = true
	}
}

// over says whether nothing will be written any more.
func (o *outbox) over() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.broken
}

func (o *outbox) startLocked() {
	if o.w == nil {
		o.w = newWriter()
		o.w.out = o
		go o.w.run()
	}
}

func (o *outbox) dropLocked() {
	o.conn.relay.queued.Add(int64(o.w.torn - len(o.w.pending)))
	o.w.pending, o.w.messages = o.w.pending[:o.w.torn], 0
	clear(o.w.data)
	o.w.data = o.w.data[:0]
}

// loop writes what is pending, all of it at once, until there is nothing.
func (w *writer) loop() {
	o := w.out
	for {
		o.mu.Lock()
		if o.broken || len(w.pending) == 0 && !o.closing {
			o.conn.wire.noHurry()
			o.doneLocked()
			o.mu.Unlock()
			return
		}
		out, data, last, most := w.pending, w.data, o.closing, o.conn.relay.writeTimeout
		if o.dropped {
			most = o.conn.relay.closeGrace
		}
		w.pending, w.data, w.messages, w.torn = w.spare[:0], w.spareData[:0], 0, 0
		o.mu.Unlock()
		err := o.write(out, most)
		if err == nil {
			o.conn.written(data...)
		}
		clear(data)
		w.spare, w.spareData = out, data
		if err == nil && !last {
			continue
		}
		if err == nil {
			err = o.writeClose()
		}
		o.mu.Lock()
		o.broken = true
		o.doneLocked()
		o.mu.Unlock()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			o.conn.end(slowConsumer) // if nothing has ended it before
		}
		if err != nil {
			o.conn.cut()
		} else {
			o.conn.kick() // closeGrace begins
		}
		return
	}
}

// doneLocked gives the writer back; only its loop calls it.
func (o *outbox) doneLocked() {
	w := o.w
	w.torn = 0
	o.dropLocked()
	o.w, w.out = nil, nil
	if cap(w.pending) > keptBuffer {
		w.pending = nil
	}
	if cap(w.spare) > keptBuffer {
		w.spare = nil
	}
	writers.Put(w)
}

func (o *outbox) write(out []byte, most time.Duration) error {
	if len(out) == 0 {
		return nil
	}
	conn := o.conn.wire.Conn
	conn.SetWriteDeadline(time.Now().Add(most))
	_, err := conn.Write(out)
	o.conn.relay.queued.Add(-int64(len(out)))
	return err
}

// writeClose sends the close frame. The reader then gives the client closeGrace
// to answer: closing at once could discard it together with what is unread.
func (o *outbox) writeClose() error {
	text := websocket.FormatCloseMessage(o.status.CloseCode(), o.status.String())
	conn := o.conn.wire.Conn
	conn.SetWriteDeadline(time.Now().Add(o.conn.relay.closeGrace))
	_, err := conn.Write(appendMessage(nil, websocket.CloseMessage, text))
	return err
}
