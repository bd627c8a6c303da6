package noisenk

import (
	"bytes"
	"crypto/ecdh"
	"crypto/mlkem"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"chatvault/protocol/secret"

	"github.com/flynn/noise"
)

// state is one side's Noise state. It exists so that no message 2 is written or
// read before a psk is set: flynn reads a psk token with an empty psk without
// complaint, and the session would silently lose its post-quantum half.
type state struct {
	hs     *noise.HandshakeState
	hasPSK bool
}

// config is the wiring of Noise_NKpsk2_*_AESGCM_SHA256; the test vectors run
// through it with another curve.
func config(dh noise.DHFunc, prologue []byte) noise.Config {
	return noise.Config{
		CipherSuite: noise.NewCipherSuite(dh, noise.CipherAESGCM, noise.HashSHA256),
		Pattern:     noise.HandshakeNK,
		Prologue:    prologue,
		// psk2, announced now, set between the two messages.
		PresharedKeyPlacement: 2,
	}
}

func newState(c noise.Config) (*state, error) {
	hs, err := noise.NewHandshakeState(c)
	if err != nil {
		return nil, failed("starting", err)
	}
	return &state{hs: hs}, nil
}

func (s *state) setPSK(psk []byte) error {
	if err := s.hs.SetPresharedKey(psk); err != nil {
		return failed("setting psk", err)
	}
	s.hasPSK = true
	return nil
}

func (s *state) mustHavePSK() {
	if !s.hasPSK {
		panic("noisenk: message 2 without a psk")
	}
}

// writeMessage2 returns the Noise message and the session it completes.
func (s *state) writeMessage2() ([]byte, *Session, error) {
	s.mustHavePSK()
	msg, toResponder, toInitiator, err := s.hs.WriteMessage(nil, nil)
	if err != nil {
		return nil, nil, atStep("encrypting payload 2", err)
	}
	return msg, newSession(s.hs.ChannelBinding(), toInitiator, toResponder, responderToInitiator), nil
}

func (s *state) readMessage2(msg []byte) (*Session, error) {
	s.mustHavePSK()
	_, toResponder, toInitiator, err := s.hs.ReadMessage(nil, msg)
	if err != nil {
		return nil, atStep("decrypting payload 2", err)
	}
	return newSession(s.hs.ChannelBinding(), toResponder, toInitiator, initiatorToResponder), nil
}

// Initiator is the phone's side of one handshake: NewInitiator, Message1,
// ReadMessage2, each once. A second use panics, also after a failure, which
// discards all state. Not safe for concurrent use.
type Initiator struct {
	state *state // nil once used up
	kem   *mlkem.DecapsulationKey768
	wrote bool
}

// NewInitiator starts a handshake with a vault of the fleet, whose static key
// (65 bytes, uncompressed) must come from a verified fleet bundle.
func NewInitiator(fleet string, vaultStatic []byte) (*Initiator, error) {
	kem, err := mlkem.GenerateKey768()
	if err != nil {
		return nil, failed("generating ek", err)
	}
	return newInitiator(fleet, vaultStatic, kem, nil)
}

func newInitiator(fleet string, vaultStatic []byte, kem *mlkem.DecapsulationKey768, e *ecdh.PrivateKey) (*Initiator, error) {
	if err := checkFleet(fleet); err != nil {
		return nil, err
	}
	if _, err := ecdh.P256().NewPublicKey(vaultStatic); err != nil {
		return nil, failed("checking the vault's static key", err)
	}
	c := config(&p256{ephemeral: e}, Prologue(fleet))
	c.Initiator = true
	c.PeerStatic = bytes.Clone(vaultStatic)
	s, err := newState(c)
	if err != nil {
		return nil, err
	}
	return &Initiator{state: s, kem: kem}, nil
}

// Message1 writes `-> e, es` with ek as payload: 1,265 bytes.
func (i *Initiator) Message1() ([]byte, error) {
	if i.state == nil || i.wrote {
		panic("noisenk: Message1 a second time")
	}
	i.wrote = true
	msg, _, _, err := i.state.hs.WriteMessage(nil, i.kem.EncapsulationKey().Bytes())
	if err != nil {
		i.discard()
		return nil, atStep("encrypting payload 1", err)
	}
	return msg, nil
}

// ReadMessage2 reads `ct ‖ <- e, ee, psk`, 1,169 bytes, and completes the
// session. Whatever it returns, the Initiator is used up.
func (i *Initiator) ReadMessage2(msg []byte) (*Session, error) {
	if i.state == nil || !i.wrote {
		panic("noisenk: ReadMessage2 a second time, or before Message1")
	}
	s, kem := i.state, i.kem
	i.discard()
	if len(msg) != Message2Size {
		return nil, failed("reading message 2", fmt.Errorf("%d bytes, want %d", len(msg), Message2Size))
	}
	ct, msg := msg[:mlkem.CiphertextSize768], msg[mlkem.CiphertextSize768:]
	// A changed ct makes ML-KEM answer another secret (implicit rejection),
	// and then payload 2 does not decrypt.
	shared, err := kem.Decapsulate(ct)
	if err != nil {
		return nil, failed("decapsulating", err)
	}
	psk := derivePSK(shared, kem.EncapsulationKey().Bytes(), ct)
	defer clear(psk)
	clear(shared)
	if err := s.setPSK(psk); err != nil {
		return nil, err
	}
	return s.readMessage2(msg)
}

func (i *Initiator) discard() { i.state, i.kem = nil, nil }

// Format implements fmt.Formatter for every verb: %s would print the keys.
func (*Initiator) Format(f fmt.State, _ rune) { io.WriteString(f, secret.Redacted) }

// LogValue implements slog.LogValuer.
func (*Initiator) LogValue() slog.Value { return slog.StringValue(secret.Redacted) }

// Respond is the vault's side of the whole handshake: it reads message 1 (1,265
// bytes), asks dh once for the static key's product, and returns message 2
// (1,169 bytes) with the completed session. On an error nothing remains.
//
// Attack A13, a replayed message 1: nothing in it asks for a vault operation.
// Its payload is ek and nothing else, every other size is refused.
func Respond(fleet string, staticPub []byte, dh StaticDH, msg1 []byte) (msg2 []byte, s *Session, err error) {
	return respond(fleet, staticPub, &p256{static: dh}, (*mlkem.EncapsulationKey768).Encapsulate, msg1)
}

// encapsulator is ML-KEM.Encaps; known-answer tests bring one without randomness.
type encapsulator func(ek *mlkem.EncapsulationKey768) (shared, ct []byte)

func respond(fleet string, staticPub []byte, dh *p256, encapsulate encapsulator, msg1 []byte) ([]byte, *Session, error) {
	if len(msg1) != Message1Size {
		return nil, nil, failed("reading message 1", fmt.Errorf("%d bytes, want %d", len(msg1), Message1Size))
	}
	if err := checkFleet(fleet); err != nil {
		return nil, nil, err
	}
	if _, err := ecdh.P256().NewPublicKey(staticPub); err != nil {
		return nil, nil, failed("checking our static key", err)
	}
	c := config(dh, Prologue(fleet))
	c.StaticKeypair = noise.DHKey{Private: []byte(staticHandle), Public: bytes.Clone(staticPub)}
	st, err := newState(c)
	if err != nil {
		return nil, nil, err
	}
	payload, _, _, err := st.hs.ReadMessage(nil, msg1)
	if err != nil {
		return nil, nil, atStep("decrypting payload 1", err)
	}
	ek, err := mlkem.NewEncapsulationKey768(payload)
	if err != nil {
		return nil, nil, failed("reading ek", err)
	}
	shared, ct := encapsulate(ek)
	psk := derivePSK(shared, payload, ct)
	defer clear(psk)
	clear(shared)
	if err := st.setPSK(psk); err != nil {
		return nil, nil, err
	}
	msg, session, err := st.writeMessage2()
	if err != nil {
		return nil, nil, err
	}
	return append(ct, msg...), session, nil
}

// atStep names the step of an error out of flynn, unless it came from our DH,
// which has named its own.
func atStep(step string, err error) error {
	if errors.Is(err, ErrHandshake) {
		return err
	}
	return failed(step, err)
}
