package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/docker/stack"
	"chatvault/protocol/ticket"
)

// tap stands on the uplink with both sides' certificates and records what chatd
// and vaultd say to each other, in the clear.
type tap struct {
	ln     net.Listener
	target atomic.Pointer[string] // vaultd's address
	pki    atomic.Pointer[string] // the folder with the certificates
	seen   *syncBuffer
}

func newTap(t *testing.T) *tap {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{ln: ln, seen: &syncBuffer{}}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go p.serve(t, c)
		}
	}()
	return p
}

func (p *tap) config(role string) (*tls.Config, error) {
	dir := *p.pki.Load()
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, role+".crt"), filepath.Join(dir, role+".key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: "vaultd.chatvault.internal", MinVersion: tls.VersionTLS13}, err
}

func (p *tap) serve(t *testing.T, c net.Conn) {
	defer c.Close()
	if p.pki.Load() == nil {
		return // chatd came before the test was ready, and will come again
	}
	server, err := p.config("vaultd")
	if err != nil {
		t.Error(err)
		return
	}
	clientSide, err := p.config("chatd")
	if err != nil {
		t.Error(err)
		return
	}
	near := tls.Server(c, server)
	far, err := tls.Dial("tcp", *p.target.Load(), clientSide)
	if err != nil {
		return
	}
	defer far.Close()
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		wg.Go(func() {
			defer near.Close()
			defer far.Close()
			_, _ = io.Copy(io.MultiWriter(way[1], p.seen), way[0])
		})
	}
	wg.Wait()
}

// TestCanaries plants secrets, does everything with them, and looks for them in
// every log, error and file outside the client, and in every byte that passes on
// both sides of chatd.
func TestCanaries(t *testing.T) {
	tap := newTap(t)
	h := start(t, func(o *stack.Options) {
		o.Redis = stack.RealRedis // whose log is looked at too
		o.ChatdArgs = append(o.ChatdArgs, "--vault", tap.ln.Addr().String(), "--log-level", "debug")
		o.VaultArgs = append(o.VaultArgs, "--log-level", "debug")
	})
	tap.pki.Store(ptr(filepath.Join(h.Dir, "pki")))
	tap.target.Store(ptr(h.VaultAddr()))

	const pw, wrong, sub = "canary-password-7f3a", "canary-wrong-91cc", "canary-subject-55d0"
	key := newKey()
	recovery := client.FormatRecoveryKey(key)
	phone := h.phone(sub)
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	_, err := phone.Register(t.Context(), password(pw), key, cheap)
	note(err)
	if err != nil {
		t.Fatal(err)
	}
	_, err = phone.Recover(t.Context(), password(wrong))
	note(err)
	if !errors.Is(err, client.ErrWrongPassword) {
		t.Fatal(err)
	}
	if _, err = phone.Recover(t.Context(), password(pw)); err != nil {
		t.Fatal(err)
	}
	expired, err := h.Mint(expiredClaims(sub, phone.key))
	if err != nil {
		t.Fatal(err)
	}
	stranger := h.phoneOf(phone.key, func(context.Context) (string, error) { return expired, nil })
	_, err = stranger.Status(t.Context())
	note(err)
	_, err = h.phone(sub).Recover(t.Context(), password(pw+"\x00"))
	note(err)
	if len(errs) < 3 {
		t.Fatalf("only %d errors to look at: %v", len(errs), errs)
	}
	if err := h.Stop(t.Context()); err != nil {
		t.Error(err)
	}

	pin, err := os.ReadFile(h.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string][]byte{
		"password": []byte(pw), "wrong password": []byte(wrong), "backup key": key.B[:],
		"recovery key": recovery, "recovery key, bare": []byte(hex.EncodeToString(key.B[:])),
		"PIN": bytes.TrimSpace(pin),
	}
	everywhere := map[string][]byte{
		"the relay's client side": h.relay.seen.Bytes(), "the uplink": tap.seen.Bytes(),
		"the SDK's log": append(phone.log.Bytes(), stranger.log.Bytes()...),
	}
	if n := len(everywhere["the uplink"]); n < 10_000 {
		t.Fatalf("the recorder on the uplink saw %d bytes", n)
	}
	for _, e := range errs {
		everywhere["errors"] = append(everywhere["errors"], e.Error()...)
	}
	for _, d := range []*stack.Daemon{h.Vault, h.Chatd, h.Redis} {
		b, err := d.Logs()
		if err != nil || len(b) == 0 {
			t.Fatalf("%s: no log (%v)", d.Name, err)
		}
		everywhere[d.Name+"'s log"] = b
	}
	everywhere["the record store"] = readAll(t, filepath.Join(h.Dir, "records"))
	for where, b := range everywhere {
		for what, s := range secrets {
			for form, encoded := range encodings(s) {
				if bytes.Contains(b, encoded) {
					t.Errorf("%s (%s) is in %s", what, form, where)
				}
			}
		}
	}
	// A ticket is carried by AUTH, and nowhere else; the account's name not at all.
	for where, b := range everywhere {
		if strings.HasPrefix(where, "the relay") {
			continue
		}
		if bytes.Contains(b, []byte("eyJ")) || bytes.Contains(b, []byte(expired[len(expired)-40:])) {
			t.Errorf("a ticket is in %s", where)
		}
		if bytes.Contains(b, []byte(sub)) {
			t.Errorf("the account is in %s", where)
		}
		thumb, public := phone.key.Thumbprint(), phone.key.Public()
		for what, id := range map[string][]byte{"thumbprint": thumb[:], "public key": public[:]} {
			for form, encoded := range encodings(id) {
				if bytes.Contains(b, encoded) {
					t.Errorf("the device's %s (%s) is in %s", what, form, where)
				}
			}
		}
	}
}

// encodings are the forms in which a secret might be written.
func encodings(s []byte) map[string][]byte {
	return map[string][]byte{
		"raw": s, "hex": []byte(hex.EncodeToString(s)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(s))),
		"base64": []byte(base64.RawStdEncoding.EncodeToString(s)), "base64url": []byte(base64.RawURLEncoding.EncodeToString(s)),
	}
}

func readAll(t *testing.T, dir string) (all []byte) {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all = append(all, b...)
		return err
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("%s: %d bytes, %v", dir, len(all), err)
	}
	return all
}

// expiredClaims are those of a ticket that ended an hour ago.
func expiredClaims(sub string, key ticket.DeviceKey) ticket.Claims {
	end := time.Now().Add(-time.Hour).Truncate(time.Second)
	return ticket.Claims{Issuer: stack.Issuer, Subject: sub, Audience: []string{stack.Fleet},
		IssuedAt: end.Add(-10 * time.Minute), Expires: end, Device: key.Thumbprint()}
}
