package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

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

// goroutinesOf is how many goroutines the process starts while f runs.
func goroutinesOf(f func()) uint64 {
	s := []metrics.Sample{{Name: "/sched/goroutines-created:goroutines"}}
	metrics.Read(s)
	before := s[0].Value.Uint64()
	f()
	metrics.Read(s)
	return s[0].Value.Uint64() - before
}

func unlimitedFrames(s *setup) { s.cfg.Limits.Set[ratelimit.FramesPerConnection] = ratelimit.Off }

// Pings in either direction leave a parked connection as it is: no goroutine
// reads, or writes.
func TestPingsOfAParkedConnectionStartNoGoroutine(t *testing.T) {
	h, _ := simple(t, unlimitedFrames)
	phone := h.phone("alice").WS.NetConn()
	h.parkedAll(1)
	c := h.only()
	const n = 500
	exchange := func(send func(), want []byte) {
		got := make([]byte, len(want))
		if started := goroutinesOf(func() {
			for range n {
				send()
				if _, err := io.ReadFull(phone, got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%x, %v", got, err)
				}
			}
		}); started > n/10 { // others in the process have their own
			t.Errorf("%d goroutines for %d pings", started, n)
		}
	}
	ping := clientFrame(0x89, []byte("are you there"))
	exchange(func() { phone.Write(ping) }, appendMessage(nil, websocket.PongMessage, []byte("are you there")))
	exchange(func() { c.out.send(websocket.PingMessage, nil) }, appendMessage(nil, websocket.PingMessage, nil))
	h.parkedAll(1)
}

// A pong counts as a sign of life though nothing but the poller has seen it.
func TestAParkedConnectionIsHeard(t *testing.T) {
	for _, secure := range []bool{false, true} {
		h, _ := simple(t, func(s *setup) { s.tls = secure })
		phone := h.phone("alice")
		h.parkedAll(1)
		c := h.only()
		h.clock.Advance(h.relay.cfg.Ping)
		phone.WS.NetConn().Write(clientFrame(0x8a, nil))
		poll(t, "the pong is heard", func() bool { return c.heard.Load() == h.relay.wheel.Now() })
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

// After nothing but pings and pongs a connection parks at once, and after a
// message as late as any.
func TestPingsDoNotKeepAConnectionActive(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			h, _ := simple(t, func(s *setup) { s.tls = secure })
			c := h.phone("alice")
			h.parkedAll(1)
			server := h.only()
			server.mu.Lock() // whoever resumes it sees it
			h.relay.parkAfter, h.relay.parkIdle = time.Hour, time.Hour
			server.mu.Unlock()
			pong := clientFrame(0x8a, []byte("split"))
			wire := c.WS.NetConn()
			for i := 1; i < len(pong); i++ {
				wire.Write(pong[:i])
				poll(t, "the reader", func() bool { return h.relay.Load().Active == 1 })
				wire.Write(pong[i:])
				h.parkedAll(1)
			}
			wire.Write(slices.Concat(pong, pong, pong))
			s := c.Open(1, "x")
			c.Echo(s, 1, "a message")
			if l := h.relay.Load(); l.Active != 1 || l.Parked != 0 {
				t.Errorf("after a message: %+v", l)
			}
		})
	}
}

// Whatever comes together to a parked connection is heard, in order.
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
			many, want := []byte(nil), []string(nil)
			for i := range 50 { // more than one read of the poller's, less than may be queued
				data := fmt.Sprintf("%20d", i)
				many, want = append(many, ping(data)...), append(want, data)
			}
			for _, test := range []struct {
				stream []byte
				pongs  []string
			}{
				{nil, nil},
				{ping("a"), []string{"a"}},
				{slices.Concat(ping("a"), ping("b"), clientFrame(0x8a, nil)), []string{"a", "b"}},
				{many, want},
			} {
				h.parkedAll(1)
				pongs = nil
				c.WS.NetConn().Write(slices.Concat(test.stream, message))
				chatdtest.Expect[frame.Data](c)
				h.parkedAll(1)
				c.WS.NetConn().Write(slices.Concat(message, test.stream, message))
				chatdtest.Expect[frame.Data](c)
				chatdtest.Expect[frame.Data](c)
				if !slices.Equal(pongs, slices.Concat(test.pongs, test.pongs)) {
					t.Errorf("pongs %q, want %q twice", pongs, test.pongs)
				}
			}
		})
	}
}

// A parked client that floods with pings meets the limit of its frames.
func TestAFloodOfPingsToAParkedConnection(t *testing.T) {
	h, _ := simple(t, nil)
	c := h.phone("alice")
	h.parkedAll(1)
	go func() {
		for ping := clientFrame(0x89, nil); ; {
			if _, err := c.WS.NetConn().Write(ping); err != nil {
				return
			}
		}
	}()
	c.Closed()
	if h.relay.Counts.Get("closed_rate_limited") != 1 {
		t.Errorf("counts: %v", h.relay.Counts.LogValue())
	}
}

// A descriptor may belong to somebody else by the time that its event is seen.
func TestADescriptorThatIsUsedAgain(t *testing.T) {
	h, _ := simple(t, nil)
	first := h.phone("alice")
	h.parkedAll(1)
	old := h.only()
	first.WS.NetConn().Close()
	poll(t, "the end", func() bool { return h.relay.places.Load() == 0 })
	var others []*chatdtest.Client
	var now *conn
	for now == nil {
		others = append(others, h.phone(strings.Repeat("b", len(others)+1)))
		h.parkedAll(len(others))
		for _, c := range h.relay.all() {
			if c.fd == old.fd {
				now = c
			}
		}
	}
	h.relay.poller.mu.Lock()
	if h.relay.poller.parked[old.fd] != now {
		t.Error("the poller knows another")
	}
	h.relay.poller.mu.Unlock()
	in := new(nowait)
	in.init(make([]byte, readBuffer))
	old.onEvent(in, true)
	now.onEvent(in, true) // nothing is there to be read
	old.cut()
	if l := h.relay.Load(); l.Parked != len(others) || l.Active != 0 {
		t.Errorf("%+v", l)
	}
	for _, c := range others {
		c.Echo(c.Open(1, "x"), 1, "still there")
	}
}
