//go:build !race

package relay

import (
	"runtime"
	"testing"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

// loop repeats one message for ever.
type loop struct {
	b  []byte
	at int
}

func (l *loop) Read(b []byte) (int, error) {
	n := copy(b, l.b[l.at:])
	l.at = (l.at + n) % len(l.b)
	return n, nil
}

// In steady state a relayed frame allocates nothing on either side of the
// relay; that of the uplink is tested there. Not with the race detector, under
// which a sync.Pool throws away what it gets now and then.
func TestAFrameAllocatesNothing(t *testing.T) {
	r := alone(t)
	for _, size := range []int{64, 256, 1000, frame.MaxPayload} {
		raw := frame.Data{Session: frame.SessionID{1}, Sequence: 1, Payload: make([]byte, size)}.Append(nil)
		c := taped(t, r, &loop{b: clientFrame(0x82, raw)})
		c.identity = new(identity)
		c.deliver(t, raw)
		if n := testing.AllocsPerRun(1000, func() {
			b, kind, err := c.read()
			if err != nil || kind != websocket.BinaryMessage || len(*b) != len(raw) {
				t.Fatal(kind, err)
			}
			d, err := frame.ParseData(*b)
			if err != nil || c.spend(&c.framesTAT, "FramesPerConnection") != 0 || c.has(nil, d.Session) {
				t.Fatal(err)
			}
			frames.Put(b)
			c.deliver(t, raw)
		}); n != 0 {
			t.Errorf("%d bytes: %v allocations", size, n)
		}
	}
}

// deliver sends a frame to the client and waits until it was written.
func (c *conn) deliver(t *testing.T, raw []byte) {
	if !c.out.send(websocket.BinaryMessage, raw) {
		t.Fatal("not sent")
	}
	for c.relay.queued.Load() != 0 {
		runtime.Gosched()
	}
}

// BenchmarkRead compares the reader of whole messages with gorilla/websocket's.
func BenchmarkRead(b *testing.B) {
	stream := &loop{b: clientFrame(0x82, frame.Data{Payload: make([]byte, 256)}.Append(nil))}
	c := taped(b, alone(b), stream)
	for name, read := range map[string]func() (*[]byte, int, error){"whole": c.read, "gorilla": c.readOther} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				raw, _, err := read()
				if err != nil {
					b.Fatal(err)
				}
				frames.Put(raw)
			}
		})
	}
}
