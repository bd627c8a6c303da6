package uplink_test

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/vaultd/internal/pki"
	"chatvault/vaultd/internal/session"
	"chatvault/vaultd/internal/uplink"
)

const fleet = "test-fleet"

var (
	node  = frame.NodeID{'n', 'o', 'd', 'e'}
	alice = [32]byte{1}
	mallo = [32]byte{2}
)

// world is a node of the fleet, serving uplinks on a loopback address.
type world struct {
	t      *testing.T
	table  *session.Table
	server *uplink.Server
	addr   string
	public []byte
	dir    string       // of the certificates
	asked  atomic.Int64 // requests that a conversation was given
	hsm    atomic.Value // func(): what the HSM does first
}

type echo struct{ w *world }

func (e echo) Handle(_ context.Context, request []byte) ([]byte, bool) {
	e.w.asked.Add(1)
	return append([]byte("re:"), request...), string(request) == "ring"
}
func (echo) End() {}

func newWorld(t *testing.T, change func(*uplink.Config)) *world {
	t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, public: key.PublicKey().Bytes(), dir: t.TempDir()}
	if err := pki.Generate(w.dir, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	config, err := pki.ServerTLS(w.path(pki.VaultdCert), w.path(pki.VaultdKey), w.path(pki.CACert))
	if err != nil {
		t.Fatal(err)
	}
	w.table = session.New(session.Config{
		Fleet: fleet, Node: node, StaticPublic: w.public,
		StaticDH: func(peer []byte) ([]byte, error) {
			if first, ok := w.hsm.Load().(func()); ok {
				first()
			}
			p, err := ecdh.P256().NewPublicKey(peer)
			if err != nil {
				return nil, err
			}
			return key.ECDH(p)
		},
		NewConversation: func([32]byte) session.Conversation { return echo{w} },
	})
	cfg := uplink.Config{
		TLS: config, Node: node, Fleet: fleet, Sessions: w.table,
		Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	w.server = uplink.New(cfg)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(ln) }()
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		w.server.Shutdown(now)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) clientTLS() *tls.Config {
	w.t.Helper()
	config, err := pki.ClientTLS(w.path(pki.ChatdCert), w.path(pki.ChatdKey), w.path(pki.CACert))
	if err != nil {
		w.t.Fatal(err)
	}
	return config
}

// chatd is the other end of an uplink.
type chatd struct {
	t    *testing.T
	conn *tls.Conn
	r    *bufio.Reader
	buf  []byte
	used map[frame.SessionID]*frame.ReceiveWindow
}

// connect makes an uplink, without reading anything from it.
func (w *world) connect() *chatd {
	w.t.Helper()
	conn, err := tls.Dial("tcp", w.addr, w.clientTLS())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.NetConn().Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &chatd{w.t, conn, bufio.NewReader(conn), make([]byte, frame.MaxFrame), map[frame.SessionID]*frame.ReceiveWindow{}}
}

// dial makes an uplink and answers its first ping.
func (w *world) dial() *chatd {
	w.t.Helper()
	c := w.connect()
	c.want(0, frame.UplinkHello{Version: frame.UplinkVersion, Node: node, Fleet: fleet})
	c.want(0, frame.UplinkPing{})
	c.send(0, frame.UplinkPong{})
	return c
}

func (c *chatd) send(conn uint32, f frame.Frame) {
	c.t.Helper()
	c.write(frame.AppendEnvelope(nil, conn, f))
}

func (c *chatd) write(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// next returns the next frame but credit, and gives credit for DATA.
func (c *chatd) next() (uint32, frame.Frame) {
	c.t.Helper()
	for {
		conn, f := c.nextOfAll()
		switch f := f.(type) {
		case frame.UplinkCredit:
			continue
		case frame.Attach:
			c.used[f.Session] = new(frame.ReceiveWindow)
		case frame.Data:
			if !c.used[f.Session].Take() {
				c.t.Error("vaultd sent beyond its window")
			}
			if n := c.used[f.Session].Use(1); n > 0 {
				c.send(conn, frame.UplinkCredit{Session: f.Session, Frames: n})
			}
		}
		return conn, f
	}
}

func (c *chatd) nextOfAll() (uint32, frame.Frame) {
	c.t.Helper()
	conn, raw, err := frame.ReadEnvelope(c.r, c.buf)
	if err != nil {
		c.t.Fatalf("reading an envelope: %v", err)
	}
	f, err := frame.ParseUplink(append([]byte(nil), raw...))
	if err != nil {
		c.t.Fatal(err)
	}
	return conn, f
}

func (c *chatd) want(conn uint32, f frame.Frame) {
	c.t.Helper()
	if gotConn, got := c.next(); gotConn != conn || !reflect.DeepEqual(got, f) {
		c.t.Fatalf("connection %d: %T %+v; want %d: %T %+v", gotConn, got, got, conn, f, f)
	}
}

func take[F frame.Frame](c *chatd, conn uint32) F {
	c.t.Helper()
	gotConn, f := c.next()
	got, ok := f.(F)
	if !ok || gotConn != conn {
		c.t.Fatalf("connection %d: %T %+v; want %d: %T", gotConn, f, f, conn, got)
	}
	return got
}

// wantCleanEnd reads until the other side has ended the uplink, in order.
func (c *chatd) wantCleanEnd() {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c.r); err != nil {
		c.t.Errorf("the uplink was cut off: %v", err)
	}
	c.conn.NetConn().Close()
}

// wantEnd reads until the other side has ended the uplink.
func (c *chatd) wantEnd() {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c.r); err != nil {
		if e, ok := err.(net.Error); ok && e.Timeout() {
			c.t.Error("the uplink was not ended")
		}
	}
	c.conn.NetConn().Close()
}

// settled returns when vaultd has acted on all that was sent before.
func (c *chatd) settled() {
	c.t.Helper()
	c.send(0, frame.UplinkPing{})
	c.want(0, frame.UplinkPong{})
}

// phone is a client of a chatd.
type phone struct {
	*chatd
	conn  uint32
	id    frame.SessionID
	noise *noisenk.Session
	n     uint32
}

func (w *world) open(c *chatd, conn uint32, peer [32]byte) *phone {
	w.t.Helper()
	i, err := noisenk.NewInitiator(fleet, w.public)
	if err != nil {
		w.t.Fatal(err)
	}
	msg1, err := i.Message1()
	if err != nil {
		w.t.Fatal(err)
	}
	c.send(conn, frame.UplinkPeer{Hash: peer})
	c.send(conn, frame.Open{Tag: 1, Payload: msg1})
	p := &phone{chatd: c, conn: conn, id: take[frame.Attach](c, conn).Session}
	if p.noise, err = i.ReadMessage2(take[frame.Data](c, conn).Payload); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (p *phone) seal(request string) frame.Data {
	p.n++
	return frame.Data{Session: p.id, Sequence: p.n, Payload: p.noise.Seal(p.id[:], p.n, []byte(request))}
}

func (p *phone) reply(text string) frame.Data {
	p.t.Helper()
	d := take[frame.Data](p.chatd, p.conn)
	plain, err := p.noise.Open(p.id[:], d.Sequence, d.Payload)
	if err != nil || d.Sequence != p.n || string(plain) != text {
		p.t.Fatalf("reply %d: %q, %v; want %q", d.Sequence, plain, err, text)
	}
	return d
}
