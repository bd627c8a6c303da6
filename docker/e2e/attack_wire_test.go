package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/docker/stack"
	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

// patience bounds how long an attacker waits for an answer.
const patience = time.Minute

// device is a phone's key and the account that it has tickets for.
type device struct {
	h   *house
	sub string
	key ticket.DeviceKey
}

func (h *house) device(t *testing.T, sub string) device {
	t.Helper()
	key, err := ticket.NewDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	return device{h, sub, key}
}

func (d device) ticket(t *testing.T) string {
	t.Helper()
	s, err := d.h.Ticket(d.sub, d.key.Thumbprint())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// claims are those of a good ticket, as JSON members to be spoiled.
func (d device) claims() map[string]any {
	now := time.Now().Unix()
	return map[string]any{
		"iss": stack.Issuer, "sub": d.sub, "aud": stack.Fleet, "iat": now, "exp": now + 600,
		"cnf": map[string]any{"jkt": d.key.Thumbprint().String()},
	}
}

// forge signs any JSON as a ticket, with the app's own key: what no honest
// backend mints.
func (h *house) forge(t *testing.T, header, claims map[string]any) string {
	t.Helper()
	b, err := os.ReadFile(h.IssuerKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	signed := encodeJWT(t, header, claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig[:])
}

// encodeJWT is a JWT without its signature.
func encodeJWT(t *testing.T, header, claims map[string]any) string {
	t.Helper()
	var parts [2]string
	for i, m := range []map[string]any{header, claims} {
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		parts[i] = base64.RawURLEncoding.EncodeToString(b)
	}
	return parts[0] + "." + parts[1]
}

var es256 = map[string]any{"alg": "ES256", "typ": ticket.Type}

// with is a copy of m with one member set, or removed when the value is nil.
func with(m map[string]any, name string, value any) map[string]any {
	c := map[string]any{}
	for k, v := range m {
		c[k] = v
	}
	if c[name] = value; value == nil {
		delete(c, name)
	}
	return c
}

// wire is a client without manners: it speaks to chatd frame by frame.
type wire struct {
	t     *testing.T
	ws    *websocket.Conn
	hello frame.Hello
}

// wire connects to chatd itself and takes its HELLO.
func (h *house) wire(t *testing.T) *wire {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{frame.Subprotocol}, HandshakeTimeout: patience}
	ws, _, err := d.DialContext(t.Context(), h.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	w := &wire{t: t, ws: ws}
	w.hello = expect[frame.Hello](t, w)
	return w
}

func (w *wire) raw(kind int, b []byte) {
	w.t.Helper()
	if err := w.ws.WriteMessage(kind, b); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) send(f frame.Frame) { w.t.Helper(); w.raw(websocket.BinaryMessage, f.Append(nil)) }

func (w *wire) next() (frame.Frame, error) {
	if err := w.ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	for {
		_, b, err := w.ws.ReadMessage()
		if err != nil {
			return nil, err
		}
		f, err := frame.Parse(b)
		if _, doorbell := f.(frame.Notice); !doorbell {
			return f, err
		}
	}
}

// rung waits for n doorbells, between which nothing else may come.
func (w *wire) rung(n int) {
	w.t.Helper()
	for range n {
		if err := w.ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
			w.t.Fatal(err)
		}
		_, b, err := w.ws.ReadMessage()
		if want := (frame.Notice{}).Append(nil); err != nil || string(b) != string(want) {
			w.t.Fatalf("instead of a doorbell came %x, %v", b, err)
		}
	}
}

// closed reads to the end of the connection and returns its close code, and the
// last REFUSE before it.
func (w *wire) closed() (code int, refused frame.Refuse) {
	w.t.Helper()
	for {
		f, err := w.next()
		var end *websocket.CloseError
		switch {
		case errors.As(err, &end):
			return end.Code, refused
		case err != nil:
			w.t.Fatalf("the connection did not end with a close frame: %v", err)
		}
		if r, ok := f.(frame.Refuse); ok {
			refused = r
		}
	}
}

// auth is a good AUTH for this connection.
func (w *wire) auth(d device, t string) frame.Auth {
	w.t.Helper()
	host := d.h.relay.addr()
	proof, err := ticket.SignRelayAuth(d.key, w.hello.Nonce, host, ticket.Hash(t))
	if err != nil {
		w.t.Fatal(err)
	}
	return frame.Auth{DeviceKey: d.key.Public(), Signature: proof, Host: host, Ticket: t}
}

// as is a connection that chatd has accepted as the device's.
func (h *house) as(t *testing.T, d device) *wire {
	t.Helper()
	w := h.wire(t)
	w.send(w.auth(d, d.ticket(t)))
	expect[frame.Ready](t, w)
	return w
}

// carrier moves frames to and from a vault: a client's connection, or an uplink.
type carrier interface {
	send(frame.Frame)
	next() (frame.Frame, error)
}

// expect takes the next frame, which must be an F.
func expect[F frame.Frame](t *testing.T, c carrier) F {
	t.Helper()
	f, err := c.next()
	got, ok := f.(F)
	if err != nil || !ok {
		t.Fatalf("got %#v, %v; want %T", f, err, got)
	}
	return got
}

// line is one client's connection on an uplink that the attacker dialled with
// chatd's own certificate: a chatd that is corrupted to the bone.
type line struct {
	t      *testing.T
	conn   *tls.Conn
	in     *bufio.Reader
	number uint32
	// windows of the sessions that this connection has heard of.
	windows map[frame.SessionID]*frame.ReceiveWindow
}

// dialVault dials vaultd as the holder of a certificate of the fleet's private CA.
func (h *house) dialVault(t *testing.T, role string) (*tls.Conn, error) {
	t.Helper()
	who := &tap{}
	who.pki.Store(ptr(filepath.Join(h.Dir, "pki")))
	cfg, err := who.config(role)
	if err != nil {
		t.Fatal(err)
	}
	addr := h.VaultAddr()
	if v := h.naive(); v != nil {
		addr = v.ln.Addr().String()
	}
	conn, err := tls.Dial("tcp", addr, cfg)
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// uplink says whose connection it is: whatever hash the attacker likes.
func (h *house) uplink(t *testing.T, peer [32]byte) *line {
	t.Helper()
	conn, err := h.dialVault(t, "chatd")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t: t, conn: conn, in: bufio.NewReader(conn), number: 1, windows: map[frame.SessionID]*frame.ReceiveWindow{}}
	expect[frame.UplinkHello](t, l)
	l.send(frame.UplinkPeer{Hash: peer})
	return l
}

func (l *line) send(f frame.Frame) {
	l.t.Helper()
	if _, err := l.conn.Write(frame.AppendEnvelope(nil, l.number, f)); err != nil {
		l.t.Fatal(err)
	}
}

func (l *line) next() (frame.Frame, error) {
	if err := l.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	buf := make([]byte, frame.MaxFrame)
	for {
		_, raw, err := frame.ReadEnvelope(l.in, buf)
		if err != nil {
			return nil, err
		}
		f, err := frame.ParseUplink(raw)
		switch f := f.(type) {
		case frame.UplinkPing, frame.Notice, frame.UplinkCredit:
			continue
		case frame.Attach:
			delete(l.windows, f.Session)
		case frame.Data:
			l.use(f.Session)
		}
		return f, err
	}
}

// use gives credit for a DATA frame, as chatd does.
func (l *line) use(id frame.SessionID) {
	w := l.windows[id]
	if w == nil {
		w = new(frame.ReceiveWindow)
		l.windows[id] = w
	}
	w.Take()
	if n := w.Use(1); n > 0 {
		l.send(frame.UplinkCredit{Session: id, Frames: n})
	}
}

// keys are the fleet's, as every client reads them.
func (h *house) keys(t *testing.T) fleet.Keys {
	t.Helper()
	if v := h.naive(); v != nil {
		return v.keys
	}
	b, err := os.ReadFile(h.PinsFile)
	if err != nil {
		t.Fatal(err)
	}
	pins, err := fleet.ParsePins(b)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = os.ReadFile(filepath.Join(h.Dir, "bundle")); err != nil {
		t.Fatal(err)
	}
	bundle, err := pins.Open(b, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	k, _, _ := bundle.Find(stack.Fleet)
	return k
}

// talk is a vault session of which the attacker holds the keys.
type talk struct {
	t     *testing.T
	c     carrier
	keys  fleet.Keys
	id    frame.SessionID
	noise *noisenk.Session
	n     uint32
	msg1  []byte
	last  frame.Data // the last request, as sent
	reply frame.Data // and what answered it
}

// talk opens a vault session, and authorises nothing.
func (h *house) talk(t *testing.T, c carrier) *talk {
	t.Helper()
	s := &talk{t: t, c: c, keys: h.keys(t)}
	i, err := noisenk.NewInitiator(stack.Fleet, s.keys.Noise[:])
	if err != nil {
		t.Fatal(err)
	}
	if s.msg1, err = i.Message1(); err != nil {
		t.Fatal(err)
	}
	s.id = open(t, c, s.msg1)
	s.reply = clone(expect[frame.Data](t, c))
	if s.noise, err = i.ReadMessage2(s.reply.Payload); err != nil {
		t.Fatal(err)
	}
	s.last = frame.Data{Session: s.id, Sequence: 0, Payload: s.msg1}
	return s
}

// open sends message 1 until the relay, which may have just been started, has its
// uplink.
func open(t *testing.T, c carrier, msg1 []byte) frame.SessionID {
	t.Helper()
	for {
		c.send(frame.Open{Tag: 1, Payload: msg1})
		f, err := c.next()
		switch f := f.(type) {
		case frame.Attach:
			return f.Session
		case frame.Refuse:
			if f.Status == frame.NoVault {
				select {
				case <-time.After(50 * time.Millisecond):
					continue
				case <-t.Context().Done():
				}
			}
		}
		t.Fatalf("OPEN is answered by %#v, %v", f, err)
	}
}

func clone(d frame.Data) frame.Data {
	d.Payload = append([]byte(nil), d.Payload...)
	return d
}

// ask is one exchange.
func (s *talk) ask(r vaultmsg.Request) vaultmsg.Reply {
	s.t.Helper()
	return s.askBytes(vaultmsg.EncodeRequest(r))
}

func (s *talk) askBytes(plain []byte) vaultmsg.Reply {
	s.t.Helper()
	s.seal(plain)
	s.c.send(s.last)
	return s.answer()
}

// seal makes the next request, without sending it.
func (s *talk) seal(plain []byte) {
	s.n++
	s.last = frame.Data{Session: s.id, Sequence: s.n, Payload: s.noise.Seal(s.id[:], s.n, plain)}
}

// answer takes the reply to the last request; no other frame may come before it.
func (s *talk) answer() vaultmsg.Reply {
	s.t.Helper()
	s.reply = clone(expect[frame.Data](s.t, s.c))
	if s.reply.Sequence != s.n || s.reply.Session != s.id {
		s.t.Fatalf("reply %d of session %x, want %d of %x", s.reply.Sequence, s.reply.Session, s.n, s.id)
	}
	plain, err := s.noise.Open(s.id[:], s.n, s.reply.Payload)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := vaultmsg.ParseReply(plain)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// authorise is a good Authorise of a device in this session.
func (s *talk) authorise(d device, ticketText string) vaultmsg.Authorise {
	s.t.Helper()
	proof, err := ticket.SignVaultAuth(d.key, stack.Fleet, [32]byte(s.noise.HandshakeHash()), ticket.Hash(ticketText))
	if err != nil {
		s.t.Fatal(err)
	}
	return vaultmsg.Authorise{DeviceKey: d.key.Public(), Signature: proof, Ticket: ticketText}
}

// inside is a vault session that a device has authorised.
func (h *house) inside(t *testing.T, d device) *talk {
	t.Helper()
	s := h.talk(t, h.as(t, d))
	must(t, s.ask(s.authorise(d, d.ticket(t))))
	return s
}

// status asks what stands under the session's account.
func (s *talk) status() (vaultmsg.AccountStatus, int) {
	s.t.Helper()
	r := must(s.t, s.ask(vaultmsg.StatusRequest{}))
	return r.Body.(vaultmsg.AccountStatus), int(r.Left)
}

func must(t *testing.T, r vaultmsg.Reply) vaultmsg.Reply {
	t.Helper()
	if r.Status != frame.OK {
		t.Fatalf("%v answered by %v", r.Kind, r.Status)
	}
	return r
}

// untouched fails unless an account has all ten attempts, and none was ever
// charged since it was registered.
func (h *house) untouched(t *testing.T, sub string) {
	t.Helper()
	s, left := h.inside(t, h.device(t, sub)).status()
	if left != 10 || s.Failures != 0 || s.Generation != 1 {
		t.Errorf("%s: %d left, %d failures, generation %d; want 10, 0, 1", sub, left, s.Failures, s.Generation)
	}
}
