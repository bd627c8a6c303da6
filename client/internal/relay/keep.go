package relay

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

// event is what the read loop tells the keeper.
type event struct {
	refused frame.Status     // of an AUTH, or
	leave   time.Duration    // a GOAWAY's delay, or
	ready   bool             // an AUTH was accepted, or
	parted  *frame.SessionID // to be closed
}

// tell never waits.
func (c *conn) tell(e event) {
	select {
	case c.events <- e:
	default: // a relay that says so much needs no answer to it
	}
}

// keep pings, authenticates again before the ticket ends, and leaves when the
// relay asks for it.
func (c *conn) keep(renewAt time.Time) {
	ping := time.NewTicker(c.ping)
	defer ping.Stop()
	renew := time.NewTimer(max(time.Until(renewAt), 0))
	defer renew.Stop()
	var leave <-chan time.Time
	next, fresh := renewAt, false
	for {
		select {
		case <-c.done:
			return
		case <-ping.C:
			c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeWait))
		case <-renew.C:
			next = c.renew(fresh)
			renew.Reset(renewAgain)
		case <-leave:
			c.fail(&Refusal{Status: frame.Draining})
			return
		case e := <-c.events:
			switch {
			case e.ready:
				fresh = false
				renew.Reset(max(time.Until(next), renewFloor))
			case e.parted != nil:
				c.send(frame.Close{Session: *e.parted, Status: frame.OK})
			case e.leave > 0:
				leave = time.After(e.leave)
			case e.refused != frame.OK:
				c.cfg.Log.Warn("relay refused the ticket on the live connection", "status", e.refused)
				fresh = true
				renew.Reset(renewAgain)
			}
		}
	}
}

// renew sends AUTH again and returns when the next one is due. A failure is
// tried again; at the latest the relay ends the connection.
func (c *conn) renew(fresh bool) time.Time {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.ConnectWait)
	defer cancel()
	a, next, err := c.cfg.Auth(ctx, c.hello, fresh)
	if err == nil {
		err = c.send(a)
	}
	if err != nil {
		c.cfg.Log.Warn("authenticating again failed", "error", err)
	}
	return next
}

// farewell attaches a session in order to close it: a relay carries CLOSE only
// for what is attached to the connection.
func (c *conn) farewell(tag uint32, id frame.SessionID) {
	c.mu.Lock()
	if c.farewells == nil {
		c.farewells = map[uint32]frame.SessionID{}
	}
	c.farewells[tag] = id
	c.mu.Unlock()
	c.send(frame.Attach{Tag: tag, Session: id})
}

// parting returns the session of a farewell, once.
func (c *conn) parting(tag uint32) (frame.SessionID, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ok := c.farewells[tag]
	delete(c.farewells, tag)
	return id, ok
}

// unparted are the sessions of farewells that were not answered.
func (c *conn) unparted() []frame.SessionID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.farewells))
}

// parted is parting for a session that is gone already.
func (c *conn) parted(tag uint32) bool {
	_, ok := c.parting(tag)
	return ok
}
