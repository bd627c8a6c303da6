package uplink_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"chatvault/protocol/cmdline/logtest"
	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/vaultd/internal/pki"
	"chatvault/vaultd/internal/session"
	"chatvault/vaultd/internal/uplink"
)

func TestManyConnectionsOnOneUplink(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial()
	p, q := w.open(c, 1, alice), w.open(c, 1<<32-1, mallo)
	for _, x := range []*phone{p, q, p} {
		c.send(x.conn, x.seal("hello"))
		x.reply("re:hello")
	}
	c.send(p.conn, p.seal("ring"))
	p.reply("re:ring")
	c.want(p.conn, frame.Notice{})
	c.send(q.conn, frame.Close{Session: q.id})
	c.settled()
	if w.table.Len() != 1 || w.server.Len() != 1 || w.server.Count(uplink.Connected) != 1 {
		t.Errorf("%d sessions, %d uplinks", w.table.Len(), w.server.Len())
	}
}

// An uplink touches only the sessions that it opened or attached.
func TestAnotherUplinksSession(t *testing.T) {
	w := newWorld(t, nil)
	c, thief := w.dial(), w.dial()
	p := w.open(c, 1, alice)
	request := p.seal("mine")

	// Before it names a peer, under another peer, on another connection.
	none := frame.Close{Session: p.id, Status: frame.NoSession}
	thief.send(1, request)
	thief.want(1, none)
	thief.send(2, frame.UplinkPeer{Hash: mallo})
	thief.send(2, request)
	thief.want(2, none)
	thief.send(2, frame.Attach{Tag: 4, Session: p.id})
	thief.want(2, frame.Refuse{Refused: frame.TAttach, Tag: 4, Session: p.id, Status: frame.NoSession})
	thief.send(2, frame.Close{Session: p.id})
	thief.send(3, frame.Close{Session: p.id})
	// Under the right peer, but not attached.
	thief.send(4, frame.UplinkPeer{Hash: alice})
	thief.send(4, request)
	thief.want(4, none)
	// On the same uplink, another connection.
	c.send(9, frame.UplinkPeer{Hash: alice})
	c.send(9, request)
	c.want(9, none)
	thief.settled()
	if n := w.asked.Load(); n != 0 {
		t.Errorf("%d requests were worked on", n)
	}
	c.send(p.conn, request)
	p.reply("re:mine")
}

// The reply is lost with the uplink; ATTACH on another and a repeat get it, and the
// request is worked on once.
func TestReplyLostWithTheUplink(t *testing.T) {
	w := newWorld(t, nil)
	first, second := w.dial(), w.dial()
	p := w.open(first, 1, alice)
	request := p.seal("charge")
	first.send(1, request)
	lost := p.reply("re:charge") // no phone ever saw it
	first.conn.NetConn().Close()

	p.chatd, p.conn = second, 70
	second.send(70, frame.UplinkPeer{Hash: alice})
	second.send(70, frame.Attach{Tag: 2, Session: p.id})
	second.want(70, frame.Attach{Tag: 2, Session: p.id})
	second.send(70, request)
	if again := p.reply("re:charge"); !reflect.DeepEqual(again, lost) {
		t.Error("another ciphertext")
	}
	if n := w.asked.Load(); n != 1 {
		t.Errorf("worked on %d times", n)
	}
}

func TestNewestUplinkWins(t *testing.T) {
	w := newWorld(t, nil)
	first, second := w.dial(), w.dial()
	p := w.open(first, 1, alice)
	second.send(5, frame.UplinkPeer{Hash: alice})
	second.send(5, frame.Attach{Session: p.id})
	second.want(5, frame.Attach{Session: p.id})
	first.want(1, frame.Close{Session: p.id, Status: frame.Replaced})
	first.send(1, frame.UplinkGone{}) // changes nothing any more
	first.settled()
	p.chatd, p.conn = second, 5
	second.send(5, p.seal("here"))
	p.reply("re:here")
}

func TestGoneDetaches(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial()
	p := w.open(c, 1, alice)
	c.send(1, frame.UplinkGone{})
	c.send(8, frame.UplinkGone{}) // never named its peer
	c.send(1, p.seal("x"))
	c.want(1, frame.Close{Session: p.id, Status: frame.NoSession})
	if w.table.Len() != 1 {
		t.Error("the session was closed")
	}
	p.n = 0
}

// An uplink that breaks off detaches all its connections.
func TestBrokenUplinkDuringAHandshake(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial()
	i, err := noisenk.NewInitiator(fleet, w.public)
	if err != nil {
		t.Fatal(err)
	}
	msg1, err := i.Message1()
	if err != nil {
		t.Fatal(err)
	}
	began, goOn := make(chan struct{}), make(chan struct{})
	w.hsm.Store(func() { close(began); <-goOn })
	c.send(1, frame.UplinkPeer{Hash: alice})
	c.send(1, frame.Open{Payload: msg1})
	<-began
	c.conn.NetConn().Close()
	for end := time.Now().Add(time.Minute); w.server.Len() != 0 && time.Now().Before(end); {
		runtime.Gosched()
	}
	close(goOn)
	w.table.Drain(t.Context())
	if n := w.table.Count(session.EndedUnheard); n != 1 {
		t.Errorf("a session that nobody heard of was kept: counted %d times", n)
	}
}

func TestWhatBreaksTheProtocolEndsTheUplink(t *testing.T) {
	envelope := func(conn uint32, f frame.Frame) []byte { return frame.AppendEnvelope(nil, conn, f) }
	raw := func(conn uint32, b ...byte) []byte { return frame.AppendRawEnvelope(nil, conn, b) }
	peer := envelope(1, frame.UplinkPeer{})
	for name, b := range map[string][]byte{
		"length 0":               make([]byte, 8),
		"length of all":          bytes.Repeat([]byte{0xff}, 16),
		"unknown type":           raw(1, 0x99),
		"frame cut short":        raw(1, byte(frame.TAttach), 1),
		"ping with a body":       raw(0, byte(frame.TUplinkPing), 1),
		"text":                   []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"OPEN without a peer":    envelope(1, frame.Open{Payload: []byte("x")}),
		"ATTACH without a peer":  envelope(1, frame.Attach{}),
		"a second peer":          append(peer, peer...),
		"DATA on connection 0":   envelope(0, frame.Data{Payload: []byte("x")}),
		"peer of connection 0":   envelope(0, frame.UplinkPeer{}),
		"ping on a connection":   envelope(1, frame.UplinkPing{}),
		"HELLO of an uplink":     envelope(0, frame.UplinkHello{Version: 1, Fleet: fleet}),
		"drain by chatd":         envelope(0, frame.UplinkDrain{}),
		"NOTICE by chatd":        append(peer, envelope(1, frame.Notice{})...),
		"HELLO":                  append(peer, envelope(1, frame.Hello{})...),
		"AUTH, which is chatd's": append(peer, envelope(1, frame.Auth{Host: "h", Ticket: "t"})...),
	} {
		w := newWorld(t, nil)
		good, bad := w.dial(), w.dial()
		p := w.open(bad, 77, alice)
		bad.write(b)
		bad.wantEnd()
		// The session and other uplinks go on.
		good.send(1, frame.UplinkPeer{Hash: alice})
		good.send(1, frame.Attach{Session: p.id})
		good.want(1, frame.Attach{Session: p.id})
		if n := w.server.Count(uplink.EndedMalformed); n != 1 {
			t.Errorf("%s: ended as malformed %d times", name, n)
		}
	}
}

func TestStrangersAreKeptOff(t *testing.T) {
	w := newWorld(t, nil)
	other := newWorld(t, nil) // another CA
	role := func(cert, key string) *tls.Config {
		c := w.clientTLS()
		pair, err := tls.LoadX509KeyPair(w.path(cert), w.path(key))
		if err != nil {
			t.Fatal(err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		return c
	}
	bare := w.clientTLS()
	bare.GetClientCertificate = nil
	old := w.clientTLS()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	stranger := w.clientTLS()
	stranger.GetClientCertificate = other.clientTLS().GetClientCertificate

	for name, config := range map[string]*tls.Config{
		"vaultd's certificate": role(pki.VaultdCert, pki.VaultdKey), "no certificate": bare,
		"another CA": stranger, "TLS 1.2": old,
	} {
		conn, err := tls.Dial("tcp", w.addr, config)
		if err != nil {
			continue
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: was sent %d bytes", name, n)
		}
		conn.Close()
	}
	if _, err := tls.Dial("tcp", w.addr, other.clientTLS()); err == nil {
		t.Error("a chatd of another CA took this one for its vaultd")
	}
	if w.server.Count(uplink.Connected) != 0 || w.server.Len() != 0 {
		t.Error("a stranger was taken on")
	}
	w.dial()
}

// Whatever the TLS config lets through, the name decides.
func TestRoleIsCheckedApartFromTheConfig(t *testing.T) {
	w := newWorld(t, func(c *uplink.Config) {
		c.TLS = c.TLS.Clone()
		c.TLS.ClientAuth = tls.RequireAnyClientCert
	})
	conn, err := tls.Dial("tcp", w.addr, w.clientTLS())
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("was sent %d bytes", n)
	}
	if n := w.server.Count(uplink.WrongRole); n != 1 {
		t.Errorf("counted %d times", n)
	}
}

func TestSilenceEndsAnUplink(t *testing.T) {
	short := 250 * time.Millisecond
	t.Run("no TLS", func(t *testing.T) {
		w := newWorld(t, func(c *uplink.Config) { c.HandshakeTimeout = short })
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("read: %v", err)
		}
	})
	t.Run("no first envelope", func(t *testing.T) {
		w := newWorld(t, func(c *uplink.Config) { c.HandshakeTimeout = 2 * time.Second })
		w.connect().wantEnd()
		if n := w.server.Count(uplink.EndedSilent); n != 1 {
			t.Errorf("counted %d times", n)
		}
	})
	t.Run("no pong", func(t *testing.T) {
		w := newWorld(t, func(c *uplink.Config) { c.PingEvery, c.DeadAfter = short/2, 4*short })
		c := w.dial()
		for range 12 { // alive three times as long as silence is borne
			c.want(0, frame.UplinkPing{})
			c.send(0, frame.UplinkPong{})
		}
		c.wantEnd()
		if n := w.server.Count(uplink.EndedSilent); n != 1 {
			t.Errorf("counted %d times", n)
		}
	})
}

// Whoever sends all the time is alive, also if no write ends where an envelope does.
func TestBusyUplinkIsNotSilent(t *testing.T) {
	silence := time.Second
	w := newWorld(t, func(c *uplink.Config) { c.DeadAfter = silence })
	c := w.dial()
	ping := frame.AppendEnvelope(nil, 0, frame.UplinkPing{})
	c.write(ping[:5])
	for start := time.Now(); time.Since(start) < 4*silence; {
		c.write(append(ping[5:len(ping):len(ping)], ping[:5]...))
		c.want(0, frame.UplinkPong{})
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// A chatd that does not read is cut off, and holds nobody up.
func TestSlowUplinkIsEnded(t *testing.T) {
	w := newWorld(t, func(c *uplink.Config) { c.QueueBytes = 32 << 10 })
	slow, good := w.dial(), w.dial()
	p := w.open(good, 1, alice)
	slow.send(1, frame.UplinkPeer{Hash: mallo})
	pings := bytes.Repeat(frame.AppendEnvelope(nil, 0, frame.UplinkPing{}), 10_000)
	for {
		if _, err := slow.conn.Write(pings); err != nil {
			break // cut off
		}
	}
	good.send(1, p.seal("x"))
	p.reply("re:x")
	if n := w.server.Count(uplink.EndedSlow); n != 1 {
		t.Errorf("counted %d times", n)
	}
}

// A chatd for which there is no place comes again and again: not each time is a line.
func TestTooManyUplinksDoNotFillTheLog(t *testing.T) {
	log := logtest.New()
	w := newWorld(t, func(c *uplink.Config) { c.MaxUplinks, c.Log = 1, slog.New(slog.NewJSONHandler(log, nil)) })
	w.dial()
	const tries = 30
	for range tries {
		w.connect().wantEnd()
	}
	if n := w.server.Count(uplink.TooManyUplinks); n != tries {
		t.Errorf("counted %d times", n)
	}
	if n := strings.Count(log.String(), `"msg":"uplink refused: too many"`); n < 10 || n > tries/2 {
		t.Errorf("%d lines for %d refusals", n, tries)
	}
}

func TestCaps(t *testing.T) {
	w := newWorld(t, func(c *uplink.Config) { c.MaxUplinks, c.MaxConnections = 2, 2 })
	a, b := w.dial(), w.dial()
	w.connect().wantEnd()
	if n := w.server.Count(uplink.TooManyUplinks); n != 1 {
		t.Errorf("too many uplinks: counted %d times", n)
	}
	a.send(1, frame.UplinkPeer{})
	a.send(2, frame.UplinkPeer{})
	a.send(1, frame.UplinkGone{})
	a.send(3, frame.UplinkPeer{})
	a.settled()
	a.send(4, frame.UplinkPeer{})
	a.wantEnd()
	if n := w.server.Count(uplink.EndedTooMany); n != 1 {
		t.Errorf("too many connections: counted %d times", n)
	}
	b.settled()
	w.dial().settled() // a's place is free
}

func TestShutdown(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial()
	p, q := w.open(c, 1, alice), w.open(c, 2, mallo)
	deadline, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.server.Shutdown(deadline)
	}()
	c.want(0, frame.UplinkDrain{})
	// Sessions go on, also over an uplink that comes only now.
	late := w.connect()
	late.want(0, frame.UplinkHello{Version: frame.UplinkVersion, Node: node, Fleet: fleet})
	late.want(0, frame.UplinkDrain{})
	late.want(0, frame.UplinkPing{})
	late.send(1, frame.UplinkPeer{Hash: alice})
	late.send(1, frame.Attach{Session: p.id})
	late.want(1, frame.Attach{Session: p.id})
	c.want(1, frame.Close{Session: p.id, Status: frame.Replaced})
	p.chatd = late
	late.send(1, p.seal("last"))
	p.reply("re:last")
	late.send(1, frame.Close{Session: p.id})
	late.settled()
	cancel()
	c.want(2, frame.Close{Session: q.id, Status: frame.Draining})
	c.wantCleanEnd()
	late.wantCleanEnd()
	<-done
	if conn, err := net.Dial("tcp", w.addr); err == nil {
		conn.Close()
		t.Error("still listening")
	}
	if n := w.server.Count(uplink.EndedShutdown); n != 2 {
		t.Errorf("%d uplinks were ended by the shutdown", n)
	}
}

// Many phones over several uplinks at once: every reply to its own connection.
func TestBusyUplinks(t *testing.T) {
	w := newWorld(t, nil)
	var wg sync.WaitGroup
	for i := range 4 {
		c := w.dial()
		var phones []*phone
		for n := range uint32(8) {
			phones = append(phones, w.open(c, n+1, [32]byte{byte(i), byte(n)}))
		}
		wg.Go(func() {
			for range 10 {
				var batch []byte
				for _, p := range phones {
					batch = frame.AppendEnvelope(batch, p.conn, p.seal("x"))
				}
				if _, err := c.conn.Write(batch); err != nil {
					t.Error(err)
					return
				}
				for range phones {
					conn, f := c.next()
					p := phones[conn-1]
					d, ok := f.(frame.Data)
					if !ok || d.Session != p.id || d.Sequence != p.n {
						t.Errorf("connection %d got %T %+v", conn, f, f)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if n := w.asked.Load(); n != 4*8*10 {
		t.Errorf("%d requests were worked on", n)
	}
}

func TestEventsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range uplink.Events() {
		if e.String() == "" || seen[e.String()] {
			t.Errorf("event %d has the name %q", e, e)
		}
		seen[e.String()] = true
	}
}
