package relay

import (
	"errors"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

// A slow consumer is told so between two frames, also when its socket took only a
// part of the last one and nobody had begun to write the rest.
func TestWhatIsDroppedEndsWithAWholeFrame(t *testing.T) {
	h, _ := simple(t, nil)
	phone := h.dial().WS
	o := &h.only().out
	body := make([]byte, 60_000)
	o.mu.Lock() // the writer waits
	for o.w == nil {
		o.sendLocked(nil, websocket.BinaryMessage, body)
	}
	o.closeLocked(frame.SlowConsumer, true)
	o.mu.Unlock()
	phone.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		_, b, err := phone.ReadMessage()
		if err == nil && len(b) == len(body) {
			continue
		}
		var closed *websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != frame.SlowConsumer.CloseCode() {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		break
	}
	if n := h.relay.Load().QueuedBytes; n != 0 {
		t.Errorf("%d bytes wait", n)
	}
}

// Who takes nothing for long is a slow consumer, also when its queue is not full.
func TestAWriteThatTakesTooLong(t *testing.T) {
	h, _ := simple(t, nil)
	h.relay.writeTimeout = 50 * time.Millisecond
	h.dial()
	c := h.only()
	body := make([]byte, 60_000)
	for !c.hasEnded() && c.out.send(websocket.BinaryMessage, body) { // until the socket takes no more
	}
	poll(t, "the end", func() bool { return h.relay.places.Load() == 0 })
	if h.relay.Counts.Get("closed_slow_consumer") != 1 {
		t.Errorf("counts: %v", h.relay.Counts.LogValue())
	}
}
