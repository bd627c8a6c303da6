package client_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// direction of a frame between client and relay.
type direction bool

const (
	up   direction = false
	down direction = true
)

// fate is what happens to a frame.
type fate int

const (
	pass fate = iota
	drop      // the frame is lost
	cut       // the frame is lost, and the connection with it
)

// fakeRelay is a relay in the client's process, with the vault behind it. Tests
// lie through its hooks.
type fakeRelay struct {
	t     *testing.T
	vault *fakeVault
	conns chan net.Conn // the listener

	mu         sync.Mutex
	bundle     []byte
	epoch      uint32
	live       map[*websocket.Conn]bool
	unplugged  bool
	onFrame    func(direction, frame.Frame) fate
	onAuth     func(frame.Auth) (refuse frame.Frame)
	pings      uint32
	httpStatus int           // of /v1/fleet, if not 200
	mute       bool          // no answer to pings
	skew       time.Duration // of the relay's and vault's clock against the phone's

	// what was seen
	dials, auths, opens, attaches, fetches int
	sent                                   map[sentKey][]string // DATA payloads of the client
	attached                               map[frame.SessionID]*relayConn
}

type sentKey struct {
	id  frame.SessionID
	seq uint32
}

type relayConn struct {
	ws *websocket.Conn
	mu sync.Mutex
}

// inBubble runs the test with a fake clock: waiting costs nothing.
func inBubble(t *testing.T, test func(t *testing.T, f *fakeRelay)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRelay(t)
		test(t, f)
	})
}

func newFakeRelay(t *testing.T) *fakeRelay {
	f := &fakeRelay{
		t: t, conns: make(chan net.Conn), live: map[*websocket.Conn]bool{},
		sent: map[sentKey][]string{}, attached: map[frame.SessionID]*relayConn{}, pings: 30_000,
	}
	f.vault = newFakeVault(t)
	f.vault.now = f.now
	f.setBundle(f.vault.signedBundle(7, time.Now().Add(30*24*time.Hour)), 7)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+frame.FleetPath, func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.fetches++
		if f.httpStatus != 0 {
			w.Header().Set("Retry-After", "60")
			w.Header().Set("Location", "http://elsewhere.example/")
			w.WriteHeader(f.httpStatus)
			return
		}
		w.Write(f.bundle)
	})
	mux.HandleFunc(frame.Path, f.serve)
	srv := &http.Server{Handler: mux}
	go srv.Serve(pipeListener{f.conns})
	t.Cleanup(func() {
		f.unplug()
		close(f.conns)
		srv.Close()
	})
	return f
}

type pipeListener struct{ conns chan net.Conn }

func (l pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (pipeListener) Close() error   { return nil }
func (pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (f *fakeRelay) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	f.mu.Lock()
	unplugged := f.unplugged
	f.dials++
	f.mu.Unlock()
	if unplugged {
		return nil, errors.New("network is unreachable")
	}
	mine, theirs := net.Pipe()
	select {
	case f.conns <- theirs:
		return mine, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *fakeRelay) setBundle(signed []byte, epoch uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bundle, f.epoch = signed, epoch
}

// hook sets what happens to frames.
func (f *fakeRelay) hook(h func(direction, frame.Frame) fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onFrame = h
}

// cutAll cuts every connection.
func (f *fakeRelay) cutAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ws := range f.live {
		ws.NetConn().Close()
	}
}

// replaceAll tells every connection that a newer one took over.
func (f *fakeRelay) replaceAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ws := range f.live {
		ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(frame.Replaced.CloseCode(), ""), time.Now().Add(time.Second))
	}
}

// unplug cuts every connection and lets no other come about.
func (f *fakeRelay) unplug() {
	f.mu.Lock()
	f.unplugged = true
	f.mu.Unlock()
	f.cutAll()
}

func (f *fakeRelay) plug() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unplugged = false
}

func (f *fakeRelay) serve(w http.ResponseWriter, r *http.Request) {
	u := websocket.Upgrader{Subprotocols: []string{frame.Subprotocol}}
	ws, err := u.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.NetConn().Close()
	f.mu.Lock()
	f.live[ws] = true
	hello := frame.Hello{Version: frame.Version, BundleEpoch: f.epoch}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.live, ws)
		f.mu.Unlock()
	}()
	c := &relayConn{ws: ws}
	answer := ws.PingHandler()
	ws.SetPingHandler(func(s string) error {
		f.mu.Lock()
		mute := f.mute
		f.mu.Unlock()
		if mute {
			return nil
		}
		return answer(s)
	})
	rand.Read(hello.Nonce[:])
	if !f.send(c, hello) {
		return
	}
	for {
		kind, b, err := ws.ReadMessage()
		if err != nil {
			return
		}
		fr, err := frame.Parse(b)
		if err != nil || kind != websocket.BinaryMessage {
			f.t.Errorf("the client sent what is no frame: %v", err)
			return
		}
		if !f.receive(c, hello, fr) {
			return
		}
	}
}

// send writes a frame if the hook lets it; false ends the connection.
func (f *fakeRelay) send(c *relayConn, fr frame.Frame) bool {
	switch f.fate(down, fr) {
	case drop:
		return true
	case cut:
		c.ws.NetConn().Close()
		return false
	}
	return f.force(c, fr)
}

func (f *fakeRelay) force(c *relayConn, fr frame.Frame) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ws.WriteMessage(websocket.BinaryMessage, fr.Append(nil)) == nil
}

func (f *fakeRelay) fate(d direction, fr frame.Frame) fate {
	f.mu.Lock()
	h := f.onFrame
	f.mu.Unlock()
	if h == nil {
		return pass
	}
	return h(d, fr)
}

// receive acts on a frame of the client; false ends the connection.
func (f *fakeRelay) receive(c *relayConn, hello frame.Hello, fr frame.Frame) bool {
	f.note(fr)
	switch f.fate(up, fr) {
	case drop:
		return true
	case cut:
		return false
	}
	switch fr := fr.(type) {
	case frame.Auth:
		return f.auth(c, hello, fr)
	case frame.Open:
		id, message2 := f.vault.open(fr.Payload)
		f.attach(id, c)
		return f.send(c, frame.Attach{Tag: fr.Tag, Session: id}) &&
			f.send(c, frame.Data{Session: id, Payload: message2})
	case frame.Attach:
		if !f.vault.knows(fr.Session) {
			return f.send(c, frame.Refuse{Refused: frame.TAttach, Tag: fr.Tag, Session: fr.Session, Status: frame.NoSession})
		}
		f.attach(fr.Session, c)
		return f.send(c, fr)
	case frame.Data:
		if !f.vault.knows(fr.Session) {
			return f.send(c, frame.Refuse{Refused: frame.TData, Session: fr.Session, Status: frame.NoSession})
		}
		reply := f.vault.data(fr.Session, fr.Sequence, fr.Payload)
		if reply == nil {
			return true
		}
		return f.send(c, frame.Data{Session: fr.Session, Sequence: fr.Sequence, Payload: reply})
	case frame.Close:
		f.vault.forget(fr.Session)
		return true
	}
	f.t.Errorf("the client sent %T", fr)
	return false
}

func (f *fakeRelay) attach(id frame.SessionID, c *relayConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attached[id] = c
}

func (f *fakeRelay) auth(c *relayConn, hello frame.Hello, a frame.Auth) bool {
	if err := ticket.VerifyRelayAuth(a.DeviceKey[:], a.Signature[:], hello.Nonce, a.Host, ticket.Hash(a.Ticket)); err != nil || a.Host != "localhost" {
		f.t.Errorf("AUTH for %q: %v", a.Host, err)
	}
	f.mu.Lock()
	h := f.onAuth
	pings := f.pings
	f.mu.Unlock()
	if h != nil {
		if no := h(a); no != nil {
			return f.send(c, no)
		}
	}
	claims, _, err := ticket.Inspect(a.Ticket)
	if err != nil {
		f.t.Errorf("ticket: %v", err)
	}
	if !f.now().Before(claims.Expires) {
		return f.send(c, frame.Refuse{Refused: frame.TAuth, Status: frame.TicketExpired})
	}
	return f.send(c, frame.Ready{TicketEnds: uint64(claims.Expires.Unix()), PingMillis: pings})
}

// now is the relay's clock.
func (f *fakeRelay) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Add(f.skew)
}

// note records a frame, and that one sequence number never carries two
// ciphertexts.
func (f *fakeRelay) note(fr frame.Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch fr := fr.(type) {
	case frame.Auth:
		f.auths++
	case frame.Open:
		f.opens++
	case frame.Attach:
		f.attaches++
	case frame.Data:
		k := sentKey{fr.Session, fr.Sequence}
		f.sent[k] = append(f.sent[k], string(fr.Payload))
		if f.sent[k][0] != string(fr.Payload) {
			f.t.Errorf("two ciphertexts under sequence number %d", fr.Sequence)
		}
	}
}

// count reads a counter of what was seen.
func (f *fakeRelay) count(n *int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *n
}

// broadcast sends a frame to every client.
func (f *fakeRelay) broadcast(fr frame.Frame) {
	f.mu.Lock()
	var all []*websocket.Conn
	for ws := range f.live {
		all = append(all, ws)
	}
	f.mu.Unlock()
	for _, ws := range all {
		f.force(&relayConn{ws: ws}, fr)
	}
}
