package vaultmsg

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"math/big"

	"chatvault/protocol/opaque"
)

// Receipt is the vault's signed word that a registration is stored. Fleet and
// account are not carried: both sides know them, and the signature covers them.
type Receipt struct {
	ID               RegistrationID
	BodyHash         [HashSize]byte // of the RegisterFinish that was stored
	Generation       uint64
	Replaced         uint64 // the generation that this one replaced, 0 for none
	ReplacedFailures uint32 // charges without success on the replaced one
	Owner            Thumbprint
	Time             uint64
	Signature        [64]byte // ES256 by the fleet's receipt key
}

// ErrReceipt says that a receipt was not signed by the fleet's receipt key for
// this account.
var ErrReceipt = errors.New("receipt does not verify")

// Digest is what the vault signs: SHA-256 of lp("chatvault/1 receipt") ‖
// lp(fleet) ‖ account hash ‖ the fields, in order.
func (m Receipt) Digest(fleet string, account [32]byte) [32]byte {
	w := &writer{}
	w.lp("chatvault/1 receipt", 1, 64)
	w.lp(fleet, 1, 64)
	w.bytes(account[:])
	m.signedFields(w)
	return sha256.Sum256(w.b)
}

// Verify checks the signature with the receipt key of the fleet bundle
// (uncompressed, 65 bytes).
func (m Receipt) Verify(receiptKey []byte, fleet string, account [32]byte) error {
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), receiptKey)
	if err != nil {
		return ErrReceipt
	}
	digest := m.Digest(fleet, account)
	r, s := new(big.Int).SetBytes(m.Signature[:32]), new(big.Int).SetBytes(m.Signature[32:])
	if !ecdsa.Verify(pub, digest[:], r, s) {
		return ErrReceipt
	}
	return nil
}

// BodyHash is SHA-256(RegistrationRecord ‖ wrap ‖ KSF): what a receipt and a
// status say of the registration that is stored.
func (m RegisterFinish) BodyHash() [HashSize]byte {
	return BodyHash(m.Record, m.Wrap, m.KSF)
}

// BodyHash hashes the parts of a registration that the client made.
func BodyHash(record [opaque.RegistrationRecordSize]byte, wrap [WrapSize]byte, ksf opaque.Argon2id) [HashSize]byte {
	w := &writer{}
	w.bytes(record[:])
	w.bytes(wrap[:])
	w.ksf(ksf)
	return sha256.Sum256(w.b)
}

func (m Receipt) signedFields(w *writer) {
	w.bytes(m.ID[:])
	w.bytes(m.BodyHash[:])
	w.u64(m.Generation)
	w.u64(m.Replaced)
	w.u32(m.ReplacedFailures)
	w.bytes(m.Owner[:])
	w.u64(m.Time)
}

func (m Receipt) fields(w *writer) {
	m.signedFields(w)
	w.bytes(m.Signature[:])
}

// Encode returns the receipt's 172 bytes, for a client to keep.
func (m Receipt) Encode() []byte {
	w := &writer{}
	m.fields(w)
	return w.b
}

// ParseReceipt reads what Encode wrote.
func ParseReceipt(b []byte) (Receipt, error) {
	r := &reader{b: b}
	m := parseReceipt(r).(Receipt)
	if r.bad || len(r.b) != 0 {
		return Receipt{}, ErrMalformed
	}
	return m, nil
}

func parseReceipt(r *reader) Body {
	var m Receipt
	r.copy(m.ID[:])
	r.copy(m.BodyHash[:])
	m.Generation, m.Replaced, m.ReplacedFailures = r.u64(), r.u64(), r.u32()
	r.copy(m.Owner[:])
	m.Time = r.u64()
	r.copy(m.Signature[:])
	return m
}
