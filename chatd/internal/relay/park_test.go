package relay

import (
	"strings"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
)

// A message may take longer than silence.
func TestMessagesThatComeInPieces(t *testing.T) {
	h, _ := simple(t, nil)
	c := h.phone("alice")
	s := c.Open(1, "x")
	for _, size := range []int{1, 125 - 25, 126 - 25, 600, frame.MaxPayload} {
		raw := clientFrame(0x82, frame.Data{Session: s, Sequence: 1, Payload: []byte(strings.Repeat("x", size))}.Append(nil))
		for i, b := range [][]byte{raw[:1], raw[1:3], raw[3:7], raw[7 : len(raw)-1], raw[len(raw)-1:]} {
			if i == 1 {
				poll(t, "the reader", func() bool { return h.relay.Load().Active == 1 })
			}
			if _, err := c.WS.NetConn().Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if d := chatdtest.Expect[frame.Data](c); len(d.Payload) != size {
			t.Errorf("%d bytes of %d", len(d.Payload), size)
		}
	}
	// In fragments, with a ping between them.
	raw := frame.Data{Session: s, Sequence: 2, Payload: []byte("fragments")}.Append(nil)
	for _, b := range [][]byte{clientFrame(0x02, raw[:9]), clientFrame(0x89, []byte("p")), clientFrame(0x80, raw[9:])} {
		c.WS.NetConn().Write(b)
	}
	if d := chatdtest.Expect[frame.Data](c); string(d.Payload) != "fragments" {
		t.Errorf("%+v", d)
	}
}

// Who begins a message and does not go on holds nothing for long.
func TestHalfAMessage(t *testing.T) {
	for name, half := range map[string][]byte{
		"header": {0x82}, "body": clientFrame(0x82, make([]byte, 100))[:50], "fragment": clientFrame(0x02, []byte("begun")),
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := simple(t, func(s *setup) { s.frameTimeout = 50 * time.Millisecond })
			c := h.phone("alice")
			c.WS.NetConn().Write(half)
			c.Closed()
			if h.relay.Counts.Get("closed_silent") != 1 {
				t.Errorf("counts: %v", h.relay.Counts.LogValue())
			}
		})
	}
}

// All clients together cannot make the relay queue without end.
func TestTheQueuesOfAllAreBounded(t *testing.T) {
	h, vault := simple(t, func(s *setup) { s.cfg.MaxQueuedBytes = frame.MaxPayload })
	c := h.phone("alice")
	s := c.Open(1, "x")
	c.Echo(s, 1, "one at a time is always allowed")
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		vault.Await("the connection is gone", func(v *chatdtest.VaultState) bool { return v.Sessions[s].Link == nil })
	}()
	for {
		select {
		case <-gone:
			poll(t, "nothing is queued", func() bool { return h.relay.Load().QueuedBytes == 0 })
			if h.relay.Counts.Get("closed_slow_consumer") != 1 || h.relay.Counts.Get("queues_full") == 0 {
				t.Error("it was not closed as a slow consumer")
			}
			return
		default:
			vault.Push(frame.Data{Session: s, Sequence: 2, Payload: make([]byte, frame.MaxPayload)})
		}
	}
}

// Who goes on sending after our close frame has no more time to answer it than
// anybody else.
func TestSendingDoesNotPutOffTheEnd(t *testing.T) {
	h, _ := simple(t, nil)
	h.relay.closeGrace = 50 * time.Millisecond
	c := h.phone("alice")
	raw := clientFrame(0x82, []byte{0xff}) // of no known type
	for {
		if _, err := c.WS.NetConn().Write(raw); err != nil {
			break // the relay has closed it
		}
	}
	if h.relay.Counts.Get("closed_malformed") != 1 {
		t.Errorf("counts: %v", h.relay.Counts.LogValue())
	}
}
