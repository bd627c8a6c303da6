package ticket

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"chatvault/protocol/secret"
)

// PublicKeySize is the size of a device's public key in bytes: an
// uncompressed P-256 point, 04 ‖ x ‖ y (SEC 1 §2.3.3).
const PublicKeySize = 65

// DeviceKey is the private P-256 key of a phone. Tickets are bound to it.
// It prints as [redacted].
type DeviceKey struct{ key *ecdsa.PrivateKey }

// NewDeviceKey makes a fresh key.
func NewDeviceKey() (DeviceKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return DeviceKey{}, fmt.Errorf("ticket: making a device key: %w", err)
	}
	return DeviceKey{key}, nil
}

// IsZero reports whether d is no key at all; every other method of a zero
// DeviceKey panics.
func (d DeviceKey) IsZero() bool { return d.key == nil }

// Public is the uncompressed public key.
func (d DeviceKey) Public() (pub [PublicKeySize]byte) {
	b, err := d.key.PublicKey.Bytes()
	if err != nil || len(b) != len(pub) {
		panic("ticket: a device key that is not on P-256")
	}
	copy(pub[:], b)
	return pub
}

// Thumbprint is what a ticket for this device carries as cnf.jkt.
func (d DeviceKey) Thumbprint() Thumbprint {
	pub := d.Public()
	return thumbprint(pub[:])
}

const devicePEM = "PRIVATE KEY" // RFC 7468 §10: PKCS #8

// MarshalPEM is the key as PKCS #8 (RFC 5958) in PEM.
func (d DeviceKey) MarshalPEM() (secret.Bytes, error) {
	der, err := x509.MarshalPKCS8PrivateKey(d.key)
	if err != nil {
		return nil, fmt.Errorf("ticket: encoding the device key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: devicePEM, Bytes: der}), nil
}

// ErrPrivateKey is returned for what is not a PEM file of one PKCS #8 P-256
// private key.
var ErrPrivateKey = errors.New("ticket: not a PEM file of one PKCS #8 P-256 private key")

// ParseDeviceKeyPEM reads what MarshalPEM wrote.
func ParseDeviceKeyPEM(b []byte) (DeviceKey, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != devicePEM || len(rest) != 0 {
		return DeviceKey{}, ErrPrivateKey
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return DeviceKey{}, ErrPrivateKey
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return DeviceKey{}, ErrPrivateKey
	}
	return DeviceKey{key}, nil
}

// Format implements fmt.Formatter for every verb.
func (DeviceKey) Format(f fmt.State, _ rune) { io.WriteString(f, secret.Redacted) }

// LogValue implements slog.LogValuer.
func (DeviceKey) LogValue() slog.Value { return slog.StringValue(secret.Redacted) }

// MarshalText keeps the key out of JSON and every other text encoding.
func (DeviceKey) MarshalText() ([]byte, error) { return []byte(secret.Redacted), nil }

// Thumbprint is the RFC 7638 thumbprint (SHA-256) of a P-256 device key.
type Thumbprint [32]byte

// String is the form of cnf.jkt: base64url without padding, 43 characters.
func (t Thumbprint) String() string { return strict64.EncodeToString(t[:]) }

// ParseThumbprint reads what String wrote, in its one spelling.
func ParseThumbprint(s string) (Thumbprint, error) {
	var t Thumbprint
	b, err := strict64.DecodeString(s)
	if err != nil || len(b) != len(t) || len(s) != strict64.EncodedLen(len(t)) {
		return t, ErrMalformed
	}
	copy(t[:], b)
	return t, nil
}

// ThumbprintOf computes the thumbprint of an uncompressed public key of
// [PublicKeySize] bytes, after checking that it is a point of P-256.
func ThumbprintOf(pub []byte) (Thumbprint, error) {
	if _, err := parsePublic(pub); err != nil {
		return Thumbprint{}, err
	}
	return thumbprint(pub), nil
}

// thumbprint hashes the JWK with its required members in lexicographic order
// and no white space (RFC 7638 §3.2 and §3.3).
func thumbprint(pub []byte) Thumbprint {
	b := append(make([]byte, 0, 160), `{"crv":"P-256","kty":"EC","x":"`...)
	b = strict64.AppendEncode(b, pub[1:33])
	b = append(b, `","y":"`...)
	b = strict64.AppendEncode(b, pub[33:65])
	return sha256.Sum256(append(b, `"}`...))
}

// parsePublic takes 04 ‖ x ‖ y on the curve and nothing else: neither the
// compressed nor the hybrid form, nor the identity.
func parsePublic(pub []byte) (*ecdsa.PublicKey, error) {
	if len(pub) != PublicKeySize || pub[0] != 4 {
		return nil, ErrDeviceKey
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), pub)
	if err != nil {
		return nil, ErrDeviceKey
	}
	return key, nil
}
