package uplink

import (
	"bufio"
	"errors"
	"net"
	"testing"
	"time"

	"chatvault/chatd/internal/clock"
	"chatvault/protocol/frame"
)

// control is the node's end of a pipeLink, in which only control frames come.
type control struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func (c *control) expect(want frame.Type) {
	c.t.Helper()
	number, raw, err := frame.ReadEnvelope(c.in, make([]byte, frame.MaxFrame))
	if err != nil || number != 0 || frame.Type(raw[0]) != want {
		c.t.Fatalf("connection %d, frame % x, %v; want type 0x%02x", number, raw, err, uint8(want))
	}
}

// say sends a ping, and returns when the link has heard it.
func (c *control) say() {
	c.t.Helper()
	if _, err := c.conn.Write(frame.AppendEnvelope(nil, 0, frame.UplinkPing{})); err != nil {
		c.t.Fatal(err)
	}
	c.expect(frame.TUplinkPong)
}

func TestASilentNodeIsPingedAndGivenUp(t *testing.T) {
	fake := clock.NewFake(time.Unix(1_700_000_000, 0))
	l, there := pipeLink(t, fake)
	timers := fake.Pending()
	ended := make(chan error, 1)
	go func() { ended <- l.run(func() {}) }()
	node := &control{t, there, bufio.NewReader(there)}
	p := newPeer()
	node.say() // the link runs
	if _, err := l.Join(p, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := frame.ReadEnvelope(node.in, make([]byte, frame.MaxFrame)); err != nil {
		t.Fatal(err)
	}
	for range 4 { // whoever says anything lives
		fake.Advance(pingEvery)
		node.expect(frame.TUplinkPing)
		fake.Advance(pingEvery - time.Second)
		node.say()
		fake.Advance(time.Second)
		node.expect(frame.TUplinkPing)
	}
	fake.Advance(pingEvery)
	node.expect(frame.TUplinkPing)
	fake.Advance(silentAfter - 2*pingEvery)
	node.expect(frame.TUplinkPing)
	if n := fake.Pending(); n != timers {
		t.Errorf("%d timers, %d before there was a link", n, timers)
	}
	select {
	case err := <-ended:
		t.Fatalf("given up too early: %v", err)
	default:
	}
	fake.Advance(pingEvery)
	node.expect(frame.TUplinkPing) // the last chance
	fake.Advance(answerWithin)
	if err := <-ended; !errors.Is(err, ErrSilent) {
		t.Errorf("it ended with %v", err)
	}
	<-p.lost
}

// After a pause of the whole process the time of what was heard last is long over,
// but the node may have spoken all the while.
func TestAPauseEndsNoLink(t *testing.T) {
	fake := clock.NewFake(time.Unix(1_700_000_000, 0))
	l, there := pipeLink(t, fake)
	ended := make(chan error, 1)
	go func() { ended <- l.run(func() {}) }()
	node := &control{t, there, bufio.NewReader(there)}
	node.say()
	for range 2 {
		l.conn.at.Store(fake.Now().Add(-time.Hour).UnixNano())
		fake.Advance(pingEvery)
		node.expect(frame.TUplinkPing)
		node.say()
		fake.Advance(answerWithin)
		node.expect(frame.TUplinkPing)
		node.say()
	}
	l.conn.at.Store(fake.Now().Add(-time.Hour).UnixNano())
	fake.Advance(pingEvery)
	node.expect(frame.TUplinkPing)
	fake.Advance(answerWithin)
	if err := <-ended; !errors.Is(err, ErrSilent) {
		t.Errorf("it ended with %v", err)
	}
}

// A link that has ended has no place in the wheel any more, whenever it ended.
func TestADeadLinkLeavesTheWheel(t *testing.T) {
	fake := clock.NewFake(time.Unix(1_700_000_000, 0))
	l, _ := pipeLink(t, fake)
	l.end(ErrClosed)
	l.run(func() {})
	l.Due() // had begun when it ended
	fake.Advance(2 * silentAfter)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !errors.Is(l.dead, ErrClosed) || len(l.pending) != 0 {
		t.Errorf("%v, %d bytes", l.dead, len(l.pending))
	}
}
