// Package keywrap wraps the backup key under the password's export key, on the
// client. The vault stores the result and cannot open it.
//
// The scheme commits: a ciphertext opens under one key only. With AES-GCM it
// would not, and a ciphertext made to open under many keys lets its maker test
// many passwords by one attempt (a partitioning oracle; threat A14).
package keywrap

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"chatvault/protocol/secret"
)

// Size is the length of a wrapped key: ciphertext 32 ‖ HMAC-SHA256 32.
const Size = 64

// ErrUnwrap says that the wrapped key is not one that this export key made for
// this fleet, account and generation.
var ErrUnwrap = errors.New("wrapped key does not open")

// Binding is what a wrapped key belongs to.
type Binding struct {
	Fleet      string
	Account    []byte // lp(issuer name) ‖ lp(sub)
	Generation uint64
}

// Wrap encrypts key with AES-256-CTR, IV zero, under K1, and authenticates
// lp(label) ‖ lp(fleet) ‖ lp(account) ‖ u64 generation ‖ ciphertext with
// HMAC-SHA256 under K2; K1 and K2 come from HKDF-SHA256(export key) under labels
// of their own. An export key must wrap one key only, ever: two under one would
// be a two-time pad. A new wrap takes a new registration.
func Wrap(exportKey, key secret.Key, b Binding) [Size]byte {
	enc, mac := keys(exportKey)
	var out [Size]byte
	ctr(enc, out[:32], key.B[:])
	copy(out[32:], tag(mac, b, out[:32]))
	return out
}

// Unwrap undoes Wrap, or answers ErrUnwrap.
func Unwrap(exportKey secret.Key, wrapped [Size]byte, b Binding) (secret.Key, error) {
	enc, mac := keys(exportKey)
	if !hmac.Equal(tag(mac, b, wrapped[:32]), wrapped[32:]) {
		return secret.Key{}, ErrUnwrap
	}
	var key secret.Key
	ctr(enc, key.B[:], wrapped[:32])
	return key, nil
}

func keys(exportKey secret.Key) (enc, mac []byte) {
	derive := func(info string) []byte {
		k, err := hkdf.Key(sha256.New, exportKey.B[:], nil, info, 32)
		if err != nil {
			panic("keywrap: hkdf: " + err.Error())
		}
		return k
	}
	return derive("chatvault/1 keywrap encryption"), derive("chatvault/1 keywrap authentication")
}

func ctr(key, dst, src []byte) {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("keywrap: aes: " + err.Error())
	}
	cipher.NewCTR(block, make([]byte, aes.BlockSize)).XORKeyStream(dst, src)
}

func tag(key []byte, b Binding, ciphertext []byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, field := range [][]byte{[]byte("chatvault/1 keywrap"), []byte(b.Fleet), b.Account} {
		m.Write(binary.BigEndian.AppendUint16(nil, uint16(len(field))))
		m.Write(field)
	}
	m.Write(binary.BigEndian.AppendUint64(nil, b.Generation))
	m.Write(ciphertext)
	return m.Sum(nil)
}
