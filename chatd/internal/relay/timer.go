package relay

import (
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/frame"
)

// expiryGrace is how long a vault session in flight may go on after the ticket
// has ended: as long as a vault keeps an idle session. What it may still do,
// the vault decides: it checks the ticket at every charged operation.
const expiryGrace = 60 * time.Second

// Due implements wheel.Owner: it does what is due, and sets the wheel for what
// is next. Others than the wheel call it too, at any time: when the moment that
// is set passes while it is set, the wheel may have turned already, and nobody
// but Due itself would notice before the next tick.
func (c *conn) Due() {
	for c.due() {
	}
}

// due does so once. It says whether there is more to do.
func (c *conn) due() (more bool) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return false
	}
	now := c.relay.Clock.Now()
	if c.goodbye != 0 && !c.drains && now.UnixNano() >= c.goodbye {
		c.mu.Unlock()
		c.drain()
		return true
	}
	unanswered := c.dropLateLocked()
	why, ping, next := c.dueLocked(now)
	if next > 0 {
		if c.goodbye != 0 && !c.drains {
			next = min(next, time.Unix(0, c.goodbye).Sub(now))
		}
		at := now.Add(next)
		c.relay.Wheel.SetAt(&c.wake, at)
		more = !c.relay.Clock.Now().Before(at)
	}
	c.mu.Unlock()
	if unanswered {
		c.settle()
	}
	switch {
	case next == 0:
		if why == authTimeout {
			c.refuse(frame.Refuse{Refused: frame.TAuth, Status: frame.AuthTimeout})
		}
		c.end(why)
	case ping && !c.out.send(websocket.PingMessage, nil):
		c.end(slowConsumer)
		return false
	}
	return more
}

// dueLocked says what is due now: the end, with its reason, when next is 0;
// else whether to ping, and when to look again.
func (c *conn) dueLocked(now time.Time) (why Reason, ping bool, next time.Duration) {
	if c.identity == nil {
		if left := time.Unix(0, c.began).Add(c.relay.cfg.AuthTimeout).Sub(now); left > 0 {
			return 0, false, left
		}
		return authTimeout, false, 0
	}
	// The client pings every Ping; one that does not, a browser, is pinged.
	every := c.relay.cfg.Ping
	quiet := now.Sub(time.Unix(0, c.heard.Load()))
	if quiet >= 5*every/2 {
		return silent, false, 0
	}
	ping = quiet >= 5*every/4
	next = 5*every/4 - quiet
	if ping {
		next = 5*every/2 - quiet
	}
	switch left := time.UnixMilli(c.expires).Sub(now); {
	case left > 0:
		next = min(next, left)
	case c.idleLocked() || left <= -expiryGrace:
		return ticketExpired, false, 0
	default:
		next = min(next, expiryGrace+left)
	}
	return 0, ping, next
}

func (c *conn) idleLocked() bool { return len(c.sessions) == 0 && len(c.pending) == 0 }

func (c *conn) expiredLocked() bool { return c.relay.Clock.Now().UnixMilli() >= c.expires }

// settle leaves the uplinks on which the connection has no session any more, so
// that an idle client costs the vaults nothing, and ends a connection that
// waited only for its last session.
func (c *conn) settle() {
	c.mu.Lock()
	c.dropLateLocked()
	used := map[*uplink.Link]bool{}
	for _, a := range c.sessions {
		used[a.stream.Link()] = true
	}
	for _, p := range c.pending {
		used[p.stream.Link()] = true
	}
	var left []uplink.Stream
	for link, stream := range c.streams {
		if !used[link] {
			delete(c.streams, link)
			left = append(left, stream)
		}
	}
	idle := len(used) == 0
	if idle {
		c.streams, c.sessions, c.pending = nil, nil, nil
	}
	id := c.identity
	why, over := ticketExpired, id != nil && c.expiredLocked()
	if c.drains {
		why, over = draining, true
	}
	c.mu.Unlock()
	for _, stream := range left {
		stream.Leave(c.heir(id)) // the doorbell of its last operation may still come
	}
	if idle && over {
		c.end(why)
	}
}
