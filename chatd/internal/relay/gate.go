package relay

import (
	"container/list"
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// perCore is how many handshakes (TLS or AUTH) may compute at a time for each
	// core: more of them would only wait for each other, and let those wait who
	// are in already.
	perCore = 4
	// waitPerCore is how many may wait to begin one, for each core, and gateWait
	// for how long. A core does some 750 whole handshakes a second, so both are
	// about 2 s of work. Whoever comes when there is no room is sent away at once:
	// its backoff spreads it. To let it wait and time out, half served, would cost
	// the most, when there is the least to spare.
	waitPerCore = 1500
	gateWait    = 2 * time.Second
	// fairly is how often one that wants to begin comes before those that have
	// begun: once in so many times. No flood of AUTH keeps everybody else out.
	fairly = 8
)

// lane is who waits at the gate: who has begun a handshake goes before all those
// who want to begin one, because what was spent for it is lost if it times out.
type lane int

const (
	hasBegun lane = iota
	wantsToBegin
)

// gate lets so many compute at a time.
type gate struct {
	room int // static: how many may want to begin at a time

	mu    sync.Mutex   // guards what follows
	free  int          // places; 0 while anybody waits
	lanes [2]list.List // of chan struct{}: who waits, in order
	turns int          // given in a row to those that have begun, while others waited
}

func newGate() *gate {
	n := runtime.GOMAXPROCS(0)
	return &gate{free: perCore * n, room: waitPerCore * n}
}

// enter waits for a place. It reports false when there is no room to wait, when
// there was no place in time, or when ctx has ended.
func (g *gate) enter(ctx context.Context, l lane, most time.Duration) bool {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return true
	}
	if l == wantsToBegin && g.lanes[l].Len() >= g.room {
		g.mu.Unlock()
		return false
	}
	turn := make(chan struct{})
	at := g.lanes[l].PushBack(turn)
	g.mu.Unlock()
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case <-turn:
		return true
	case <-late.C:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-turn: // in the last moment
		return true
	default:
		g.lanes[l].Remove(at)
		return false
	}
}

// leave gives the place to the next one.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	begun, others := &g.lanes[hasBegun], &g.lanes[wantsToBegin]
	next := begun
	if others.Len() > 0 {
		if g.turns++; begun.Len() == 0 || g.turns >= fairly {
			next, g.turns = others, 0
		}
	}
	if e := next.Front(); e != nil {
		close(next.Remove(e).(chan struct{}))
	} else {
		g.free++
	}
}

var errGate = errors.New("too many handshakes at a time")

// gated is the connection below TLS. During the handshake it is inside of the
// gate while it computes, and outside while it waits for the client: who sends
// nothing keeps nobody out.
type gated struct {
	net.Conn
	relay *Relay

	// owned by the goroutine of the handshake
	begun  bool // it was inside before
	inside bool
	over   bool // the handshake is
}

// during runs the handshake, which begins by reading.
func (g *gated) during(handshake func() error) error {
	err := handshake()
	g.over = true
	if g.inside {
		g.inside = false
		g.relay.gate.leave()
	}
	return err
}

// Read implements net.Conn.
func (g *gated) Read(b []byte) (int, error) {
	if g.over {
		return g.Conn.Read(b)
	}
	if g.inside {
		g.inside = false
		g.relay.gate.leave()
	}
	n, err := g.Conn.Read(b)
	if err == nil && !g.enter() {
		err = errGate
	}
	return n, err
}

func (g *gated) enter() bool {
	r := g.relay
	l, most := hasBegun, r.headTimeout
	if !g.begun {
		l, most = wantsToBegin, min(gateWait, r.headTimeout)
	}
	if g.inside = r.gate.enter(r.ctx, l, most); !g.inside {
		r.Counts.Add("refused_handshake_gate")
		return false
	}
	if !g.begun {
		g.begun = true
		// The client's time begins now: it has waited for us.
		g.Conn.SetDeadline(time.Now().Add(r.headTimeout))
	}
	return true
}

// SyscallConn implements syscall.Conn, for parking.
func (g *gated) SyscallConn() (syscall.RawConn, error) {
	s, ok := g.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return s.SyscallConn()
}
