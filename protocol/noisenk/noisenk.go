// Package noisenk is the handshake and the transport of a vault session:
//
//	Noise_NKpsk2_P256_AESGCM_SHA256
//	  <- s
//	  ...
//	  -> e, es        payload: ML-KEM-768 encapsulation key ek
//	  <- e, ee, psk   payload: empty; the ciphertext ct stands before the Noise message
//
// The initiator (a phone) knows the responder's (the vault's) static key from
// the fleet bundle and shows none of its own: who it is says the first inner
// message, bound to the handshake hash.
//
// P256 is ours, Noise names no such curve: public keys are uncompressed points
// of 65 bytes (SEC 1 §2.3.3), the DH output is the x-coordinate, 32 bytes.
// The state machine is flynn/noise; the static private key is a function, so
// that it can stay inside an HSM.
//
// The psk comes out of ML-KEM-768 (FIPS 203), so that whoever records a session
// today and owns a quantum computer later still cannot read it:
//
//	psk = HKDF-SHA256(ML-KEM shared secret, salt = SHA-256(ek ‖ ct), info = label, 32 bytes)
//
// This composition has no security proof of its own.
package noisenk

import (
	"crypto/hkdf"
	"crypto/mlkem"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes in bytes.
const (
	PublicKeySize = 65 // uncompressed P-256 point: 04 ‖ x ‖ y
	DHSize        = 32 // x-coordinate
	HashSize      = 32 // handshake hash
	TagSize       = 16 // AES-GCM tag: what Seal adds to a plaintext

	// e ‖ encrypted ek ‖ tag
	Message1Size = PublicKeySize + mlkem.EncapsulationKeySize768 + TagSize // 1,265
	// ct ‖ e ‖ tag of the empty payload
	Message2Size = mlkem.CiphertextSize768 + PublicKeySize + TagSize // 1,169

	// MaxFleetSize bounds the fleet id in the prologue.
	MaxFleetSize = 64
)

const (
	version  = "chatvault/1"
	kemName  = "ML-KEM-768"
	pskLabel = "chatvault/1 noise psk ML-KEM-768"
	pskSize  = 32
)

var (
	// ErrHandshake is in every error of a handshake; its text goes on with the
	// step that failed ("computing es"). For logs, never for the peer.
	ErrHandshake = errors.New("noisenk: handshake failed")

	// ErrStaticDH stands beside ErrHandshake when the static key's own function
	// failed, as when the HSM is away: not the peer's fault, worth a retry.
	ErrStaticDH = errors.New("static key operation failed")

	// ErrDecrypt says that a message of the session does not decrypt under its
	// session id, direction and sequence number.
	ErrDecrypt = errors.New("noisenk: message does not decrypt")
)

// failed names the step of a handshake that failed.
func failed(step string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrHandshake, step, err)
}

// Prologue is what both sides must agree on before the first byte: protocol
// version, KEM and fleet id, as lp("chatvault/1") ‖ lp("ML-KEM-768") ‖ lp(fleet).
// A handshake for one fleet never completes with another, even if they shared a key.
func Prologue(fleet string) []byte {
	var p []byte
	for _, s := range []string{version, kemName, fleet} {
		p = appendLP(p, s)
	}
	return p
}

// appendLP appends lp(s): u16 big-endian length, then s.
func appendLP(b []byte, s string) []byte {
	if len(s) > 0xffff {
		panic("noisenk: lp of more than 65,535 bytes")
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func checkFleet(fleet string) error {
	if len(fleet) == 0 || len(fleet) > MaxFleetSize {
		return failed("checking the fleet id", fmt.Errorf("%d bytes, want 1 to %d", len(fleet), MaxFleetSize))
	}
	return nil
}

// derivePSK mixes the transcript of the KEM (ek, ct) into the psk: the Noise
// hash covers ek, but ct travels outside of the Noise message.
func derivePSK(shared, ek, ct []byte) []byte {
	h := sha256.New()
	h.Write(ek)
	h.Write(ct)
	psk, err := hkdf.Key(sha256.New, shared, h.Sum(nil), pskLabel, pskSize)
	if err != nil {
		panic("noisenk: HKDF: " + err.Error()) // only for more than 255 blocks
	}
	return psk
}
