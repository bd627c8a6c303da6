package noisenk

import (
	"bytes"
	"crypto/ecdh"
	"crypto/mlkem"
	"errors"
	"testing"

	"chatvault/protocol/vectors"
)

// Whatever arrives as message 1: an error and nothing else, or a message 2 of
// the right size with a session.
func FuzzRespond(f *testing.F) {
	vault := newKey(f)
	pub := vault.PublicKey().Bytes()
	_, msg1 := newInitiatorT(f, vault)
	f.Add(msg1)
	f.Add(msg1[:Message1Size-1])
	f.Add(append(bytes.Clone(msg1), 0))
	f.Add(make([]byte, Message1Size))
	f.Add([]byte{})
	for _, c := range vectors.NoiseSessions() {
		f.Add([]byte(c.Message1))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		before := bytes.Clone(msg)
		msg2, s, err := Respond(testFleet, pub, softDH(vault), msg)
		if !bytes.Equal(msg, before) {
			t.Error("the message was changed")
		}
		if err != nil {
			if !errors.Is(err, ErrHandshake) || errors.Is(err, ErrStaticDH) || msg2 != nil || s != nil {
				t.Errorf("%v, and %d bytes, %v", err, len(msg2), s)
			}
			return
		}
		if len(msg2) != Message2Size || s == nil {
			t.Errorf("accepted, with %d bytes, %v", len(msg2), s)
		}
	})
}

// Only the responder's own message 2 is ever accepted.
func FuzzReadMessage2(f *testing.F) {
	vector := vectors.NoiseSessions()[0]
	f.Add([]byte(vector.Message2))
	f.Add([]byte(vector.Message2[:Message2Size-1]))
	f.Add(make([]byte, Message2Size))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		kem, err := mlkem.NewDecapsulationKey768(vector.InitiatorKEMSeed)
		if err != nil {
			t.Fatal(err)
		}
		e, err := ecdh.P256().NewPrivateKey(vector.InitiatorEphemeral)
		if err != nil {
			t.Fatal(err)
		}
		i, err := newInitiator(vector.Fleet, vector.VaultStaticPublic, kem, e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Message1(); err != nil {
			t.Fatal(err)
		}
		s, err := i.ReadMessage2(msg)
		genuine := bytes.Equal(msg, vector.Message2)
		if genuine != (err == nil) || genuine != (s != nil) || err != nil && !errors.Is(err, ErrHandshake) {
			t.Errorf("genuine: %v, error: %v, session: %v", genuine, err, s)
		}
	})
}
