package uplink

import (
	"net"
	"sync/atomic"
	"time"

	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
)

const (
	pingEvery   = 5 * time.Second
	silentAfter = 3 * pingEvery
)

// pulse is a connection that knows when something was last read from it: one
// look at the coarse clock for all the envelopes that a read brings.
type pulse struct {
	net.Conn
	wheel *wheel.Wheel
	at    atomic.Int64 // Unix ns
}

func newPulse(conn net.Conn, w *wheel.Wheel) *pulse {
	p := &pulse{Conn: conn, wheel: w}
	p.at.Store(w.Now())
	return p
}

// Read implements net.Conn.
func (p *pulse) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if n > 0 {
		p.at.Store(p.wheel.Now())
	}
	return n, err
}

// attend makes the wheel look after the link, until it is dead.
func (l *Link) attend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead == nil { // else nobody would ever clear the entry
		l.wheel.Set(&l.watch, pingEvery)
	}
}

// Due implements wheel.Owner: it pings the node, forgets who left long ago, and
// ends the link when nothing was heard in time.
func (l *Link) Due() {
	if l.wheel.Now()-l.conn.at.Load() >= int64(silentAfter) {
		go l.end(ErrSilent) // closing may wait for the socket, and the wheel must not
		return
	}
	l.sendControl(frame.UplinkPing{})
	l.mu.Lock()
	l.forgetLocked()
	l.mu.Unlock()
	l.attend()
}
