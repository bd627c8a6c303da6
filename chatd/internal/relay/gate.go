package relay

import (
	"context"
	"errors"
	"net"
	"runtime"
	"syscall"
	"time"
)

// perCore is how many handshakes (TLS, and apart from it AUTH) may compute at a
// time for each core: more of them would only wait for each other, and let those
// wait who are in already.
const perCore = 4

// gate lets so many through at a time.
type gate chan struct{}

func newGate() gate { return make(gate, perCore*runtime.GOMAXPROCS(0)) }

// enter waits for a place, and reports false when there was none in time or ctx
// has ended.
func (g gate) enter(ctx context.Context, most time.Duration) bool {
	select {
	case g <- struct{}{}:
		return true
	default:
	}
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case g <- struct{}{}:
		return true
	case <-late.C:
	case <-ctx.Done():
	}
	return false
}

func (g gate) leave() { <-g }

var errGate = errors.New("too many handshakes at a time")

// gated is the connection below TLS. During the handshake it leaves the gate
// while it waits for the client: who sends nothing keeps nobody out.
type gated struct {
	net.Conn
	relay   *Relay
	shaking bool // owned by the goroutine of the handshake
}

// during runs the handshake, which begins by reading.
func (g *gated) during(handshake func() error) error {
	if !g.enter() {
		return errGate
	}
	g.shaking = true
	err := handshake()
	if g.shaking {
		g.shaking = false
		g.relay.tlsGate.leave()
	}
	return err
}

func (g *gated) enter() bool {
	if !g.relay.tlsGate.enter(g.relay.ctx, g.relay.headTimeout) {
		g.relay.Counts.Add("refused_handshake_gate")
		return false
	}
	return true
}

// Read implements net.Conn.
func (g *gated) Read(b []byte) (int, error) {
	if !g.shaking {
		return g.Conn.Read(b)
	}
	g.relay.tlsGate.leave()
	n, err := g.Conn.Read(b)
	if !g.enter() {
		g.shaking = false
		return n, errGate
	}
	return n, err
}

// SyscallConn implements syscall.Conn, for parking.
func (g *gated) SyscallConn() (syscall.RawConn, error) {
	s, ok := g.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return s.SyscallConn()
}
