// Package uplink is vaultd's side of the connections that chatds dial: TLS 1.3 with
// certificates on both sides, one stream of envelopes for all of a chatd's clients.
//
// A chatd is believed in nothing but whose connection is whose. An uplink touches
// only the sessions that were opened or attached on it, and what breaks the
// protocol ends the uplink, not a session: sessions wait for ATTACH on another.
package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/pki"
	"chatvault/vaultd/internal/session"
)

// Config of a Server. Whatever has no default must be set.
type Config struct {
	// TLS is vaultd's side, from pki.ServerTLS; SetTLS changes it.
	TLS *tls.Config
	// Node and Fleet are what UplinkHello says.
	Node  frame.NodeID
	Fleet string
	// Sessions of this node.
	Sessions *session.Table

	// MaxUplinks caps established uplinks, and apart from them handshakes: so a
	// stranger who holds handshakes open ends nobody's uplink. Default 256.
	MaxUplinks int
	// MaxConnections caps the client connections of one uplink; one more ends
	// the uplink. Default 262,144.
	MaxConnections int
	// QueueBytes is how much may wait to be written to one uplink, in bytes; more
	// ends it. Default 8 MiB.
	QueueBytes int

	// HandshakeTimeout is for TLS, and again for the first envelope after it.
	// Default 10 s.
	HandshakeTimeout time.Duration
	// PingEvery is how often chatd is asked whether it still lives. Default 10 s.
	PingEvery time.Duration
	// DeadAfter is how long an uplink may be silent. Default 30 s.
	DeadAfter time.Duration
	// WriteTimeout is for one write to an uplink. Default 10 s.
	WriteTimeout time.Duration

	// Log is told of uplinks that come and go. Default slog.Default().
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxUplinks, 256)
	setDefault(&c.MaxConnections, 1<<18)
	setDefault(&c.QueueBytes, 8<<20)
	setDefault(&c.HandshakeTimeout, 10*time.Second)
	setDefault(&c.PingEvery, 10*time.Second)
	setDefault(&c.DeadAfter, 30*time.Second)
	setDefault(&c.WriteTimeout, 10*time.Second)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Server serves uplinks.
type Server struct {
	cfg        Config        // static after construction
	handshakes chan struct{} // one token per TLS handshake under way
	tls        atomic.Pointer[tls.Config]
	counts     counters
	refusals   seldom         // lines about those who were not let in
	running    sync.WaitGroup // one per accepted connection

	mu        sync.Mutex // guards all below
	uplinks   map[*uplink]struct{}
	listeners map[net.Listener]struct{}
	draining  bool // UplinkDrain has been sent to all
	closed    bool // no uplink may begin
}

// New returns a server; Serve makes it work.
func New(cfg Config) *Server {
	cfg = cfg.withDefaults()
	s := &Server{
		cfg:        cfg,
		handshakes: make(chan struct{}, cfg.MaxUplinks),
		uplinks:    make(map[*uplink]struct{}),
		listeners:  make(map[net.Listener]struct{}),
	}
	s.tls.Store(cfg.TLS)
	return s
}

// SetTLS makes the uplinks that begin from now on use c, from pki.ServerTLS. Those
// there are go on.
func (s *Server) SetTLS(c *tls.Config) { s.tls.Store(c) }

// Serve accepts uplinks until Shutdown, then returns nil. It closes the listener.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			s.accepted(conn)
		case s.isClosed():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting uplinks: %w", err)
		default:
			// Out of file descriptors, or the peer gave up: neither is for good.
			s.cfg.Log.Warn("accepting an uplink failed", "error", err)
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// accepted takes a new connection on, within the limits.
func (s *Server) accepted(conn net.Conn) {
	select {
	case s.handshakes <- struct{}{}:
	default:
		s.counts.add(TooManyHandshakes)
		conn.Close()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return
	}
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		s.serve(conn)
	}()
}

// serve takes one connection from its handshake to its end.
func (s *Server) serve(raw net.Conn) {
	defer raw.Close()
	conn, err := s.handshake(raw)
	<-s.handshakes
	if err != nil {
		event := FailedHandshake
		if errors.Is(err, pki.ErrRole) {
			event = WrongRole
		}
		s.counts.add(event)
		s.sayRefused(raw, "uplink refused", "error", err)
		return
	}
	u := newUplink(s, conn)
	if !s.begin(u) {
		s.counts.add(TooManyUplinks)
		s.sayRefused(raw, "uplink refused: too many")
		return
	}
	s.counts.add(Connected)
	s.cfg.Log.Info("uplink up", "peer", raw.RemoteAddr().String())
	why := u.run()
	s.mu.Lock()
	delete(s.uplinks, u)
	s.mu.Unlock()
	s.cfg.Log.Info("uplink down", "peer", raw.RemoteAddr().String(), "why", why.String())
}

// sayRefused logs that a connection was not let in, but not every time.
func (s *Server) sayRefused(raw net.Conn, what string, more ...any) {
	if unsaid, ok := s.refusals.say(time.Now()); ok {
		s.cfg.Log.Warn(what, append(more, "peer", raw.RemoteAddr().String(), "unsaid_before", unsaid)...)
	}
}

func (s *Server) handshake(raw net.Conn) (*tls.Conn, error) {
	if err := raw.SetDeadline(time.Now().Add(s.cfg.HandshakeTimeout)); err != nil {
		return nil, err
	}
	conn := tls.Server(raw, s.tls.Load())
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	if err := pki.CheckPeer(conn.ConnectionState(), pki.Chatd); err != nil {
		return nil, err
	}
	return conn, raw.SetDeadline(time.Time{})
}

// begin enters an uplink and says hello, or says that there is no room.
func (s *Server) begin(u *uplink) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.uplinks) >= s.cfg.MaxUplinks {
		return false
	}
	s.uplinks[u] = struct{}{}
	u.out.send(0, frame.UplinkHello{Version: frame.UplinkVersion, Node: s.cfg.Node, Fleet: s.cfg.Fleet})
	if s.draining {
		u.out.send(0, frame.UplinkDrain{})
	}
	u.out.send(0, frame.UplinkPing{}) // its pong is a first envelope, if nothing else is
	return true
}

// Shutdown asks all chatds to open nothing new here, drains the sessions until the
// context ends, writes what is still to be written, and ends the uplinks. Uplinks
// that come during the drain are taken on, so that sessions can be attached.
func (s *Server) Shutdown(ctx context.Context) {
	s.mu.Lock()
	s.draining = true
	for u := range s.uplinks {
		u.out.send(0, frame.UplinkDrain{})
	}
	s.mu.Unlock()

	s.cfg.Sessions.Drain(ctx)

	s.mu.Lock()
	s.closed = true
	for ln := range s.listeners {
		ln.Close()
	}
	for u := range s.uplinks {
		u.out.finish()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Len is how many uplinks there are.
func (s *Server) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.uplinks)
}
