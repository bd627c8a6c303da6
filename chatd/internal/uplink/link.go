// Package uplink holds chatd's connections to the vault nodes: one each, or a few,
// over TCP with mutual TLS 1.3, dialled by chatd, on which the frames of all
// clients are multiplexed (protocol/frame, uplink.go).
package uplink

import (
	"bufio"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
)

const (
	writeTimeout = 10 * time.Second
	// maxPending bounds what waits to be written to a vault node, in bytes.
	// Beyond it, whoever sends waits: the clients' own TCP windows fill.
	maxPending = 1 << 20
	// keptBuffer is the capacity up to which a write buffer is used again, in bytes.
	keptBuffer = 256 << 10
	// A connection that has gone is remembered for so long, and so many of
	// them, for the doorbell of the operation that it left behind.
	rememberFor = 2 * time.Minute
	maxGone     = 1 << 16
)

// Why a link ended.
var (
	ErrLost      = errors.New("the uplink was lost")
	ErrSilent    = errors.New("the vault node has been silent too long")
	ErrProtocol  = errors.New("the vault node broke the protocol of the uplink")
	ErrClosed    = errors.New("the uplink was closed on this side")
	errExhausted = errors.New("every connection number of the uplink has been used")
)

// Peer is the side of a client's connection.
type Peer interface {
	// Deliver takes a frame that the vault node sent to this connection. raw
	// is valid during the call. It must not wait: one reader serves everybody.
	// An error says that the node broke the protocol, and ends the link.
	Deliver(l *Link, raw []byte) error
	// Lost says that the link has ended. It is called once, and Deliver never
	// after it.
	Lost(l *Link)
}

// Link is a live uplink.
type Link struct {
	// static after construction
	node  frame.NodeID
	addr  string
	conn  *pulse
	in    *bufio.Reader // of conn
	wheel *wheel.Wheel
	wake  chan struct{} // has room for one
	done  chan struct{} // closed when the link is dead
	watch wheel.Entry   // see Due

	draining atomic.Bool
	clients  atomic.Int64 // that have joined and not left

	suspect bool // nothing was heard in time, and one more ping sent; owned by Due

	mu      sync.Mutex // guards what follows
	room    sync.Cond  // signalled when pending was taken, and at the end
	pending []byte
	peers   map[uint32]Peer
	gone    []goneConn // in order of time
	next    uint32
	dead    error
}

// goneConn is a connection number that may be forgotten after a time.
type goneConn struct {
	number uint32
	at     uint32 // Unix s, rounded up
}

func newLink(w *wheel.Wheel, addr string, conn *pulse, in *bufio.Reader, node frame.NodeID) *Link {
	l := &Link{
		node: node, addr: addr, conn: conn, in: in, wheel: w,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		peers: map[uint32]Peer{},
	}
	l.room.L = &l.mu
	l.watch.Owner = l
	return l
}

// Node is the vault node at the other end.
func (l *Link) Node() frame.NodeID { return l.node }

// Draining says whether the node asked for no new sessions.
func (l *Link) Draining() bool { return l.draining.Load() }

// Stream is one client's connection on a link.
type Stream struct {
	link   *Link
	number uint32
}

// Link is the link that the stream is on.
func (s Stream) Link() *Link { return s.link }

// Join gives p a number on the link and tells the node whose it is.
func (l *Link) Join(p Peer, hash [32]byte) (Stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead != nil {
		return Stream{}, ErrLost
	}
	// A number is never used twice: what the node says about an old connection
	// must not reach a new one. 2^32 of them take weeks; then dial afresh.
	if l.next == 1<<32-1 {
		l.endLocked(errExhausted)
		return Stream{}, ErrLost
	}
	l.next++
	l.peers[l.next] = p
	l.clients.Add(1)
	l.pending = frame.AppendEnvelope(l.pending, l.next, frame.UplinkPeer{Hash: hash})
	l.signal()
	return Stream{link: l, number: l.next}, nil
}

// Send sends an encoded frame on the stream. It copies raw, and waits while too
// much is pending.
func (s Stream) Send(raw []byte) error {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.dead == nil && len(l.pending) > maxPending {
		l.room.Wait()
	}
	if l.dead != nil {
		return ErrLost
	}
	l.pending = frame.AppendRawEnvelope(l.pending, s.number, raw)
	l.signal()
	return nil
}

// SendNow sends a short frame without ever waiting: for Deliver, which must
// not wait for the writer.
func (s Stream) SendNow(f frame.Frame) {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead == nil {
		l.pending = frame.AppendEnvelope(l.pending, s.number, f)
		l.signal()
	}
}

// Credit gives the node back n DATA frames of a session's window. It never waits
// and allocates nothing.
func (s Stream) Credit(id frame.SessionID, n uint16) {
	var scratch [32]byte
	raw := frame.UplinkCredit{Session: id, Frames: n}.Append(scratch[:0])
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead == nil {
		l.pending = frame.AppendRawEnvelope(l.pending, s.number, raw)
		l.signal()
	}
}

// Leave tells the node that the client's connection has ended. heir takes what
// still comes for it during the next two minutes.
func (s Stream) Leave(heir Peer) {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead != nil {
		return
	}
	l.clients.Add(-1)
	l.peers[s.number] = heir
	l.gone = append(l.gone, goneConn{s.number, l.seconds(time.Second - 1)})
	l.forgetLocked()
	l.pending = frame.AppendEnvelope(l.pending, s.number, frame.UplinkGone{})
	l.signal()
}

// queued is how many bytes wait to be written.
func (l *Link) queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending)
}

// seconds is the coarse time moved by d, in Unix s, rounded down.
func (l *Link) seconds(d time.Duration) uint32 {
	return uint32(time.Unix(0, l.wheel.Now()).Add(d).Unix())
}

func (l *Link) forgetLocked() {
	old := l.seconds(-rememberFor)
	for len(l.gone) > 0 && (len(l.gone) > maxGone || l.gone[0].at <= old) {
		delete(l.peers, l.gone[0].number)
		l.gone = l.gone[1:]
	}
}

func (l *Link) sendControl(f frame.Frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead == nil {
		l.pending = frame.AppendEnvelope(l.pending, 0, f)
		l.signal()
	}
}

// signal wakes the writer.
func (l *Link) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// end makes the link dead, with the reason; the first one counts. The keeper's
// goroutine, which reads, then tells the peers.
func (l *Link) end(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked(reason)
}

func (l *Link) endLocked(reason error) {
	if l.dead != nil {
		return
	}
	l.dead = reason
	close(l.done)
	l.conn.Close()
	l.room.Broadcast()
}

// run reads until the link is dead, calls ended, tells every peer, and returns
// the reason. Whoever learns of the loss must not be sent to this link again:
// ended takes it out of use first.
func (l *Link) run(ended func()) error {
	go l.writeLoop()
	l.attend(pingEvery)
	if err := l.readLoop(); err != nil {
		l.end(err)
	}
	l.wheel.Clear(&l.watch)
	l.mu.Lock()
	reason, peers := l.dead, l.peers
	l.peers = nil
	l.mu.Unlock()
	ended()
	for _, p := range peers {
		p.Lost(l)
	}
	return reason
}

// writeLoop writes what is pending. It yields once before it takes it, so that
// under load one write carries the frames of many clients.
func (l *Link) writeLoop() {
	var out []byte
	for {
		select {
		case <-l.wake:
		case <-l.done:
			return
		}
		runtime.Gosched()
		l.mu.Lock()
		out, l.pending = l.pending, out[:0]
		l.room.Broadcast()
		l.mu.Unlock()
		if len(out) == 0 {
			continue
		}
		l.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := l.conn.Write(out); err != nil {
			l.end(fmt.Errorf("%w: writing: %w", ErrLost, err))
			return
		}
		if cap(out) > keptBuffer {
			out = nil // a burst does not stay in memory
		}
	}
}

func (l *Link) readLoop() error {
	buf := make([]byte, frame.MaxFrame)
	for {
		number, raw, err := frame.ReadEnvelope(l.in, buf)
		if errors.Is(err, frame.ErrMalformed) {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if err != nil {
			return fmt.Errorf("%w: reading: %w", ErrLost, err)
		}
		if number == 0 {
			err = l.control(raw)
		} else {
			err = l.deliver(number, raw)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
	}
}

func (l *Link) control(raw []byte) error {
	f, err := frame.ParseUplink(raw)
	if err != nil {
		return err
	}
	switch f.(type) {
	case frame.UplinkPing:
		l.sendControl(frame.UplinkPong{})
	case frame.UplinkPong:
	case frame.UplinkDrain:
		l.draining.Store(true)
	default:
		return fmt.Errorf("a frame of type 0x%02x on connection 0", uint8(f.Type()))
	}
	return nil
}

func (l *Link) deliver(number uint32, raw []byte) error {
	l.mu.Lock()
	p, known := l.peers[number]
	unused := number > l.next
	l.mu.Unlock()
	if unused {
		return errors.New("a frame for a connection that never was")
	}
	if !known {
		return nil // it left longer ago than is remembered
	}
	return p.Deliver(l, raw)
}
