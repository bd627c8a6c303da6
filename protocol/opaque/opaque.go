// Package opaque is OPAQUE-3DH of RFC 9807 with OPRF(P-256, SHA-256),
// HKDF-SHA256, HMAC-SHA256 and an injected KSF. It reads like sections 4 to 6
// of that RFC and keeps its names.
//
// Two things are ours. The server holds no keys: the evaluation and its static
// Diffie-Hellman are operations that the caller injects, since the keys are in
// an HSM. And the client says which server public key it expects, and takes
// no other from the envelope.
//
// What the RFC calls the password is here the OPRF input that the caller
// built from the password; it is a secret of at most 65,535 bytes.
package opaque

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
)

// Sizes of RFC 9807 section 2 for this configuration, in bytes.
const (
	Npk   = oprf.ElementSize // public keys and Diffie-Hellman results
	Nn    = 32               // nonces
	Nseed = 32               // seeds of key pairs
	Nh    = sha256.Size      // hashes and KDF outputs; Nm and Nx are the same
)

var (
	// ErrMessage says that bytes are no message: a wrong length, or an
	// element that is not one. It depends on nothing secret.
	ErrMessage = errors.New("malformed OPAQUE message")
	// ErrAuthentication is the one answer to a wrong password, a message that
	// was tampered with, a fake record and another server: who could tell
	// them apart could test passwords without an attempt.
	ErrAuthentication = errors.New("OPAQUE authentication failed")
	// ErrIdentity says that an identity or context is longer than 65,535
	// bytes.
	ErrIdentity = errors.New("identity or context too long")
	// ErrKSF says that Argon2id parameters are out of bounds.
	ErrKSF = errors.New("KSF parameters out of bounds")
)

// ExportKey is known to the client alone, after a registration and after each
// login (RFC 9807 section 4).
type ExportKey struct{ secret.Key }

// SessionKey is known to client and server after a login.
type SessionKey struct{ secret.Key }

// KSF is Stretch of RFC 9807 section 2: it makes the 32 bytes of the OPRF's
// output expensive to guess. Its output enters the key derivation and is wiped.
type KSF func(oprfOutput []byte) ([]byte, error)

// DeriveOPRFKey is the derivation of a record's OPRF key from one seed for all
// (RFC 9807 section 5.2.2). The vault does not use it: a key that can be
// derived again cannot be destroyed. The RFC's vectors do.
func DeriveOPRFKey(oprfSeed, credentialIdentifier []byte) (oprf.PrivateKey, error) {
	ikm, err := hkdf.Expand(sha256.New, oprfSeed, string(credentialIdentifier)+"OprfKey", Nseed)
	if err != nil {
		return oprf.PrivateKey{}, err
	}
	defer clear(ikm)
	key, _, err := oprf.DeriveKeyPair(ikm, []byte("OPAQUE-DeriveKeyPair"))
	return key, err
}

// deriveDiffieHellmanKeyPair is DeriveDiffieHellmanKeyPair of RFC 9807
// section 6.4.1.2.
func deriveDiffieHellmanKeyPair(seed [Nseed]byte) (oprf.PrivateKey, [Npk]byte, error) {
	sk, pk, err := oprf.DeriveKeyPair(seed[:], []byte("OPAQUE-DeriveDiffieHellmanKeyPair"))
	if err != nil {
		return sk, [Npk]byte{}, err
	}
	return sk, [Npk]byte(pk), nil
}

// diffieHellman is DiffieHellman of RFC 9807 section 6.4.1.2. For P-256 the
// result is the compressed point, not its x-coordinate.
func diffieHellman(k oprf.PrivateKey, b [Npk]byte) ([]byte, error) {
	return oprf.Evaluate(k, b[:])
}

// expand is Expand of RFC 9807 section 2 to size bytes. It fails only for more
// than 8,160.
func expand(prk []byte, info string, size int) []byte {
	out, err := hkdf.Expand(sha256.New, prk, info, size)
	if err != nil {
		panic("opaque: " + err.Error())
	}
	return out
}

func expandKey(prk secret.Key, info string) (k secret.Key) {
	copy(k.B[:], expand(prk.B[:], info, Nh))
	return k
}

// extract is Extract of RFC 9807 section 2 without a salt.
func extract(ikm []byte) (prk secret.Key) {
	out, err := hkdf.Extract(sha256.New, ikm, nil)
	if err != nil {
		panic("opaque: " + err.Error())
	}
	defer clear(out)
	copy(prk.B[:], out)
	return prk
}

// mac is MAC of RFC 9807 section 2.
func mac(key secret.Key, msg []byte) (tag [Nh]byte) {
	h := hmac.New(sha256.New, key.B[:])
	h.Write(msg)
	h.Sum(tag[:0])
	return tag
}

// identities are client_identity and server_identity of RFC 9807 section 4;
// what is absent is the public key.
type identities struct{ client, server []byte }

func newIdentities(client, clientPublicKey, server, serverPublicKey []byte) (identities, error) {
	if len(client) > math.MaxUint16 || len(server) > math.MaxUint16 {
		return identities{}, ErrIdentity
	}
	id := identities{client: client, server: server}
	if len(id.client) == 0 {
		id.client = clientPublicKey
	}
	if len(id.server) == 0 {
		id.server = serverPublicKey
	}
	return id, nil
}

// appendVector appends I2OSP(len(x), 2) and x.
func appendVector(b, x []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(x))), x...)
}

// element checks bytes that the caller injected.
func element(name string, b []byte) ([Npk]byte, error) {
	if err := oprf.CheckElement(b); err != nil {
		return [Npk]byte{}, fmt.Errorf("%s: %w", name, err)
	}
	return [Npk]byte(b), nil
}
