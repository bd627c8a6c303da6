package chatdtest

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"chatvault/protocol/frame"
)

// Vault speaks vaultd's side of the uplink and echoes what sessions send. What
// a payload says makes it do something else:
//
//	OPEN "refuse"   REFUSE busy
//	OPEN "mute"     no answer
//	DATA "ring"     the echo, then NOTICE
//	DATA "end"      CLOSE session_ended
//	DATA "mute"     no answer
//
// It keeps the windows of the uplink, and is strict about chatd's: a DATA frame is
// used when its echo could be sent.
type Vault struct {
	t      testing.TB
	config *tls.Config
	// Hello is what it says first.
	Hello frame.UplinkHello
	// Addr is where it listens, the same after Stop and Start.
	Addr string

	mu       sync.Mutex
	changed  sync.Cond
	listener net.Listener // nil: stopped
	links    []*VaultLink
	state    VaultState
}

// VaultState is what a Vault has seen and holds.
type VaultState struct {
	Links    int // live uplinks
	Sessions map[frame.SessionID]*VaultSession
	Frames   []frame.Frame // everything but pings and credit, in order of arrival
	Pings    int
}

// VaultSession is a session and the connection that it is attached to.
type VaultSession struct {
	Peer   [32]byte
	Link   *VaultLink // nil: detached
	Number uint32

	flow
}

// VaultLink is one uplink, seen from the vault.
type VaultLink struct {
	vault *Vault
	conn  net.Conn
	peers map[uint32][32]byte // owned by the reader

	write sync.Mutex
}

// StartVault starts a vault node with a certificate of the authority.
func StartVault(t testing.TB, pki *PKI, node byte, role string) *Vault {
	t.Helper()
	v := &Vault{
		t:     t,
		Hello: frame.UplinkHello{Version: frame.UplinkVersion, Node: frame.NodeID{node, 0, 0, 1}, Fleet: Fleet},
		config: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pki.Certificate(role)},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pki.Pool(),
		},
		Addr: "127.0.0.1:0",
	}
	v.changed.L = &v.mu
	v.state.Sessions = map[frame.SessionID]*VaultSession{}
	v.Start()
	t.Cleanup(v.Stop)
	return v
}

// Start listens, again after Stop. Sessions are forgotten, as vaultd forgets
// them when it restarts.
func (v *Vault) Start() {
	v.t.Helper()
	l, err := tls.Listen("tcp", v.Addr, v.config)
	if err != nil {
		v.t.Fatal(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.listener, v.Addr = l, l.Addr().String()
	clear(v.state.Sessions)
	go v.accept(l)
}

// Stop ends the node as a crash would.
func (v *Vault) Stop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.listener != nil {
		v.listener.Close()
		v.listener = nil
	}
	v.cutLocked()
}

// Cut loses every uplink; the node, and its sessions, live on.
func (v *Vault) Cut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cutLocked()
}

// Cut loses this uplink.
func (l *VaultLink) Cut() { l.conn.Close() }

// CutBut loses every uplink but one.
func (v *Vault) CutBut(kept *VaultLink) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range v.links {
		if l != kept {
			l.conn.Close()
		}
	}
}

func (v *Vault) cutLocked() {
	for _, l := range v.links {
		l.conn.Close()
	}
}

// Drain asks every chatd to open no new sessions here.
func (v *Vault) Drain() { v.Broadcast(0, frame.UplinkDrain{}) }

// Broadcast sends a frame, addressed to a connection number, on every uplink.
func (v *Vault) Broadcast(number uint32, f frame.Frame) {
	v.mu.Lock()
	links := slices.Clone(v.links)
	v.mu.Unlock()
	for _, l := range links {
		l.Send(number, f)
	}
}

// Await waits until what the vault has seen satisfies ok, which must not keep
// the state.
func (v *Vault) Await(what string, ok func(s *VaultState) bool) {
	v.t.Helper()
	late := time.AfterFunc(patience, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.changed.Broadcast()
	})
	defer late.Stop()
	began := time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	for !ok(&v.state) {
		if time.Since(began) > 19*time.Second {
			v.t.Fatalf("the vault never saw: %s", what)
		}
		v.changed.Wait()
	}
}

// Session returns a copy of one session, if it lives.
func (v *Vault) Session(id frame.SessionID) (VaultSession, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.state.Sessions[id]; s != nil {
		return *s, true
	}
	return VaultSession{}, false
}

// Count says how many of the frames that came satisfy is.
func (s *VaultState) Count(is func(f frame.Frame) bool) int {
	n := 0
	for _, f := range s.Frames {
		if is(f) {
			n++
		}
	}
	return n
}

func (v *Vault) update(f func(s *VaultState)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(&v.state)
	v.changed.Broadcast()
}

func (v *Vault) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		l := &VaultLink{vault: v, conn: conn, peers: map[uint32][32]byte{}}
		v.mu.Lock()
		if v.listener == listener {
			v.links = append(v.links, l)
			go l.serve()
		} else {
			conn.Close() // it came while the node stopped
		}
		v.mu.Unlock()
	}
}

// Send sends a frame, addressed to a connection number.
func (l *VaultLink) Send(number uint32, f frame.Frame) {
	l.write.Lock()
	defer l.write.Unlock()
	l.conn.Write(frame.AppendEnvelope(nil, number, f))
}

func (l *VaultLink) serve() {
	v := l.vault
	if l.conn.(*tls.Conn).Handshake() == nil {
		l.Send(0, v.Hello)
		v.update(func(s *VaultState) { s.Links++ })
		l.read()
		v.update(func(s *VaultState) { s.Links-- })
	}
	l.conn.Close()
	v.update(func(s *VaultState) {
		v.links = slices.DeleteFunc(v.links, func(o *VaultLink) bool { return o == l })
		for _, session := range s.Sessions {
			if session.Link == l {
				session.Link = nil
			}
		}
	})
}

func (l *VaultLink) read() {
	in := bufio.NewReader(l.conn)
	buf := make([]byte, frame.MaxFrame)
	for {
		number, raw, err := frame.ReadEnvelope(in, buf)
		if err != nil {
			return
		}
		f, err := frame.ParseUplink(bytes.Clone(raw))
		if err != nil {
			l.vault.t.Errorf("chatd sent to the vault: %v", err)
			return
		}
		l.handle(number, f)
	}
}

func (l *VaultLink) handle(number uint32, f frame.Frame) {
	v := l.vault
	if credit, ok := f.(frame.UplinkCredit); ok {
		l.credit(number, credit)
		return
	}
	if _, ok := f.(frame.UplinkPing); ok {
		l.Send(0, frame.UplinkPong{})
		v.update(func(s *VaultState) { s.Pings++ })
		return
	}
	if hello, ok := f.(frame.UplinkPeer); ok {
		l.peers[number] = hello.Hash
	} else if _, known := l.peers[number]; number != 0 && !known {
		v.t.Errorf("chatd sent %T on connection %d before it named the peer", f, number)
	}
	// The answer is decided before anybody can see that the frame came.
	var answers []frame.Frame
	v.update(func(s *VaultState) {
		s.Frames = append(s.Frames, f)
		answers = l.answer(s, number, f)
	})
	for _, a := range answers {
		l.Send(number, a)
	}
}

func (l *VaultLink) answer(s *VaultState, number uint32, f frame.Frame) []frame.Frame {
	switch f := f.(type) {
	case frame.Open:
		return l.open(s, number, f)
	case frame.Attach:
		return l.attach(s, number, f)
	case frame.Data:
		session := s.Sessions[f.Session]
		if session == nil || session.Link != l || session.Number != number {
			return []frame.Frame{frame.Refuse{Refused: frame.TData, Session: f.Session, Status: frame.NoSession}}
		}
		return session.pass(l.vault, f.Session, data(s, f))
	case frame.Close:
		delete(s.Sessions, f.Session)
	case frame.UplinkGone:
		for _, session := range s.Sessions {
			if session.Link == l && session.Number == number {
				session.Link = nil
			}
		}
	}
	return nil
}

func (l *VaultLink) open(s *VaultState, number uint32, f frame.Open) []frame.Frame {
	switch string(f.Payload) {
	case "mute":
		return nil
	case "refuse":
		return []frame.Frame{frame.Refuse{Refused: frame.TOpen, Tag: f.Tag, Status: frame.Busy, RetryMillis: 100}}
	}
	var id frame.SessionID
	rand.Read(id[:])
	copy(id[:], l.vault.Hello.Node[:])
	session := &VaultSession{Peer: l.peers[number], Link: l, Number: number}
	session.replies.Take() // DATA 0
	s.Sessions[id] = session
	return []frame.Frame{
		frame.Attach{Tag: f.Tag, Session: id},
		frame.Data{Session: id, Payload: f.Payload},
	}
}

func (l *VaultLink) attach(s *VaultState, number uint32, f frame.Attach) []frame.Frame {
	session := s.Sessions[f.Session]
	if session == nil || session.Peer != l.peers[number] {
		return []frame.Frame{frame.Refuse{Refused: frame.TAttach, Tag: f.Tag, Session: f.Session, Status: frame.NoSession}}
	}
	if session.Link != nil && (session.Link != l || session.Number != number) {
		go session.Link.Send(session.Number, frame.Close{Session: f.Session, Status: frame.Replaced})
	}
	session.Link, session.Number = l, number
	session.fill()
	return []frame.Frame{frame.Attach{Tag: f.Tag, Session: f.Session}}
}

func data(s *VaultState, f frame.Data) []frame.Frame {
	switch string(f.Payload) {
	case "mute":
		return nil
	case "end":
		delete(s.Sessions, f.Session)
		return []frame.Frame{frame.Close{Session: f.Session, Status: frame.SessionEnded}}
	case "ring":
		return []frame.Frame{f, frame.Notice{}}
	}
	return []frame.Frame{f}
}
