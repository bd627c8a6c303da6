package relay

import (
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
)

// parkedAll waits until every connection is parked, or active.
func (h *house) parkedAll(n int) {
	h.t.Helper()
	poll(h.t, "parking", func() bool { l := h.relay.Load(); return l.Parked == n && l.Active == 0 })
}

func TestIdleConnectionsPark(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			h, _ := simple(t, func(s *setup) { s.tls = secure })
			var phones []*chatdtest.Client
			for range 10 {
				phones = append(phones, h.phone("alice"))
			}
			h.parkedAll(10)
			for _, c := range h.relay.all() {
				c.mu.Lock()
				if c.in.pooled != nil || c.in.br.Size() != 0 {
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
				h.parkedAll(10)
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
			h.parkedAll(10)
			// Nor does it miss its end, in any of the ways.
			phones[0].WS.NetConn().Close() // it would answer pings
			phones[1].WS.NetConn().Close()
			phones[2].WS.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Minute))
			h.parkedAll(7)
			h.clock.Advance(10 * h.relay.cfg.Ping)
			h.parkedAll(0)
			if n := h.relay.places.Load(); n != 0 {
				t.Errorf("%d places are taken", n)
			}
		})
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
	h.parkedAll(2)
}

// The same tests, as on systems without a poller.
func TestConnectionsThatStayActive(t *testing.T) {
	withoutPoller = true
	defer func() { withoutPoller = false }()
	for name, test := range map[string]func(*testing.T){
		"session": TestASessionFromOpenToClose, "late AUTH": TestAuthLate, "ticket": TestTheTicketEnds, "floods": TestFloods,
		"silent": TestSilentClientsArePingedAndThenCutOff, "not reading": TestAClientThatDoesNotRead, "uplink": TestUplinkLostAndBack,
		"newest": TestTheNewestConnectionWins, "slow frames": TestMessagesThatComeInPieces, "half a frame": TestHalfAMessage,
	} {
		t.Run(name, test)
	}
}

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
