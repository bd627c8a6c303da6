package relay

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/crypto/chacha20poly1305"
)

// A client of TLS may ask for new keys at any time (RFC 8446 §4.6.3), long after
// the relay has written anything, and the connection goes on.
func TestKeysAreUpdatedLongAfterAWrite(t *testing.T) {
	watch := &deadlines{}
	h, _ := simple(t, func(s *setup) {
		s.tls, s.listener = true, func(l net.Listener) net.Listener { watch.Listener = l; return watch }
	})
	client := &ownKeys{config: h.clientTLS()}
	h.dialer = &websocket.Dialer{NetDialTLSContext: client.dial}
	phone := h.phone("alice")
	poll(t, "READY is written", func() bool {
		o := &h.only().out
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.w == nil
	})
	watch.pass()
	client.Write(client.update(t, clientFrame(0x89, []byte("under new keys"))))
	over := make(chan string, 2)
	phone.WS.SetPongHandler(func(data string) error { over <- data; return nil })
	go func() {
		_, _, err := phone.WS.ReadMessage()
		over <- err.Error()
	}()
	if got := <-over; got != "under new keys" {
		t.Error(got)
	}
}

// deadlines is a listener for one connection that knows its write deadline.
type deadlines struct {
	net.Listener

	mu   sync.Mutex // guards what follows
	conn *net.TCPConn
	late time.Time
}

// Accept implements net.Listener.
func (d *deadlines) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn = conn.(*net.TCPConn)
	return &watched{d.conn, d}, nil
}

// pass lets the write deadline pass, if there is one.
func (d *deadlines) pass() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.late.IsZero() {
		d.conn.SetWriteDeadline(time.Unix(1, 0))
	}
}

type watched struct {
	*net.TCPConn
	deadlines *deadlines
}

// SetDeadline implements net.Conn.
func (w *watched) SetDeadline(t time.Time) error {
	w.SetWriteDeadline(t)
	return w.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (w *watched) SetWriteDeadline(t time.Time) error {
	w.deadlines.mu.Lock()
	defer w.deadlines.mu.Unlock()
	w.deadlines.late = t
	return w.TCPConn.SetWriteDeadline(t)
}

// ownKeys is a client's connection below TLS, of which the keys are known: crypto/tls
// never asks for new ones.
type ownKeys struct {
	net.Conn
	config *tls.Config
	log    bytes.Buffer
	suite  uint16
	sent   uint64 // records under the client's first traffic secret
}

func (k *ownKeys) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var err error
	if k.Conn, err = new(net.Dialer).DialContext(ctx, network, addr); err != nil {
		return nil, err
	}
	k.config.KeyLogWriter, k.config.MinVersion = &k.log, tls.VersionTLS13
	conn := tls.Client(k, k.config)
	err = conn.HandshakeContext(ctx)
	k.sent, k.suite = 0, conn.ConnectionState().CipherSuite
	return conn, err
}

// Write implements net.Conn.
func (k *ownKeys) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; k.sent++ {
		rest = rest[5+int(binary.BigEndian.Uint16(rest[3:])):]
	}
	return k.Conn.Write(b)
}

// update are two records: that the client uses new keys from here on, and wants the
// relay to do so too; and data under them.
func (k *ownKeys) update(t *testing.T, data []byte) []byte {
	_, line, _ := strings.Cut(k.log.String(), "CLIENT_TRAFFIC_SECRET_0 ")
	_, line, _ = strings.Cut(line, " ")
	line, _, _ = strings.Cut(line, "\n")
	secret, err := hex.DecodeString(line)
	if err != nil || len(secret) != sha256.Size {
		t.Fatalf("a secret of %d bytes, %v", len(secret), err)
	}
	keyUpdate := []byte{24, 0, 0, 1, 1}
	next := expand(t, secret, "traffic upd", sha256.Size)
	return append(k.record(t, secret, k.sent, 22, keyUpdate), k.record(t, next, 0, 23, data)...)
}

// record seals one (RFC 8446 §5.2).
func (k *ownKeys) record(t *testing.T, secret []byte, number uint64, kind byte, body []byte) []byte {
	aead, err := k.cipher(t, secret)
	if err != nil {
		t.Fatal(err)
	}
	nonce := expand(t, secret, "iv", aead.NonceSize())
	for i := range 8 {
		nonce[len(nonce)-1-i] ^= byte(number >> (8 * i))
	}
	body = append(bytes.Clone(body), kind)
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(body)+aead.Overhead()))
	return aead.Seal(bytes.Clone(head), nonce, body, head)
}

// cipher is AES-128, or ChaCha20 where the processor has no AES: so Go chooses.
func (k *ownKeys) cipher(t *testing.T, secret []byte) (cipher.AEAD, error) {
	if k.suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
		return chacha20poly1305.New(expand(t, secret, "key", chacha20poly1305.KeySize))
	}
	block, err := aes.NewCipher(expand(t, secret, "key", 16))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// expand is HKDF-Expand-Label without a context (RFC 8446 §7.1).
func expand(t *testing.T, secret []byte, label string, size int) []byte {
	label = "tls13 " + label
	info := string([]byte{0, byte(size), byte(len(label))}) + label + "\x00"
	b, err := hkdf.Expand(sha256.New, secret, info, size)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
