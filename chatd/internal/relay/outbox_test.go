package relay

import (
	"errors"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
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

// What gorilla/websocket says by itself does not land in the midst of a frame, of
// which the socket has a part and the writer is to write the rest.
func TestACloseFrameDoesNotTearAnother(t *testing.T) {
	h, _ := simple(t, nil)
	phone := h.dial()
	c := h.only()
	o := &c.out
	l := &late{Conn: c.wire.Conn, conn: c, upgraded: true}
	words := appendMessage(nil, websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseProtocolError, ""))
	whole := appendMessage(nil, websocket.BinaryMessage, frame.Notice{}.Append(nil))
	o.mu.Lock()
	if n := writeNow(c.raw, whole[:1]); n != 1 {
		t.Fatalf("wrote %d", n)
	}
	o.w = newWriter() // it does not run yet
	o.w.out = o
	o.w.pending, o.w.torn, o.w.messages = append(o.w.pending, whole[1:]...), len(whole)-1, 1
	c.relay.queued.Add(int64(len(whole) - 1))
	o.mu.Unlock()
	if n, err := l.Write(words); n != len(words) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	go o.w.run()
	chatdtest.Expect[frame.Notice](phone)
	poll(t, "nothing waits", func() bool { o.mu.Lock(); defer o.mu.Unlock(); return o.w == nil })
	if n, err := l.Write(words); n != len(words) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	var closed *websocket.CloseError
	if _, _, err := phone.WS.ReadMessage(); !errors.As(err, &closed) || closed.Code != websocket.CloseProtocolError {
		t.Errorf("read %v", err)
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
