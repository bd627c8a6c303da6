package relay

import (
	"errors"
	"testing"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
)

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
