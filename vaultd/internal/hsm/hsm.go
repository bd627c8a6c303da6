// Package hsm is what the vault asks of its hardware security module.
//
// The vault asks for operations, never for keys: bytes and key names go in,
// bytes come out. No object handle crosses this interface, so that the module
// that holds the keys can live in a process of its own, and so that the rules
// of the vault can be tested without a token.
//
// Implementations: p11 (PKCS#11, through cgo) and memhsm (software keys in
// memory, for development). hsmtest holds the suite that both pass.
package hsm

import "context"

// Sizes in bytes.
const (
	WrappedSize   = 80 // an OPRF key under the wrap key, as AES key wrap leaves it
	PointSize     = 33 // SEC 1 compressed
	PublicSize    = 65 // SEC 1 uncompressed
	ShareSize     = 32 // the x-coordinate of an ECDH result
	MACSize       = 32 // HMAC-SHA256
	DigestSize    = 32 // SHA-256
	SignatureSize = 64 // ES256, r ‖ s
	NonceSize     = 12 // AES-GCM
	TagSize       = 16 // AES-GCM

	// SealOverhead is how much longer a sealed text is than its plaintext.
	SealOverhead = NonceSize + TagSize
)

// Evaluator makes and uses the OPRF keys of records (RFC 9497, OPRF(P-256,
// SHA-256)). Each is made inside the module and leaves it only wrapped; the
// caller keeps the wrapped key inside a sealed record, because AES key wrap
// has no associated data of its own.
type Evaluator interface {
	// NewOPRFKey makes a key pair: the private key wrapped (WrappedSize) and
	// the public key K = kG compressed (PointSize).
	NewOPRFKey(ctx context.Context) (wrapped, public []byte, err error)

	// Evaluate is BlindEvaluate of RFC 9497 §3.3.1: k times point (PointSize,
	// as is the result). public must be the K that NewOPRFKey returned with
	// wrapped. A wrapped key that was tampered with, or that does not belong
	// to public, is ErrIntegrity. Only -K is not told from K by a module that
	// sees x-coordinates: it gives the negative product, so public must come
	// from an authenticated record, as wrapped must. Repeating a call is
	// harmless: it gives the same result.
	Evaluate(ctx context.Context, wrapped, public, point []byte) ([]byte, error)
}

// Agreer does Diffie-Hellman with the static keys.
type Agreer interface {
	// DH is DiffieHellman of RFC 9807 §6.4.1 on P-256: peer and the result are
	// compressed points (PointSize). Only Opaque.
	DH(ctx context.Context, key Key, peer []byte) ([]byte, error)

	// DHX returns the x-coordinate of the product (ShareSize), as Noise over
	// P-256 wants it; peer is uncompressed (PublicSize). Only Noise.
	DHX(ctx context.Context, key Key, peer []byte) ([]byte, error)
}

// Sealer encrypts records at rest with AES-256-GCM under the key of an epoch.
type Sealer interface {
	// Seal returns nonce ‖ ciphertext ‖ tag, SealOverhead longer than
	// plaintext. Nonces are random: an epoch must end well before 2^31 seals.
	Seal(ctx context.Context, epoch uint32, aad, plaintext []byte) ([]byte, error)

	// Open undoes Seal. Anything that Seal did not make for this epoch and
	// aad is ErrIntegrity.
	Open(ctx context.Context, epoch uint32, aad, sealed []byte) ([]byte, error)
}

// Signer authenticates what the vault says, and names its records.
type Signer interface {
	// MAC is HMAC-SHA256. Only Lookup.
	MAC(ctx context.Context, key Key, data []byte) ([MACSize]byte, error)

	// Sign is ES256 over a SHA-256 digest, as r ‖ s. Only Receipt and Audit.
	Sign(ctx context.Context, key Key, digest [DigestSize]byte) ([SignatureSize]byte, error)

	// Public is the uncompressed public key (PublicSize) of Opaque, Noise,
	// Receipt or Audit.
	Public(ctx context.Context, key Key) ([]byte, error)
}

// Module is a whole HSM. All methods may be called from any goroutine. They
// return the errors of this package, or the error of ctx when it ended before
// the module was asked; a call that is already inside the module is not cut
// short.
type Module interface {
	Evaluator
	Agreer
	Sealer
	Signer

	// Healthy asks the module for real work and says whether it was done.
	Healthy(ctx context.Context) error

	// Close ends all use of the module; afterwards everything is
	// ErrUnavailable.
	Close() error
}
