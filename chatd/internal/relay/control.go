package relay

import (
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/ratelimit"
)

// control is a ping or pong as a client sends it (RFC 6455 §5.5): whole, masked,
// of 125 bytes at most.
type control struct {
	kind int // of gorilla/websocket
	key  [4]byte
	body []byte // masked
}

// parseControl takes one off b; ok is false when b begins with anything else, or
// with less than one.
func parseControl(b []byte) (m control, rest []byte, ok bool) {
	if len(b) < 6 || b[0] != wholePing && b[0] != wholePong || b[1]&masked == 0 {
		return m, b, false
	}
	n := int(b[1] &^ masked)
	if n > maxControl || len(b) < 6+n {
		return m, b, false
	}
	return control{int(b[0] &^ 0x80), [4]byte(b[2:]), b[6 : 6+n]}, b[6+n:], true
}

// beginsWithPing says that b begins with a whole ping.
func beginsWithPing(b []byte) bool {
	m, _, ok := parseControl(b)
	return ok && m.kind == websocket.PingMessage
}

// onlyControls says that b is whole pings and pongs and nothing else.
func onlyControls(b []byte) bool {
	ok := true
	for ok && len(b) > 0 {
		_, b, ok = parseControl(b)
	}
	return ok
}

// hearLocked does for the controls of a parked connection what onControl does
// for those that a reader has read, except for the end: wait is for how long a
// limit refuses, queued is false when the client does not take its pongs. The
// caller holds mu; b is written to.
func (c *conn) hearLocked(b []byte) (wait time.Duration, queued bool) {
	c.heard.Store(c.relay.Wheel.Now())
	limit := c.limitLocked(ratelimit.FramesPerConnection)
	for len(b) > 0 {
		var m control
		m, b, _ = parseControl(b)
		if wait = c.spendOf(limit, &c.framesTAT); wait > 0 {
			return wait, true
		}
		if m.kind == websocket.PingMessage && !beginsWithPing(b) {
			unmask(m.key, m.body)
			if !c.out.send(websocket.PongMessage, m.body) {
				return 0, false
			}
		}
	}
	return 0, true
}
