package relay

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
)

// These tests are about parking itself. Where there is no poller there is nothing
// to test. All others run over both engines: see engines_test.go.

func TestIdleConnectionsPark(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			h, _ := simple(t, func(s *setup) { s.tls = secure })
			var phones []*chatdtest.Client
			for range 10 {
				phones = append(phones, h.phone("alice"))
			}
			h.atRest(10)
			for _, c := range h.relay.all() {
				c.mu.Lock()
				if c.in != nil {
					t.Error("a parked connection has a read buffer")
				}
				c.mu.Unlock()
				poll(t, "no write buffer", func() bool {
					c.out.mu.Lock()
					defer c.out.mu.Unlock()
					return c.out.w == nil
				})
			}
			// Whatever comes from either side finds it.
			for _, c := range phones[:5] {
				c.Echo(c.Open(1, "x"), 1, "ring")
				for _, other := range phones {
					if other != c {
						chatdtest.Expect[frame.Notice](other)
					}
				}
				h.atRest(10)
			}
			pong := make(chan string, 1)
			phones[0].WS.SetPongHandler(func(data string) error { pong <- data; return nil })
			if err := phones[0].WS.WriteControl(websocket.PingMessage, []byte("are you there"), time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			go phones[0].WS.ReadMessage()
			if data := <-pong; data != "are you there" {
				t.Errorf("pong %q", data)
			}
			h.atRest(10)
			// Nor does it miss its end, in any of the ways.
			phones[0].WS.NetConn().Close() // it would answer pings
			phones[1].WS.NetConn().Close()
			phones[2].WS.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Minute))
			h.atRest(7)
			h.clock.Advance(10 * h.relay.cfg.Ping)
			h.atRest(0)
			if n := h.relay.places.Load(); n != 0 {
				t.Errorf("%d places are taken", n)
			}
		})
	}
}

func TestAParkedConnectionIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(conn{}); n > 320 {
		t.Errorf("%d bytes; the next size that Go's allocator has is 352", n)
	}
}

func TestWhoHasNoSessionParksSooner(t *testing.T) {
	h, _ := simple(t, func(s *setup) { s.parkAfter = time.Hour })
	h.relay.parkIdle = time.Millisecond
	busy := h.phone("alice")
	s := busy.Open(1, "x")
	h.phone("bob")
	poll(t, "one parks, the other does not", func() bool { l := h.relay.Load(); return l.Parked == 1 && l.Active == 1 })
	busy.Send(frame.Close{Session: s})
	h.atRest(2)
}

// However a client words its request, it costs no more than others.
func TestEveryRequestLineLeadsToParking(t *testing.T) {
	for name, target := range map[string]string{"a query": frame.Path + "?x=y", "the whole URL": "http://relay" + frame.Path} {
		for _, secure := range []bool{false, true} {
			h, _ := simple(t, func(s *setup) { s.tls = secure })
			conn := h.raw()
			if secure {
				conn = tls.Client(conn, h.clientTLS())
			}
			io.WriteString(conn, strings.Replace(upgradeRequest(""), frame.Path, target, 1))
			in := bufio.NewReader(conn)
			if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%s: %v, %v", name, resp, err)
			}
			in.Discard(len(appendMessage(nil, websocket.BinaryMessage, frame.Hello{}.Append(nil))))
			h.atRest(1)
			conn.Write(clientFrame(0x89, []byte("ping")))
			want := appendMessage(nil, websocket.PongMessage, []byte("ping"))
			if got, err := in.Peek(len(want)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %x, %v", name, got, err)
			}
		}
	}
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

// Pings in either direction leave a parked connection as it is: no goroutine
// reads, or writes.
func TestPingsOfAParkedConnectionStartNoGoroutine(t *testing.T) {
	h, _ := simple(t, unlimitedFrames)
	phone := h.phone("alice").WS.NetConn()
	h.atRest(1)
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
	h.atRest(1)
}

// After nothing but pings and pongs a connection parks at once, and after a
// message as late as any.
func TestPingsDoNotKeepAConnectionActive(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			h, _ := simple(t, func(s *setup) { s.tls = secure })
			c := h.phone("alice")
			h.atRest(1)
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
				h.atRest(1)
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

// A descriptor may belong to somebody else by the time that its event is seen.
func TestADescriptorThatIsUsedAgain(t *testing.T) {
	h, _ := simple(t, nil)
	first := h.phone("alice")
	h.atRest(1)
	old := h.only()
	first.WS.NetConn().Close()
	poll(t, "the end", func() bool { return h.relay.places.Load() == 0 })
	var others []*chatdtest.Client
	var now *conn
	for now == nil {
		others = append(others, h.phone(strings.Repeat("b", len(others)+1)))
		h.atRest(len(others))
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

// A parked client that floods with pings meets the limit of its frames.
func TestAFloodOfPingsToAParkedConnection(t *testing.T) {
	h, _ := simple(t, nil)
	c := h.phone("alice")
	h.atRest(1)
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
