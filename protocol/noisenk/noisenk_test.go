package noisenk

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/mlkem"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/flynn/noise"
)

const testFleet = "fleet-a.example"

var sid = bytes.Repeat([]byte{7}, SessionIDSize)

func newKey(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// softDH is a StaticDH whose key stands in memory.
func softDH(k *ecdh.PrivateKey) StaticDH {
	return func(peer []byte) ([]byte, error) {
		p, err := ecdh.P256().NewPublicKey(peer)
		if err != nil {
			return nil, err
		}
		return k.ECDH(p)
	}
}

func newInitiatorT(t testing.TB, vault *ecdh.PrivateKey) (*Initiator, []byte) {
	t.Helper()
	i, err := NewInitiator(testFleet, vault.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	msg1, err := i.Message1()
	if err != nil {
		t.Fatal(err)
	}
	return i, msg1
}

// sessions completes a handshake with ourselves.
func sessions(t testing.TB) (initiator, responder *Session) {
	t.Helper()
	vault := newKey(t)
	i, msg1 := newInitiatorT(t, vault)
	msg2, responder, err := Respond(testFleet, vault.PublicKey().Bytes(), softDH(vault), msg1)
	if err != nil {
		t.Fatal(err)
	}
	initiator, err = i.ReadMessage2(msg2)
	if err != nil {
		t.Fatal(err)
	}
	return initiator, responder
}

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s did not panic", what)
		}
	}()
	f()
}

func wantFailed(t *testing.T, err error, step string) {
	t.Helper()
	if !errors.Is(err, ErrHandshake) || !strings.Contains(err.Error(), step) {
		t.Errorf("got %v, want ErrHandshake at %q", err, step)
	}
}

func TestSizes(t *testing.T) {
	if Message1Size != 1265 || Message2Size != 1169 {
		t.Errorf("messages of %d and %d bytes, want 1265 and 1169", Message1Size, Message2Size)
	}
	vault := newKey(t)
	_, msg1 := newInitiatorT(t, vault)
	msg2, _, err := Respond(testFleet, vault.PublicKey().Bytes(), softDH(vault), msg1)
	if err != nil || len(msg1) != 1265 || len(msg2) != 1169 {
		t.Errorf("sent %d and %d bytes, %v", len(msg1), len(msg2), err)
	}
}

func TestPrologue(t *testing.T) {
	want := "000b" + hex.EncodeToString([]byte("chatvault/1")) + "000a" + hex.EncodeToString([]byte("ML-KEM-768")) +
		"0001" + hex.EncodeToString([]byte("f"))
	if got := hex.EncodeToString(Prologue("f")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestInteroperatesWithSecondImplementation(t *testing.T) {
	for range 8 {
		ref := refResponder{prologue: Prologue(testFleet), static: newKey(t), e: newKey(t), encapsulate: (*mlkem.EncapsulationKey768).Encapsulate}
		i, msg1 := newInitiatorT(t, ref.static)
		msg2, rs, err := ref.respond(msg1)
		if err != nil {
			t.Fatal(err)
		}
		s, err := i.ReadMessage2(msg2)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.HandshakeHash(), rs.h) {
			t.Error("handshake hashes differ")
		}
		if got := s.Seal(sid, 1, []byte("request")); !bytes.Equal(got, rs.seal(rs.toResponder, sid, 0, 1, []byte("request"))) {
			t.Error("Seal differs")
		}
		if got, err := s.Open(sid, 3, rs.seal(rs.toInitiator, sid, 1, 3, []byte("reply"))); err != nil || string(got) != "reply" {
			t.Errorf("Open: %q, %v", got, err)
		}
	}
}

func TestBothSidesAgree(t *testing.T) {
	a, b := sessions(t)
	if !bytes.Equal(a.HandshakeHash(), b.HandshakeHash()) || len(a.HandshakeHash()) != HashSize {
		t.Fatal("handshake hashes differ")
	}
	c, _ := sessions(t)
	if bytes.Equal(a.HandshakeHash(), c.HandshakeHash()) {
		t.Error("two sessions share a handshake hash")
	}
	for n := uint32(1); n < 5; n++ {
		request, reply := a.Seal(sid, n, []byte("request")), b.Seal(sid, n, nil)
		if len(request) != len("request")+TagSize {
			t.Errorf("Seal made %d bytes", len(request))
		}
		if got, err := b.Open(sid, n, request); err != nil || string(got) != "request" {
			t.Errorf("request %d: %q, %v", n, got, err)
		}
		if got, err := a.Open(sid, n, reply); err != nil || len(got) != 0 {
			t.Errorf("reply %d: %q, %v", n, got, err)
		}
	}
}

// Every bit of the handshake counts: message 1's reader refuses, or message 2's does.
func TestEveryFlippedByteFails(t *testing.T) {
	vault := newKey(t)
	pub := vault.PublicKey().Bytes()
	_, msg1 := newInitiatorT(t, vault)
	for n := range msg1 {
		bad := bytes.Clone(msg1)
		bad[n] ^= 0x01
		msg2, s, err := Respond(testFleet, pub, softDH(vault), bad)
		wantFailed(t, err, "")
		if msg2 != nil || s != nil {
			t.Fatalf("byte %d: a failed handshake left something", n)
		}
	}
	for n := range Message2Size {
		i, msg1 := newInitiatorT(t, vault)
		msg2, _, err := Respond(testFleet, pub, softDH(vault), msg1)
		if err != nil {
			t.Fatal(err)
		}
		msg2[n] ^= 0x80
		s, err := i.ReadMessage2(msg2)
		wantFailed(t, err, "")
		if s != nil {
			t.Fatalf("byte %d of message 2: a session", n)
		}
	}
}

func TestWrongSizesAreRefused(t *testing.T) {
	vault := newKey(t)
	pub := vault.PublicKey().Bytes()
	_, msg1 := newInitiatorT(t, vault)
	for _, bad := range [][]byte{nil, {}, msg1[:64], msg1[:Message1Size-1], append(bytes.Clone(msg1), 0), make([]byte, 1<<16)} {
		_, _, err := Respond(testFleet, pub, softDH(vault), bad)
		wantFailed(t, err, "reading message 1")
	}
	for _, size := range []int{0, 1, mlkem.CiphertextSize768, Message2Size - 1, Message2Size + 1, 1 << 16} {
		i, _ := newInitiatorT(t, vault)
		_, err := i.ReadMessage2(make([]byte, size))
		wantFailed(t, err, "reading message 2")
	}
}

// rawMessage1 is what a client that keeps to Noise, but not to us, would send.
func rawMessage1(t *testing.T, vault *ecdh.PrivateKey, payload []byte) []byte {
	t.Helper()
	c := config(&p256{}, Prologue(testFleet))
	c.Initiator, c.PeerStatic = true, vault.PublicKey().Bytes()
	hs, err := noise.NewHandshakeState(c)
	if err != nil {
		t.Fatal(err)
	}
	msg, _, _, err := hs.WriteMessage(nil, payload)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// Attack A13: message 1 can be replayed, so it must not carry a request.
func TestRequestsInMessage1AreRefused(t *testing.T) {
	vault := newKey(t)
	kem, err := mlkem.GenerateKey768()
	if err != nil {
		t.Fatal(err)
	}
	ek := kem.EncapsulationKey().Bytes()
	ke1 := bytes.Repeat([]byte{0xee}, 97)
	for _, c := range []struct {
		name    string
		payload []byte
		step    string
	}{
		{"KE1 alone", ke1, "reading message 1"},
		{"KE1 after ek", append(bytes.Clone(ek), ke1...), "reading message 1"},
		{"KE1 in place of the start of ek", append(bytes.Clone(ke1), ek[97:]...), "reading ek"},
		{"empty", nil, "reading message 1"},
		{"coefficients out of range", bytes.Repeat([]byte{0xff}, 1184), "reading ek"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, s, err := Respond(testFleet, vault.PublicKey().Bytes(), softDH(vault), rawMessage1(t, vault, c.payload))
			wantFailed(t, err, c.step)
			if s != nil {
				t.Error("a session")
			}
		})
	}
	if _, _, err := Respond(testFleet, vault.PublicKey().Bytes(), softDH(vault), rawMessage1(t, vault, ek)); err != nil {
		t.Errorf("ek alone: %v", err)
	}
}

// badPoints are encodings that are not uncompressed points on the curve.
func badPoints(t *testing.T) map[string][]byte {
	good := newKey(t).PublicKey().Bytes()
	y := good[64]
	with := func(prefix byte) []byte { return append([]byte{prefix}, good[1:]...) }
	offCurve := bytes.Clone(good)
	offCurve[64] ^= 1
	nonCanonical := bytes.Clone(good)
	copy(nonCanonical[1:33], elliptic.P256().Params().P.Bytes()) // x = p
	return map[string][]byte{
		"off curve":              offCurve,
		"hybrid":                 with(6 | y&1),
		"compressed, then zeros": append(append([]byte{2 | y&1}, good[1:33]...), make([]byte, 32)...),
		"identity":               make([]byte, 65),
		"04 and zeros":           append([]byte{4}, make([]byte, 64)...),
		"x not below p":          nonCanonical,
		"unknown prefix":         with(5),
	}
}

func TestBadEphemeralsAreRefusedBeforeTheStaticKeyIsUsed(t *testing.T) {
	vault := newKey(t)
	untouched := func([]byte) ([]byte, error) {
		t.Error("the static key was used")
		return nil, errors.New("used")
	}
	for name, point := range badPoints(t) {
		t.Run(name, func(t *testing.T) {
			_, msg1 := newInitiatorT(t, vault)
			copy(msg1, point)
			_, _, err := Respond(testFleet, vault.PublicKey().Bytes(), untouched, msg1)
			wantFailed(t, err, "computing es")

			i, msg1 := newInitiatorT(t, vault)
			msg2, _, err := Respond(testFleet, vault.PublicKey().Bytes(), softDH(vault), msg1)
			if err != nil {
				t.Fatal(err)
			}
			copy(msg2[mlkem.CiphertextSize768:], point)
			_, err = i.ReadMessage2(msg2)
			wantFailed(t, err, "computing ee")

			_, err = NewInitiator(testFleet, point)
			wantFailed(t, err, "checking the vault's static key")
			_, _, err = Respond(testFleet, point, softDH(vault), msg1)
			wantFailed(t, err, "checking our static key")
		})
	}
}

func TestFailingStaticKey(t *testing.T) {
	vault := newKey(t)
	hsmAway := errors.New("CKR_DEVICE_REMOVED")
	for name, dh := range map[string]StaticDH{
		"error": func([]byte) ([]byte, error) { return nil, hsmAway },
		"short": func([]byte) ([]byte, error) { return make([]byte, 31), nil },
		"point": func(peer []byte) ([]byte, error) { return peer, nil },
	} {
		_, msg1 := newInitiatorT(t, vault)
		msg2, s, err := Respond(testFleet, vault.PublicKey().Bytes(), dh, msg1)
		wantFailed(t, err, "computing es")
		if !errors.Is(err, ErrStaticDH) || (name == "error") != errors.Is(err, hsmAway) || msg2 != nil || s != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A wrong product, as from a wrong key, is no failure of the operation: it does not decrypt.
	_, msg1 := newInitiatorT(t, vault)
	_, _, err := Respond(testFleet, vault.PublicKey().Bytes(), softDH(newKey(t)), msg1)
	wantFailed(t, err, "decrypting payload 1")
	if errors.Is(err, ErrStaticDH) {
		t.Errorf("a wrong product is told as a failed operation: %v", err)
	}
}

func TestOtherFleetOrVaultFails(t *testing.T) {
	vault, other := newKey(t), newKey(t)
	_, msg1 := newInitiatorT(t, vault)
	_, _, err := Respond("fleet-b.example", vault.PublicKey().Bytes(), softDH(vault), msg1)
	wantFailed(t, err, "decrypting payload 1")
	_, _, err = Respond(testFleet, other.PublicKey().Bytes(), softDH(other), msg1)
	wantFailed(t, err, "decrypting payload 1")
	for _, fleet := range []string{"", strings.Repeat("f", MaxFleetSize+1)} {
		_, err := NewInitiator(fleet, vault.PublicKey().Bytes())
		wantFailed(t, err, "checking the fleet id")
		_, _, err = Respond(fleet, vault.PublicKey().Bytes(), softDH(vault), msg1)
		wantFailed(t, err, "checking the fleet id")
	}
}

// Message 2 of one handshake is worth nothing in another.
func TestMessage2OfAnotherHandshake(t *testing.T) {
	vault := newKey(t)
	_, msg1 := newInitiatorT(t, vault)
	msg2, _, err := Respond(testFleet, vault.PublicKey().Bytes(), softDH(vault), msg1)
	if err != nil {
		t.Fatal(err)
	}
	i, _ := newInitiatorT(t, vault)
	_, err = i.ReadMessage2(msg2)
	wantFailed(t, err, "decrypting payload 2")
}

func TestHandshakeObjectWorksOnce(t *testing.T) {
	vault := newKey(t)
	i, err := NewInitiator(testFleet, vault.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	mustPanic(t, "ReadMessage2 before Message1", func() { i.ReadMessage2(make([]byte, Message2Size)) })
	msg1, err := i.Message1()
	if err != nil {
		t.Fatal(err)
	}
	mustPanic(t, "a second Message1", func() { i.Message1() })
	msg2, _, err := Respond(testFleet, vault.PublicKey().Bytes(), softDH(vault), msg1)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(msg2)
	bad[0] ^= 1
	if _, err := i.ReadMessage2(bad); err == nil {
		t.Fatal("a bad message 2 was read")
	}
	if i.state != nil || i.kem != nil {
		t.Error("a failed handshake kept its state")
	}
	mustPanic(t, "ReadMessage2 after a failure", func() { i.ReadMessage2(msg2) })
	mustPanic(t, "Message1 after a failure", func() { i.Message1() })
}
