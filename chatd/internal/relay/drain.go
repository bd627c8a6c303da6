package relay

import (
	"math/rand/v2"
	"time"

	"chatvault/chatd/internal/clock"
	"chatvault/protocol/frame"
)

// apace is how many connections a drain says goodbye to in a second when it has
// more time than it needs: clients that come back in step with that are no
// storm for any other relay.
const apace = 100

// comeBack is the jitter of the reconnect time: what spreads the clients is
// when each of them is told.
const comeBack = time.Second

// Drain ends every connection, and returns when the last one is gone. Clients
// are told one after the other, over the drain time, to reconnect elsewhere;
// one that has vault sessions in flight stays until they have ended, or until
// the drain time is over.
func (r *Relay) Drain() {
	defer r.stop()
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
	giveUp := time.AfterFunc(2*r.closeGrace, func() {
		for _, c := range r.all() {
			c.cut()
		}
	})
	defer giveUp.Stop()
	<-empty
}

// stop stops what runs beside the connections.
func (r *Relay) stop() {
	r.cancel()
	if r.poller != nil {
		r.poller.close()
	}
}

// beginDrain refuses new connections, and sets for each of the others when it
// is told goodbye. The channel is closed when none is left.
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
	all := r.all()
	over := min(r.cfg.Drain*9/10, time.Duration(len(all))*time.Second/apace)
	now := r.Clock.Now()
	for i, c := range all {
		c.drainAt(now.Add(over * time.Duration(i) / time.Duration(len(all))))
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

// drainAt sets when the connection is told goodbye.
func (c *conn) drainAt(t time.Time) {
	c.mu.Lock()
	c.goodbye = t.UnixNano()
	c.mu.Unlock()
	c.Due()
}

// drain says goodbye; the connection ends when it has no session in flight.
func (c *conn) drain() {
	c.mu.Lock()
	c.drains = true
	c.mu.Unlock()
	c.sendFrame(frame.Goaway{Status: frame.Draining, ReconnectMillis: millis(rand.N(comeBack))})
	c.settle()
}
