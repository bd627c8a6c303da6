package session_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/vaultd/internal/session"
)

const fleet = "test-fleet"

var (
	node  = frame.NodeID{'n', 'o', 'd', 'e'}
	alice = session.Peer{1}
	mallo = session.Peer{2}
)

// errBug makes the HSM panic.
var errBug = errors.New("a bug")

// world is one node with its table, a clock that tests move, and conversations
// that echo.
type world struct {
	t      *testing.T
	table  *session.Table
	public []byte

	mu    sync.Mutex // guards all below
	now   time.Time
	talks []*echo
	dhErr error  // what the HSM says
	slow  func() // what the HSM does first
}

func newWorld(t *testing.T, change func(*session.Config)) *world {
	t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, public: key.PublicKey().Bytes(), now: time.Unix(1_800_000_000, 0)}
	cfg := session.Config{
		Fleet: fleet, Node: node, StaticPublic: w.public,
		StaticDH: func(peer []byte) ([]byte, error) {
			w.mu.Lock()
			slow := w.slow
			w.mu.Unlock()
			if slow != nil {
				slow()
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.dhErr == errBug {
				panic(w.dhErr)
			}
			if w.dhErr != nil {
				return nil, w.dhErr
			}
			p, err := ecdh.P256().NewPublicKey(peer)
			if err != nil {
				return nil, err
			}
			return key.ECDH(p)
		},
		NewConversation: func(h [32]byte) session.Conversation {
			e := &echo{h: h}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.talks = append(w.talks, e)
			return e
		},
		Now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.now
		},
		Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	w.table = session.New(cfg)
	return w
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	w.now = w.now.Add(d)
	w.mu.Unlock()
	w.table.Sweep()
}

func (w *world) talk(i int) *echo {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.talks[i]
}

func (w *world) wantCount(e session.Event, want uint64) {
	w.t.Helper()
	if got := w.table.Count(e); got != want {
		w.t.Errorf("%s: counted %d, want %d", e, got, want)
	}
}

// echo answers every request with "re:" and the request. Some requests do more.
type echo struct {
	h [32]byte

	mu     sync.Mutex
	asked  []string
	ends   int
	inside bool
	began  chan struct{} // if not nil: the next request closes it,
	gate   chan struct{} // and waits for this
}

// hold makes the next request wait.
func (e *echo) hold() (began, goOn chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.began, e.gate = make(chan struct{}), make(chan struct{})
	return e.began, e.gate
}

func (e *echo) Handle(ctx context.Context, request []byte) ([]byte, bool) {
	e.mu.Lock()
	if e.inside || e.ends > 0 {
		panic("called twice at a time, or after End")
	}
	e.inside = true
	e.asked = append(e.asked, string(request))
	began, gate := e.began, e.gate
	e.began, e.gate = nil, nil
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.inside = false
		e.mu.Unlock()
	}()
	if began != nil {
		close(began)
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
	switch string(request) {
	case "panic":
		panic("a bug")
	case "nothing":
		return nil, false
	case "too much":
		return make([]byte, session.MaxReply+1), false
	case "ring":
		return []byte("rung"), true
	}
	return append([]byte("re:"), request...), false
}

func (e *echo) End() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inside {
		panic("ended while at work")
	}
	e.ends++
}

func (e *echo) wantEnds(t *testing.T, want int) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ends != want {
		t.Errorf("End was called %d times, want %d", e.ends, want)
	}
}

func (e *echo) requests() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.asked)
}

// conn is a client's connection: a line, and what came over it.
type conn struct {
	t    *testing.T
	line *session.Line
	in   chan frame.Frame

	credit atomic.Int64 // that the vault gave
	keeps  bool         // gives the vault none
	used   map[frame.SessionID]*frame.ReceiveWindow
}

func (w *world) dial(peer session.Peer) *conn {
	c := &conn{t: w.t, in: make(chan frame.Frame, 100), used: map[frame.SessionID]*frame.ReceiveWindow{}}
	c.line = w.table.NewLine(peer, func(f frame.Frame) {
		// Encoded at once, as an uplink does.
		parsed, err := frame.ParseUplink(f.Append(nil))
		if err != nil {
			w.t.Errorf("sent a frame that does not parse: %v", err)
		}
		if credit, ok := parsed.(frame.UplinkCredit); ok {
			c.credit.Add(int64(credit.Frames))
			return
		}
		c.in <- parsed
	})
	return c
}

// use gives the vault credit for what came, as a chatd does.
func (c *conn) use(f frame.Frame) {
	switch f := f.(type) {
	case frame.Attach:
		c.used[f.Session] = new(frame.ReceiveWindow)
	case frame.Data:
		if !c.used[f.Session].Take() {
			c.t.Error("the vault sent beyond its window")
		}
		if c.keeps {
			return
		}
		if n := c.used[f.Session].Use(1); n > 0 {
			c.line.Credit(frame.UplinkCredit{Session: f.Session, Frames: n})
		}
	}
}

// want takes the next frame, which must be an F.
func want[F frame.Frame](c *conn) F {
	c.t.Helper()
	select {
	case f := <-c.in:
		c.use(f)
		got, ok := f.(F)
		if !ok {
			c.t.Fatalf("got %T %+v, want %T", f, f, got)
		}
		return got
	case <-time.After(10 * time.Second):
		var none F
		c.t.Fatalf("no %T came", none)
		return none
	}
}

// wantSilence: nothing has come. Whatever a call sends, it sends before it returns,
// unless a conversation is at work.
func (c *conn) wantSilence() {
	c.t.Helper()
	select {
	case f := <-c.in:
		c.t.Fatalf("got %T %+v, want nothing", f, f)
	default:
	}
}

// phone is a client with one session.
type phone struct {
	*conn
	w     *world
	id    frame.SessionID
	noise *noisenk.Session
	msg1  []byte
	msg2  []byte
	n     uint32
}

// message1 begins a handshake.
func (w *world) message1() (*noisenk.Initiator, []byte) {
	w.t.Helper()
	i, err := noisenk.NewInitiator(fleet, w.public)
	if err != nil {
		w.t.Fatal(err)
	}
	msg1, err := i.Message1()
	if err != nil {
		w.t.Fatal(err)
	}
	return i, msg1
}

// hang makes the HSM wait, from now on.
func (w *world) hang() (began, goOn chan struct{}) {
	began, goOn = make(chan struct{}), make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slow = func() { close(began); <-goOn }
	return began, goOn
}

func (w *world) open(c *conn) *phone {
	w.t.Helper()
	i, msg1 := w.message1()
	p := &phone{conn: c, w: w, msg1: msg1}
	c.line.Open(frame.Open{Tag: 7, Payload: p.msg1})
	a := want[frame.Attach](c)
	d := want[frame.Data](c)
	if a.Tag != 7 || a.Session != d.Session || d.Sequence != 0 || d.Session.Node() != node {
		w.t.Fatalf("opened by %+v, %+v", a, d)
	}
	p.id, p.msg2 = a.Session, d.Payload
	var err error
	if p.noise, err = i.ReadMessage2(d.Payload); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// attach continues the session on another connection.
func (p *phone) attach(c *conn) {
	p.t.Helper()
	c.line.Attach(frame.Attach{Tag: 9, Session: p.id})
	if a := want[frame.Attach](c); a.Tag != 9 || a.Session != p.id {
		p.t.Fatalf("attached by %+v", a)
	}
	p.conn = c
}

// seal makes the next request's frame.
func (p *phone) seal(request string) frame.Data {
	p.n++
	return frame.Data{Session: p.id, Sequence: p.n, Payload: p.noise.Seal(p.id[:], p.n, []byte(request))}
}

// reply takes the reply to request n.
func (p *phone) reply(text string) frame.Data {
	p.t.Helper()
	d := want[frame.Data](p.conn)
	plain, err := p.noise.Open(p.id[:], d.Sequence, d.Payload)
	if err != nil || d.Session != p.id || d.Sequence != p.n || string(plain) != text {
		p.t.Fatalf("reply %d: %q, %v; want %d: %q", d.Sequence, plain, err, p.n, text)
	}
	return d
}

func (p *phone) ask(request string) frame.Data {
	p.t.Helper()
	p.line.Data(p.seal(request))
	return p.reply("re:" + request)
}

func same(a, b frame.Data) bool {
	return a.Session == b.Session && a.Sequence == b.Sequence && bytes.Equal(a.Payload, b.Payload)
}
