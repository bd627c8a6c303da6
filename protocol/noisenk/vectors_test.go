package noisenk

import (
	"bytes"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"testing"

	"chatvault/protocol/vectors"

	"github.com/flynn/noise"
)

// The wiring of config, with 25519 in place of P-256, against published vectors.
func TestPublishedVectors(t *testing.T) {
	psks := 0
	for _, c := range vectors.Noise() {
		t.Run(c.Name, func(t *testing.T) {
			initiator, responder := vectorState(t, c, true), vectorState(t, c, false)
			first, _, _, err := initiator.WriteMessage(nil, c.Messages[0].Payload)
			same(t, "message 1", first, c.Messages[0].Ciphertext, err)
			got, _, _, err := responder.ReadMessage(nil, first)
			same(t, "payload 1", got, c.Messages[0].Payload, err)
			if len(c.PSK) > 0 { // between reading 1 and writing 2, as Respond does
				psks++
				for _, hs := range []*noise.HandshakeState{initiator, responder} {
					if err := hs.SetPresharedKey(c.PSK); err != nil {
						t.Fatal(err)
					}
				}
			}
			second, r1, r2, err := responder.WriteMessage(nil, c.Messages[1].Payload)
			same(t, "message 2", second, c.Messages[1].Ciphertext, err)
			got, i1, i2, err := initiator.ReadMessage(nil, second)
			same(t, "payload 2", got, c.Messages[1].Payload, err)
			if len(c.HandshakeHash) > 0 {
				same(t, "handshake hash", initiator.ChannelBinding(), c.HandshakeHash, nil)
			}
			send := []noise.Cipher{i1.Cipher(), r2.Cipher()}
			receive := []noise.Cipher{r1.Cipher(), i2.Cipher()}
			for n, m := range c.Messages[2:] { // explicit nonces, as Session does
				sealed := send[n%2].Encrypt(nil, uint64(n/2), nil, m.Payload)
				same(t, "transport", sealed, m.Ciphertext, nil)
				opened, err := receive[n%2].Decrypt(nil, uint64(n/2), nil, sealed)
				same(t, "transport payload", opened, m.Payload, err)
			}
		})
	}
	if psks == 0 {
		t.Error("no case of NKpsk2")
	}
}

func vectorState(t *testing.T, c vectors.NoiseCase, initiator bool) *noise.HandshakeState {
	t.Helper()
	static, err := noise.DH25519.GenerateKeypair(bytes.NewReader(c.ResponderStatic))
	if err != nil {
		t.Fatal(err)
	}
	conf := config(noise.DH25519, c.Prologue)
	if len(c.PSK) == 0 {
		conf.PresharedKeyPlacement = 0 // plain NK
	}
	conf.Initiator = initiator
	if initiator {
		conf.Random = bytes.NewReader(c.InitiatorEphemeral)
		conf.PeerStatic = static.Public
	} else {
		conf.Random = bytes.NewReader(c.ResponderEphemeral)
		conf.StaticKeypair = static
	}
	hs, err := noise.NewHandshakeState(conf)
	if err != nil {
		t.Fatal(err)
	}
	return hs
}

func same(t *testing.T, what string, got, want []byte, err error) {
	t.Helper()
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s: got %x, want %x, %v", what, got, want, err)
	}
}

// Our own vectors, which clients in other languages run, through this package
// and through the second implementation.
func TestSessionVectors(t *testing.T) {
	for _, c := range vectors.NoiseSessions() {
		t.Run(c.Name, func(t *testing.T) {
			static := scalar(t, c.VaultStatic)
			encaps := func(ek *mlkem.EncapsulationKey768) (shared, ct []byte) {
				shared, ct, err := mlkemtest.Encapsulate768(ek, c.ResponderKEMEntropy)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "psk", derivePSK(shared, ek.Bytes(), ct), c.PSK, nil)
				return shared, ct
			}
			same(t, "prologue", Prologue(c.Fleet), c.Prologue, nil)
			same(t, "static public key", static.PublicKey().Bytes(), c.VaultStaticPublic, nil)

			kem, err := mlkem.NewDecapsulationKey768(c.InitiatorKEMSeed)
			if err != nil {
				t.Fatal(err)
			}
			i, err := newInitiator(c.Fleet, c.VaultStaticPublic, kem, scalar(t, c.InitiatorEphemeral))
			if err != nil {
				t.Fatal(err)
			}
			msg1, err := i.Message1()
			same(t, "message 1", msg1, c.Message1, err)

			e := scalar(t, c.ResponderEphemeral)
			msg2, responder, err := respond(c.Fleet, c.VaultStaticPublic, &p256{static: softDH(static), ephemeral: e}, encaps, c.Message1)
			same(t, "message 2", msg2, c.Message2, err)
			ref := refResponder{prologue: c.Prologue, static: static, e: e, encapsulate: encaps}
			refMsg2, refSession, err := ref.respond(c.Message1)
			same(t, "message 2 of the second implementation", refMsg2, c.Message2, err)

			initiator, err := i.ReadMessage2(c.Message2)
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range [][]byte{initiator.HandshakeHash(), responder.HandshakeHash(), refSession.h} {
				same(t, "handshake hash", h, c.HandshakeHash, nil)
			}
			for _, m := range c.Transport {
				from, to, key, direction := responder, initiator, refSession.toInitiator, byte(1)
				if m.FromInitiator {
					from, to, key, direction = initiator, responder, refSession.toResponder, 0
				}
				same(t, "ciphertext", from.Seal(c.SessionID, m.SequenceNumber, m.Plaintext), m.Ciphertext, nil)
				same(t, "ciphertext of the second implementation",
					refSession.seal(key, c.SessionID, direction, m.SequenceNumber, m.Plaintext), m.Ciphertext, nil)
				opened, err := to.Open(c.SessionID, m.SequenceNumber, m.Ciphertext)
				same(t, "plaintext", opened, m.Plaintext, err)
			}
		})
	}
}

func scalar(t *testing.T, b []byte) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.P256().NewPrivateKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
