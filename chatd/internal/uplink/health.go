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
	// answerWithin is how long a node that seems silent has for the answer to one
	// more ping: after a pause of this process, or of the machine, what came
	// meanwhile is not read yet, or was read under the time of before.
	answerWithin = time.Second
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

// attend makes the wheel look after the link in a while, unless it is dead.
func (l *Link) attend(after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead == nil { // else nobody would ever clear the entry
		l.wheel.Set(&l.watch, after)
	}
}

// Due implements wheel.Owner: it pings the node, forgets who left long ago, and
// ends the link when nothing was heard in time, nor after one more ping.
func (l *Link) Due() {
	silent := l.wheel.Now()-l.conn.at.Load() >= int64(silentAfter)
	if silent && l.suspect {
		go l.end(ErrSilent) // closing may wait for the socket, and the wheel must not
		return
	}
	l.suspect = silent
	l.sendControl(frame.UplinkPing{})
	l.mu.Lock()
	l.forgetLocked()
	l.mu.Unlock()
	if silent {
		l.attend(answerWithin)
	} else {
		l.attend(pingEvery)
	}
}
