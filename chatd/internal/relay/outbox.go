package relay

import (
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

const (
	// maxQueued bounds what waits to be written to one client, in messages.
	// Request and reply alternate in a vault session: an honest client has a
	// few waiting.
	maxQueued = 64
	// writeTimeout is how long a client may take to accept what was written.
	writeTimeout = 10 * time.Second
	// closeGrace is how long a client may take to answer a close frame, and a
	// slow one to let it through.
	closeGrace = 2 * time.Second
)

// buffers holds the frames that wait to be written.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// message is one WebSocket message that waits to be written.
type message struct {
	kind int // websocket.BinaryMessage, PingMessage, PongMessage
	body *[]byte
}

// outbox writes to one client. Nobody who sends waits for the client: the
// queue is bounded, and a goroutine writes for as long as there is something.
type outbox struct {
	// static after construction
	ws      *websocket.Conn
	traffic *traffic

	mu      sync.Mutex
	queue   []message
	writing bool // a goroutine runs writeLoop
	broken  bool // nothing can be written any more
	closing bool // nothing more is accepted; once the queue is empty, close
	status  frame.Status
}

// sendFrame queues a frame; it reports false when the queue is full.
func (o *outbox) sendFrame(f frame.Frame) bool {
	body := buffers.Get().(*[]byte)
	*body = f.Append((*body)[:0])
	return o.send(websocket.BinaryMessage, body)
}

// sendRaw queues a copy of an encoded frame.
func (o *outbox) sendRaw(raw []byte) bool { return o.sendCopy(websocket.BinaryMessage, raw) }

func (o *outbox) sendCopy(kind int, b []byte) bool {
	body := buffers.Get().(*[]byte)
	*body = append((*body)[:0], b...)
	return o.send(kind, body)
}

func (o *outbox) send(kind int, body *[]byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken || o.closing {
		buffers.Put(body)
		return true
	}
	if len(o.queue) == maxQueued {
		buffers.Put(body)
		return false
	}
	o.queue = append(o.queue, message{kind, body})
	o.startLocked()
	return true
}

// close writes what is queued, then a close frame with the status. A client
// that does not answer it is cut off after closeGrace. drop forgets the queue:
// for a client that does not read.
func (o *outbox) close(s frame.Status, drop bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken || o.closing {
		return
	}
	o.closing, o.status = true, s
	if drop {
		o.queue = nil
		o.ws.NetConn().SetWriteDeadline(time.Now().Add(closeGrace))
	}
	o.startLocked()
}

func (o *outbox) startLocked() {
	if !o.writing {
		o.writing = true
		go o.writeLoop()
	}
}

func (o *outbox) writeLoop() {
	var out []message
	for {
		o.mu.Lock()
		out, o.queue = o.queue, out[:0]
		last := o.closing
		if o.broken || len(out) == 0 && !last {
			o.queue, o.writing = nil, false
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		err := o.write(out)
		if err == nil && last {
			err = o.writeClose()
			o.fail(err != nil)
			return
		}
		if err != nil {
			o.fail(true)
			return
		}
	}
}

func (o *outbox) write(out []message) (err error) {
	for _, m := range out {
		deadline := time.Now().Add(writeTimeout)
		if m.kind == websocket.BinaryMessage {
			o.ws.SetWriteDeadline(deadline)
			if err == nil {
				err = o.ws.WriteMessage(m.kind, *m.body)
				o.traffic.framesOut.Add(1)
				o.traffic.bytesOut.Add(int64(len(*m.body)))
			}
		} else if err == nil {
			err = o.ws.WriteControl(m.kind, *m.body, deadline)
		}
		buffers.Put(m.body)
	}
	return err
}

// writeClose sends the close frame and gives the client closeGrace to answer:
// closing at once could discard it together with what is unread.
func (o *outbox) writeClose() error {
	text := websocket.FormatCloseMessage(o.status.CloseCode(), o.status.String())
	err := o.ws.WriteControl(websocket.CloseMessage, text, time.Now().Add(closeGrace))
	o.ws.NetConn().SetReadDeadline(time.Now().Add(closeGrace))
	return err
}

// fail ends the writing for good; cut also ends the reading.
func (o *outbox) fail(cut bool) {
	o.mu.Lock()
	o.broken, o.writing, o.queue = true, false, nil
	o.mu.Unlock()
	if cut {
		o.ws.Close()
	}
}
