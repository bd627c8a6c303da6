package relay

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
)

// goodbyes are when connections are told goodbye, in that order.
func goodbyes(all []*conn) (at []int64) {
	for _, c := range all {
		c.mu.Lock()
		at = append(at, c.goodbye)
		c.mu.Unlock()
	}
	slices.Sort(at)
	return at
}

// told is how many of them have been.
func told(all []*conn) (n int) {
	for _, c := range all {
		c.mu.Lock()
		if c.drains {
			n++
		}
		c.mu.Unlock()
	}
	return n
}

// Few leave a hundred a second; many, evenly over 9/10 of the drain time. Each is
// told by the first tick of the wheel after its turn has come, and none earlier.
func TestADrainGoesInTheOrderOfTheWheel(t *testing.T) {
	const n = 100
	for drain, over := range map[time.Duration]time.Duration{
		time.Second:      900 * time.Millisecond,
		20 * time.Second: time.Second,
		0:                0,
	} {
		t.Run(fmt.Sprint(drain), func(t *testing.T) {
			h, _ := simple(t, func(s *setup) {
				s.cfg.Drain = drain
				s.cfg.Limits.Set[ratelimit.ConnectionsPerIP] = ratelimit.Off
			})
			var clients []*chatdtest.Client
			for range n {
				clients = append(clients, h.dial())
			}
			all, began := h.relay.all(), h.clock.Now()
			empty := h.relay.beginDrain()
			at := goodbyes(all)
			for i := range at {
				if want := began.Add(over * time.Duration(i) / n).UnixNano(); at[i] != want {
					t.Fatalf("goodbye %d is %v after the begin, not %v", i, time.Duration(at[i]-began.UnixNano()), time.Duration(want-began.UnixNano()))
				}
			}
			for told(all) < n {
				now := h.clock.Now().UnixNano()
				due, _ := slices.BinarySearch(at, now+1)
				if got := told(all); got != due {
					t.Fatalf("%d were told after %v, want %d", got, time.Duration(now-began.UnixNano()), due)
				}
				h.clock.Advance(wheel.Tick)
			}
			if took := h.clock.Now().Sub(began); took > over+wheel.Tick {
				t.Errorf("the last one was told after %v", took)
			}
			for _, c := range clients {
				if last, code := c.Closed(); code != frame.Draining.CloseCode() || len(last) != 1 || last[0].Type() != frame.TGoaway {
					t.Errorf("%+v, then close code %d", last, code)
				}
				c.WS.Close()
			}
			<-empty
		})
	}
}

// Who has a session in flight is told goodbye and stays, until the drain time is
// over. Then who reads is told by the close code, and who does not is cut off.
func TestADrainEndsWithItsTime(t *testing.T) {
	h, vault := simple(t, func(s *setup) { s.cfg.Drain = 20 * time.Second })
	h.relay.closeGrace = 50 * time.Millisecond
	deaf := h.phone("bob")
	stuck, full := h.only(), deaf.Open(1, "x")
	data := frame.Data{Session: full, Sequence: 1, Payload: make([]byte, frame.MaxPayload)}
	poll(t, "a client for which much waits", func() bool {
		stuck.wire.Conn.SetWriteDeadline(time.Time{}) // what ends it is to be the drain
		sent := false
		for vault.Push(data) {
			sent = true
		}
		return !sent && h.relay.queued.Load() > 0
	})
	c := h.phone("alice")
	session, timers := c.Open(1, "x"), h.clock.Pending()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		h.relay.Drain()
	}()
	poll(t, "the end of the drain is set", func() bool { return h.clock.Pending() == timers+1 })
	h.clock.Advance(wheel.Tick) // both have had their turn
	if g := chatdtest.Expect[frame.Goaway](c); g.Status != frame.Draining {
		t.Errorf("%+v", g)
	}
	h.clock.Advance(20*time.Second - 2*wheel.Tick)
	c.Echo(session, 1, "to the last")
	h.clock.Advance(wheel.Tick)
	if last, code := c.Closed(); len(last) != 0 || code != frame.Draining.CloseCode() {
		t.Errorf("%+v, then close code %d", last, code)
	}
	poll(t, "the end of the drain", func() bool {
		stuck.wire.Conn.SetWriteDeadline(time.Time{})
		select {
		case <-drained:
			return true
		default:
			return false
		}
	})
	if n := h.relay.Counts.Get("closed_draining"); n != 2 {
		t.Errorf("%d ended because of it", n)
	}
}
