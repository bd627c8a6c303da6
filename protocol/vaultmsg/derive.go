package vaultmsg

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"

	"chatvault/protocol/opaque"
	"chatvault/protocol/secret"
)

// Suite is the name of the cipher suite in the OPAQUE context.
const Suite = "OPAQUE-3DH P256-SHA256 HKDF-SHA256 HMAC-SHA256 Argon2id"

// ErrRelease says that a released key does not open under this session key and
// attempt.
var ErrRelease = errors.New("released key does not open")

// OPRFInput is what the password becomes before it is blinded: lp(password) ‖
// lp(fleet) ‖ lp(issuer name) ‖ lp(sub). Bound like this, an evaluation for one
// account or fleet says nothing about another.
func OPRFInput(password []byte, fleet, issuer, subject string) secret.Bytes {
	w := &writer{}
	w.lp(string(password), 1, 1024)
	w.lp(fleet, 1, 64)
	w.lp(issuer, 1, MaxIssuerName)
	w.lp(subject, 1, 256)
	return w.b
}

// ClientIdentity is OPAQUE's client_identity: lp(issuer name) ‖ lp(sub) ‖ u64
// generation. The generation makes an envelope of one registration useless
// under another.
func ClientIdentity(issuer, subject string, generation uint64) []byte {
	w := &writer{}
	w.lp(issuer, 1, MaxIssuerName)
	w.lp(subject, 1, 256)
	w.u64(generation)
	return w.b
}

// Context is OPAQUE's context, in the login AKE only: lp("chatvault/1") ‖
// lp(suite) ‖ lp(m, t, p) ‖ lp(h). The handshake hash binds the AKE to the
// vault session, so that a KE2 cannot be carried from one session to another.
func Context(ksf opaque.Argon2id, handshakeHash [32]byte) []byte {
	k := &writer{}
	k.ksf(ksf)
	w := &writer{}
	w.lp("chatvault/1", 1, 64)
	w.lp(Suite, 1, 64)
	w.lp(string(k.b), 9, 9)
	w.lp(string(handshakeHash[:]), 32, 32)
	return w.b
}

// AttemptID names an attempt: SHA-256 of lp("chatvault/1 attempt") ‖ u64
// generation ‖ device thumbprint 32 ‖ blinded element 33. The same element
// under the same key tells nothing new, so it is the same attempt.
func AttemptID(generation uint64, device Thumbprint, blinded [33]byte) [32]byte {
	w := &writer{}
	w.lp("chatvault/1 attempt", 1, 64)
	w.u64(generation)
	w.bytes(device[:])
	w.bytes(blinded[:])
	return sha256.Sum256(w.b)
}

// SealRelease encrypts a record's wrap for the client that has just proved its
// password: AES-256-GCM, nonce zero, no associated data, under
// HKDF-SHA256(session key, salt = attempt id, info = "chatvault/1 release").
// The session key of an AKE is used for one release only.
func SealRelease(sessionKey secret.Key, attempt [32]byte, wrap [WrapSize]byte) [ReleaseSize]byte {
	aead := releaseAEAD(sessionKey, attempt)
	var out [ReleaseSize]byte
	aead.Seal(out[:0], make([]byte, aead.NonceSize()), wrap[:], nil)
	return out
}

// OpenRelease undoes SealRelease.
func OpenRelease(sessionKey secret.Key, attempt [32]byte, release [ReleaseSize]byte) ([WrapSize]byte, error) {
	aead := releaseAEAD(sessionKey, attempt)
	var out [WrapSize]byte
	if _, err := aead.Open(out[:0], make([]byte, aead.NonceSize()), release[:], nil); err != nil {
		return [WrapSize]byte{}, ErrRelease
	}
	return out, nil
}

func releaseAEAD(sessionKey secret.Key, attempt [32]byte) cipher.AEAD {
	key, err := hkdf.Key(sha256.New, sessionKey.B[:], attempt[:], "chatvault/1 release", 32)
	if err != nil {
		panic("vaultmsg: hkdf: " + err.Error())
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("vaultmsg: aes: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("vaultmsg: gcm: " + err.Error())
	}
	return aead
}
