package relay

import (
	"math/rand/v2"
	"time"

	"chatvault/chatd/internal/clock"
	"chatvault/protocol/frame"
)

// Drain ends every connection, and returns when the last one is gone. Clients
// are told at once to reconnect elsewhere, each at its own time; one that has
// vault sessions in flight stays until they have ended, or until the drain time
// is over.
func (r *Relay) Drain() {
	defer r.cancel()
	empty := r.beginDrain()
	over, release := clock.After(r.Clock, r.cfg.Drain)
	defer release()
	select {
	case <-empty:
		return
	case <-over:
	}
	for _, c := range r.all() {
		c.end(draining)
	}
	// A client that does not read its close frame is cut off by the writer.
	giveUp := time.AfterFunc(2*closeGrace, func() {
		for _, c := range r.all() {
			c.ws.Close()
		}
	})
	defer giveUp.Stop()
	<-empty
}

// beginDrain refuses new connections and says goodbye on the others. The
// channel is closed when none is left.
func (r *Relay) beginDrain() <-chan struct{} {
	empty := make(chan struct{})
	r.mu.Lock()
	r.drains = true
	if len(r.conns) == 0 {
		close(empty)
	} else {
		r.empty = empty
	}
	r.mu.Unlock()
	for _, c := range r.all() {
		c.drain()
	}
	return empty
}

func (r *Relay) all() []*conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*conn, 0, len(r.conns))
	for c := range r.conns {
		all = append(all, c)
	}
	return all
}

// drain says goodbye; the connection ends when it has no session in flight.
func (c *conn) drain() {
	c.mu.Lock()
	c.drains = true
	c.mu.Unlock()
	c.sendFrame(frame.Goaway{Status: frame.Draining, ReconnectMillis: millis(rand.N(max(c.relay.cfg.Drain, time.Second)))})
	c.settle()
}
