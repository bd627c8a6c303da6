package relay

import (
	"sync"
	"syscall"
)

// nowait is one read or write of a socket that does not wait, and takes no turn
// with others: whoever uses it knows that nobody else reads, or writes. It keeps
// the descriptor from being closed meanwhile.
type nowait struct {
	b []byte
	n int // of b, at least 0
	// ended: there is nothing to read any more, or an error told so.
	ended bool

	reading, writing func(fd uintptr) // bound once: a call allocates nothing
}

func (w *nowait) init(b []byte) {
	w.b = b
	w.reading, w.writing = w.read, w.write
}

func (w *nowait) read(fd uintptr) {
	n, err := syscall.Read(int(fd), w.b)
	w.n = max(n, 0)
	w.ended = w.n == 0 && err != syscall.EAGAIN && err != syscall.EINTR
}

func (w *nowait) write(fd uintptr) {
	n, _ := syscall.Write(int(fd), w.b) // of an error the writer hears again
	w.n = max(n, 0)
}

// readFrom reads what is there into b. ok is false when there is no more to come.
func (w *nowait) readFrom(raw syscall.RawConn) (b []byte, ok bool) {
	w.n = 0
	if err := raw.Control(w.reading); err != nil || w.ended {
		return nil, false
	}
	return w.b[:w.n], true
}

var nowaits = sync.Pool{New: func() any { w := new(nowait); w.init(nil); return w }}

// writeNow writes what the socket takes at once, and returns how much that was.
func writeNow(raw syscall.RawConn, b []byte) int {
	w := nowaits.Get().(*nowait)
	w.b, w.n = b, 0
	raw.Control(w.writing) // closed: nothing was written
	n := w.n
	w.b = nil
	nowaits.Put(w)
	return n
}
