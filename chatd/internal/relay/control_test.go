package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/protocol/frame"
)

// What the poller takes for pings and pongs is what gorilla/websocket reads as
// such, all of it, and it is read back to the same bytes.
func FuzzControlsAgreeWithGorilla(f *testing.F) {
	for _, s := range streams() {
		f.Add(s)
	}
	ping, pong := clientFrame(0x89, []byte("ping")), clientFrame(0x8a, bytes.Repeat([]byte("x"), 125))
	f.Add(slices.Concat(ping, pong, ping))
	f.Add(slices.Concat(ping, pong[:len(pong)-1]))
	f.Add(slices.Concat(ping, clientFrame(0x88, nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var heard []string
		var again []byte
		for rest, ok := b, true; ok && len(rest) > 0; {
			var m control
			if m, rest, ok = parseControl(rest); !ok {
				break
			}
			again = append(append(again, 0x80|byte(m.kind), 0x80|byte(len(m.body))), m.key[:]...)
			again = append(again, m.body...)
			body := bytes.Clone(m.body)
			unmask(m.key, body)
			heard = append(heard, fmt.Sprintf("%d %x", m.kind, body))
		}
		if !bytes.HasPrefix(b, again) || onlyControls(b) != (len(again) == len(b)) {
			t.Fatalf("%x: %x", b, again)
		}
		if want, _ := gorillas(t, again); !slices.Equal(heard, want) {
			t.Errorf("%x:\n got %q\nwant %q", again, heard, want)
		}
	})
}

// only is the house's only connection.
func (h *house) only() *conn {
	h.t.Helper()
	all := h.relay.all()
	if len(all) != 1 {
		h.t.Fatalf("%d connections", len(all))
	}
	return all[0]
}

func unlimitedFrames(s *setup) { s.cfg.Limits.Set[ratelimit.FramesPerConnection] = ratelimit.Off }

// A pong counts as a sign of life though nothing but the poller has seen it.
func TestAParkedConnectionIsHeard(t *testing.T) {
	for _, secure := range []bool{false, true} {
		h, _ := simple(t, func(s *setup) { s.tls = secure })
		phone := h.phone("alice")
		h.atRest(1)
		c := h.only()
		h.clock.Advance(h.relay.cfg.Ping)
		phone.WS.NetConn().Write(clientFrame(0x8a, nil))
		poll(t, "the pong is heard", func() bool { return c.heard.Load() == h.relay.Wheel.Now() })
		h.clock.Advance(2 * h.relay.cfg.Ping)
		if c.hasEnded() {
			t.Error("it was cut off")
		}
	}
}

// What the socket does not take at once follows, whole and in order.
func TestAPartialWriteIsFinishedByAWriter(t *testing.T) {
	h, _ := simple(t, nil)
	phone := h.phone("alice")
	c := h.only()
	body := func(i int) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(i)), make([]byte, frame.MaxFrame-4)...)
	}
	sent := 0
	for queued := 0; queued < maxQueued/2; sent++ {
		if !c.out.send(websocket.BinaryMessage, body(sent)) {
			t.Fatal("the queue is full")
		}
		if h.relay.queued.Load() > 0 {
			queued++
		}
	}
	for i := range sent {
		if _, got, err := phone.WS.ReadMessage(); err != nil || !bytes.Equal(got, body(i)) {
			t.Fatalf("message %d: %d bytes, %v", i, len(got), err)
		}
	}
	poll(t, "nothing is queued", func() bool { return h.relay.queued.Load() == 0 })
}

// Whatever comes together to a parked connection is heard, in order. Of pings that
// come together the last is answered, and of many few others.
func TestControlsMixedWithData(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			h, _ := simple(t, func(s *setup) { s.tls = secure; unlimitedFrames(s) })
			c := h.phone("alice")
			s := c.Open(1, "x")
			var pongs []string
			c.WS.SetPongHandler(func(data string) error { pongs = append(pongs, data); return nil })
			ping := func(data string) []byte { return clientFrame(0x89, []byte(data)) }
			message := clientFrame(0x82, frame.Data{Session: s, Sequence: 1, Payload: []byte("payload")}.Append(nil))
			var many []byte
			var sent []string
			for i := range 50 { // more than one read of the poller's, less than may be queued
				data := fmt.Sprintf("%20d", i)
				many, sent = append(many, ping(data)...), append(sent, data)
			}
			for _, test := range []struct {
				stream []byte
				pings  []string
			}{
				{nil, nil},
				{ping("a"), []string{"a"}},
				{slices.Concat(ping("a"), ping("b"), clientFrame(0x8a, nil)), []string{"a", "b"}},
				{many, sent},
			} {
				for _, before := range [][]byte{nil, message} {
					h.atRest(1)
					pongs = nil
					c.WS.NetConn().Write(slices.Concat(before, test.stream, message))
					if before != nil {
						chatdtest.Expect[frame.Data](c)
					}
					chatdtest.Expect[frame.Data](c)
					if !answered(pongs, test.pings) {
						t.Errorf("pongs %q to pings %q", pongs, test.pings)
					}
				}
			}
		})
	}
}

// answered says whether these are pongs to pings that came together.
func answered(pongs, pings []string) bool {
	if len(pings) == 0 || len(pongs) == 0 {
		return len(pongs) == len(pings)
	}
	left := pings
	for _, pong := range pongs {
		i := slices.Index(left, pong)
		if i < 0 {
			return false
		}
		left = left[i+1:]
	}
	return len(left) == 0 && len(pongs) <= 1+len(pings)/4
}
