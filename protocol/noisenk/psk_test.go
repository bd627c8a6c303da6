package noisenk

import (
	"bytes"
	"crypto/mlkem"
	"testing"
)

// Why mustHavePSK exists: a responder that leaves the psk empty is read without
// complaint by a state whose psk was never set. When flynn/noise stops to do
// so, this test says it.
func TestFlynnReadsAnEmptyPSK(t *testing.T) {
	i, msg2 := emptyPSK(t)
	if _, _, _, err := i.state.hs.ReadMessage(nil, msg2[mlkem.CiphertextSize768:]); err != nil {
		t.Fatalf("flynn/noise refuses an empty psk: %v", err)
	}
}

func TestEmptyPSKIsRefused(t *testing.T) {
	i, msg2 := emptyPSK(t)
	_, err := i.ReadMessage2(msg2)
	wantFailed(t, err, "decrypting payload 2")
}

func TestMessage2NeedsAPSK(t *testing.T) {
	i, msg2 := emptyPSK(t)
	mustPanic(t, "reading message 2 without a psk", func() { i.state.readMessage2(msg2[mlkem.CiphertextSize768:]) })
	mustPanic(t, "writing message 2 without a psk", func() { i.state.writeMessage2() })
	for _, psk := range [][]byte{nil, {}, make([]byte, 31), make([]byte, 33)} {
		wantFailed(t, i.state.setPSK(psk), "setting psk")
	}
	mustPanic(t, "reading message 2 after a refused psk", func() { i.state.readMessage2(msg2[mlkem.CiphertextSize768:]) })
}

// A psk made of anything but shared secret, ek and ct as specified does not fit.
func TestPSKCoversTheTranscript(t *testing.T) {
	shared, ek, ct := make([]byte, 32), make([]byte, 1184), make([]byte, 1088)
	base := derivePSK(shared, ek, ct)
	if len(base) != 32 {
		t.Fatalf("psk of %d bytes", len(base))
	}
	for name, b := range map[string][]byte{"shared": shared, "ek": ek, "ct": ct} {
		b[0] ^= 1
		if bytes.Equal(base, derivePSK(shared, ek, ct)) {
			t.Errorf("psk does not depend on %s", name)
		}
		b[0] ^= 1
	}
}

// emptyPSK returns an initiator that wrote message 1, and the message 2 of a
// responder that mixes an empty psk.
func emptyPSK(t *testing.T) (*Initiator, []byte) {
	t.Helper()
	ref := refResponder{
		prologue: Prologue(testFleet), static: newKey(t), e: newKey(t),
		encapsulate: (*mlkem.EncapsulationKey768).Encapsulate,
		tweak:       func([]byte) []byte { return nil },
	}
	i, msg1 := newInitiatorT(t, ref.static)
	msg2, _, err := ref.respond(msg1)
	if err != nil {
		t.Fatal(err)
	}
	return i, msg2
}
