package uplink

import (
	"runtime"
	"sync"

	"chatvault/protocol/frame"
)

// keepBuffer is how large a buffer is kept for the next batch, in bytes.
const keepBuffer = 256 << 10

// queue holds the envelopes that wait to be written to one uplink. send never
// blocks: the session table calls it under its lock.
type queue struct {
	// static after construction
	limit int
	ended func(Event)   // called once, with the reason; ends the connection, must not block
	ready chan struct{} // holds a token when take should be called

	mu       sync.Mutex // guards all below
	buf      []byte
	finished bool // nothing more is accepted; what is here will be written
	stopped  bool // nothing more is written either
	reason   Event
}

func newQueue(limit int, ended func(Event)) *queue {
	return &queue{limit: limit, ended: ended, ready: make(chan struct{}, 1)}
}

// send queues a frame. A queue that would grow beyond its limit stops: frames are
// never dropped from the middle.
func (q *queue) send(conn uint32, f frame.Frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.finished || q.stopped {
		return
	}
	q.buf = frame.AppendEnvelope(q.buf, conn, f)
	if len(q.buf) > q.limit {
		q.stopLocked(EndedSlow)
	}
	q.wake()
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take returns all that waits, and whether it is the last. spare is the buffer to
// go on with. It yields once, so that whoever is about to send makes this batch.
func (q *queue) take(spare []byte) (batch []byte, last bool) {
	runtime.Gosched()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return nil, true
	}
	if cap(spare) > keepBuffer {
		spare = nil
	}
	batch, q.buf = q.buf, spare
	return batch, q.finished
}

// finish lets what is queued be written, and nothing more.
func (q *queue) finish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.stopped && !q.finished {
		q.finished, q.reason = true, EndedShutdown
	}
	q.wake()
}

// stop drops what is queued and ends the connection. The first reason stays.
func (q *queue) stop(why Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopLocked(why)
	q.wake()
}

func (q *queue) stopLocked(why Event) {
	if q.stopped {
		return
	}
	if !q.finished {
		q.reason = why
	}
	q.stopped, q.buf = true, nil
	q.ended(q.reason)
}

// why is the reason of the end.
func (q *queue) why() Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.reason
}
