package e2e

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chatvault/docker/stack"
	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/protocol/oprf"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

// naiveVault speaks the whole wire, behind a real chatd, with keys in memory and
// rules of its own, of which one may be a naive one: what an attack has to beat, to
// prove anything when our vault withstands it.
type naiveVault struct {
	t      *testing.T
	ln     net.Listener
	noise  *ecdh.PrivateKey
	opaque oprf.PrivateKey
	keys   fleet.Keys
	ready  chan struct{} // closed when what follows is there
	tls    *tls.Config

	tickets *ticket.Verifier

	mu       sync.Mutex // guards all below
	flaw     flaw
	pacing   bool
	accounts map[string]*naiveRecord
	peers    map[[32]byte]who // what the relay says, and who it was the last time
	sessions map[frame.SessionID]*naiveSession
	// Of the flaw racing: how many have read the counter.
	racing int
	raced  *sync.Cond
	// What it got to see: connections of a relay, ATTACHes, requests in the clear.
	uplinks, attaches, requests int
}

// who is an account's device.
type who struct {
	sub    string
	device vaultmsg.Thumbprint
}

// newNaiveVault listens; it serves as a vault of h's once it is told of it.
func newNaiveVault(t *testing.T) *naiveVault {
	t.Helper()
	v := &naiveVault{t: t, ready: make(chan struct{}), accounts: map[string]*naiveRecord{},
		peers: map[[32]byte]who{}, sessions: map[frame.SessionID]*naiveSession{}}
	v.raced = sync.NewCond(&v.mu)
	var err error
	if v.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.ln.Close() })
	if v.noise, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	var public []byte
	if v.opaque, public, err = newOPRFKey(); err != nil {
		t.Fatal(err)
	}
	v.keys = fleet.Keys{Fleet: stack.Fleet, Noise: [65]byte(v.noise.PublicKey().Bytes()), OPAQUE: [33]byte(public)}
	go func() {
		for {
			c, err := v.ln.Accept()
			if err != nil {
				return
			}
			go v.uplink(c)
		}
	}()
	return v
}

// vaultOf gives it a vault's genuine certificate, and the app's public key.
func (v *naiveVault) vaultOf(h *house) {
	v.t.Helper()
	who := &tap{}
	who.pki.Store(ptr(filepath.Join(h.Dir, "pki")))
	var err error
	if v.tls, err = who.config("vaultd"); err != nil {
		v.t.Fatal(err)
	}
	v.tickets, err = ticket.NewVerifier([]ticket.IssuerConfig{{Name: stack.App, Issuers: []string{stack.Issuer}, KeyFile: filepath.Join(h.Dir, "issuer.pem")}}, []string{stack.Fleet}, ticket.Options{})
	if err != nil {
		v.t.Fatal(err)
	}
	close(v.ready)
}

// naiveHouse is a house whose chatd reaches a naive vault in place of ours, and whose
// attackers take that vault's keys for the fleet's.
func naiveHouse(t *testing.T) (*house, *naiveVault) {
	t.Helper()
	v := newNaiveVault(t)
	h := start(t, func(o *stack.Options) { o.ChatdArgs = append(o.ChatdArgs, "--vault", v.ln.Addr().String()) })
	v.vaultOf(h)
	naive.Store(h, v)
	return h, v
}

// naive has the naive vault of each house that has one.
var naive sync.Map

func (h *house) naive() *naiveVault {
	v, _ := naive.Load(h)
	n, _ := v.(*naiveVault)
	return n
}

func newOPRFKey() (k oprf.PrivateKey, public []byte, err error) {
	var seed [32]byte
	rand.Read(seed[:])
	return oprf.DeriveKeyPair(seed[:], nil)
}

// uplink serves one connection of a chatd.
func (v *naiveVault) uplink(c net.Conn) {
	defer c.Close()
	select {
	case <-v.ready:
	case <-v.t.Context().Done():
		return
	}
	conn := tls.Server(c, v.tls)
	if conn.HandshakeContext(v.t.Context()) != nil {
		return
	}
	v.saw(&v.uplinks)
	var mu sync.Mutex
	send := func(number uint32, f frame.Frame) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = conn.Write(frame.AppendEnvelope(nil, number, f))
	}
	send(0, frame.UplinkHello{Version: frame.UplinkVersion, Node: frame.NodeID{9, 9, 9, 9}, Fleet: stack.Fleet})
	in, buf := bufio.NewReader(conn), make([]byte, frame.MaxFrame)
	peers, windows := map[uint32][32]byte{}, map[frame.SessionID]*frame.ReceiveWindow{}
	for {
		number, raw, err := frame.ReadEnvelope(in, buf)
		if err != nil {
			return
		}
		f, err := frame.ParseUplink(raw)
		if err != nil {
			return
		}
		answer := func(f frame.Frame) { send(number, f) }
		switch f := f.(type) {
		case frame.UplinkPing:
			answer(frame.UplinkPong{})
		case frame.Attach: // it claims to have the session
			v.saw(&v.attaches)
			delete(windows, f.Session)
			answer(f)
		case frame.UplinkPeer:
			peers[number] = f.Hash
		case frame.Open:
			v.open(f, peers[number], answer)
		case frame.Data:
			go v.data(clone(f), answer)
			w := windows[f.Session]
			if w == nil {
				w = new(frame.ReceiveWindow)
				windows[f.Session] = w
			}
			w.Take()
			if n := w.Use(1); n > 0 {
				answer(frame.UplinkCredit{Session: f.Session, Frames: n})
			}
		}
	}
}

// naiveSession is one vault session.
type naiveSession struct {
	who
	id         frame.SessionID
	peer       [32]byte
	noise      *noisenk.Session
	authorised bool
	attempt    *naiveAttempt
	begun      map[vaultmsg.RegistrationID]*naiveRecord
}

func (v *naiveVault) open(o frame.Open, peer [32]byte, answer func(frame.Frame)) {
	msg1 := append([]byte(nil), o.Payload...)
	if len(msg1) > noisenk.Message1Size {
		if v.is(early) {
			v.doEarly(msg1, peer)
		}
		answer(frame.Refuse{Refused: frame.TOpen, Tag: o.Tag, Status: frame.Malformed})
		return
	}
	dh := func(peer []byte) ([]byte, error) {
		p, err := ecdh.P256().NewPublicKey(peer)
		if err != nil {
			return nil, err
		}
		return v.noise.ECDH(p)
	}
	msg2, n, err := noisenk.Respond(stack.Fleet, v.keys.Noise[:], dh, msg1)
	if err != nil {
		answer(frame.Refuse{Refused: frame.TOpen, Tag: o.Tag, Status: frame.Malformed})
		return
	}
	s := &naiveSession{noise: n, peer: peer, begun: map[vaultmsg.RegistrationID]*naiveRecord{}}
	rand.Read(s.id[:])
	copy(s.id[:], []byte{9, 9, 9, 9})
	v.mu.Lock()
	v.sessions[s.id] = s
	if v.flaw == trustsRelay {
		s.who, s.authorised = v.peers[peer], true
	}
	v.mu.Unlock()
	answer(frame.Attach{Tag: o.Tag, Session: s.id})
	answer(frame.Data{Session: s.id, Payload: msg2})
}

// data works on one request. What is repeated is not answered again: these tests
// lose nothing on the way.
func (v *naiveVault) data(d frame.Data, answer func(frame.Frame)) {
	v.mu.Lock()
	s := v.sessions[d.Session]
	v.mu.Unlock()
	if s == nil {
		answer(frame.Close{Session: d.Session, Status: frame.NoSession})
		return
	}
	plain, err := s.noise.Open(s.id[:], d.Sequence, d.Payload)
	if err != nil {
		return
	}
	v.saw(&v.requests)
	reply := v.handle(s, plain).Encode()
	if v.is(unpadded) && plain[0] == byte(vaultmsg.KRecoverStart) {
		for len(reply) > 1 && reply[len(reply)-1] == 0 {
			reply = reply[:len(reply)-1]
		}
	}
	answer(frame.Data{Session: s.id, Sequence: d.Sequence, Payload: s.noise.Seal(s.id[:], d.Sequence, reply)})
}

func (v *naiveVault) saw(what *int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	*what++
}

// has says what it saw.
func (v *naiveVault) has() (uplinks, attaches, requests int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.uplinks, v.attaches, v.requests
}

func (v *naiveVault) is(f flaw) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.flaw == f
}

func (v *naiveVault) handle(s *naiveSession, plain []byte) vaultmsg.Reply {
	req, err := vaultmsg.ParseRequest(plain)
	if err != nil {
		return vaultmsg.Reply{Kind: vaultmsg.KStatus, Status: frame.Malformed}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.do(s, req)
	if r.Kind = req.Kind(); r.Status != frame.OK {
		r.Body = nil
	}
	return r
}

// authorise is called with mu held.
func (v *naiveVault) authorise(s *naiveSession, m vaultmsg.Authorise) vaultmsg.Reply {
	now := time.Now()
	if v.flaw == forgetsTime {
		now = issuedAt(m.Ticket)
	}
	t, err := v.tickets.Verify(context.Background(), m.Ticket, m.DeviceKey[:], now)
	if err != nil || ticket.VerifyVaultAuth(m.DeviceKey[:], m.Signature[:], stack.Fleet, [32]byte(s.noise.HandshakeHash()), t.TicketHash) != nil {
		return vaultmsg.Reply{Status: frame.NotAuthorised}
	}
	s.who, s.authorised = who{t.Account.Subject, vaultmsg.Thumbprint(t.Thumbprint)}, true
	v.peers[s.peer] = s.who
	return v.status(s)
}
