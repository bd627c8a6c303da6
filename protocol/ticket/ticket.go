// Package ticket mints and verifies tickets: the short-lived JWTs with which
// an app's own login opens the door to its backup.
//
// A ticket is a JWS in compact serialization (RFC 7515 §3.1) of at most
// [MaxSize] bytes. Its protected header has exactly the members alg (ES256 or
// EdDSA), typ ([Type]) and, if the issuer has several keys, kid. Its claims:
//
//	iss      required; one of the configured values of an issuer's name
//	sub      required; the account, opaque, 1 to 256 bytes of UTF-8
//	aud      required; the fleet id, or an array of one or two of them
//	iat      required; whole seconds, at most 60 s ahead of the verifier
//	exp      required; whole seconds, after iat and at most 1 hour after it
//	nbf      optional; whole seconds, at most 60 s ahead of the verifier
//	cnf.jkt  required; RFC 7638 thumbprint of the device key (P-256)
//
// Other claims are ignored. The clock has no leeway but those 60 s ahead: a
// ticket is over in the second that exp names.
//
// A ticket is a bearer of nothing by itself: whoever presents it proves that
// it holds the device key, to the relay with [SignRelayAuth], to the vault,
// again, with [SignVaultAuth].
//
// No error of this package holds any part of a ticket.
package ticket

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// Type is the required typ header: a token minted for another purpose by
	// the same key is not a ticket.
	Type = "chatvault-ticket+jwt"

	// MaxSize is the size of the longest ticket, in bytes.
	MaxSize = 2048
	// MaxSubject is the size of the longest sub, in bytes.
	MaxSubject = 256
	// MaxAudience is how many fleets a ticket may name: two, for a rotation.
	MaxAudience = 2
	// MaxLifetime is the longest time between iat and exp.
	MaxLifetime = time.Hour
	// MaxAhead is how far iat and nbf may lie in the verifier's future.
	MaxAhead = 60 * time.Second

	maxIssuer = 256 // bytes of an iss value
	maxFleet  = 128 // bytes of an aud entry
	maxKeyID  = 256 // bytes of a kid
	maxName   = 128 // bytes of a configured issuer name
)

// What is wrong with a ticket, to be told apart with errors.Is. The texts are
// for people; they are constants, never an echo of the ticket.
var (
	ErrMalformed = errors.New("ticket: malformed: want three base64url parts of strict JSON, at most 2048 bytes")
	ErrType      = errors.New("ticket: typ is not " + Type)
	ErrAlgorithm = errors.New("ticket: alg is not the one of the issuer's key: ES256 (P-256) or EdDSA (Ed25519)")
	ErrIssuer    = errors.New("ticket: iss is missing, or no configured issuer has it")
	ErrKey       = errors.New("ticket: the issuer has no key of this kid")
	ErrSignature = errors.New("ticket: the signature is wrong")
	ErrSubject   = errors.New("ticket: sub is missing, longer than 256 bytes, or not plain UTF-8")
	ErrAudience  = errors.New("ticket: aud does not name this fleet, or names more than two")
	ErrNoExpiry  = errors.New("ticket: exp is missing")
	ErrExpired   = errors.New("ticket: exp has passed")
	ErrNotYet    = errors.New("ticket: iat or nbf is more than 60 s in the future")
	ErrLifetime  = errors.New("ticket: iat is missing, or exp is not within 1 hour after iat")
	ErrDevice    = errors.New("ticket: cnf.jkt is missing, or is not the thumbprint of this device key")
	ErrProof     = errors.New("ticket: the proof of the device key is wrong")
	ErrDeviceKey = errors.New("ticket: not a P-256 public key of 65 bytes, uncompressed")

	// ErrUnavailable: the issuer's keys could not be had. It says nothing
	// about the ticket; the same one may pass later.
	ErrUnavailable = errors.New("ticket: the issuer's keys cannot be had now")
)

// Claims is what a ticket says. A zero field is a missing claim.
type Claims struct {
	Issuer    string
	Subject   string
	Audience  []string
	IssuedAt  time.Time
	NotBefore time.Time // optional
	Expires   time.Time
	Device    Thumbprint
}

// Check applies every rule that needs no key: the claims themselves, the time,
// and, unless fleets is nil, that aud names one of them. It returns the first
// rule broken.
func (c Claims) Check(now time.Time, fleets []string) error {
	if err := c.checkShape(); err != nil {
		return err
	}
	if fleets != nil && len(intersect(fleets, c.Audience)) == 0 {
		return ErrAudience
	}
	if !now.Before(c.Expires) {
		return ErrExpired
	}
	// A ticket dated ahead would outlive its hour (A15).
	if c.IssuedAt.After(now.Add(MaxAhead)) || c.NotBefore.After(now.Add(MaxAhead)) {
		return ErrNotYet
	}
	return nil
}

// checkShape applies the rules that hold at any time: what Mint refuses to
// sign.
func (c Claims) checkShape() error {
	if c.Issuer == "" || len(c.Issuer) > maxIssuer {
		return ErrIssuer
	}
	if !validSubject(c.Subject) {
		return ErrSubject
	}
	if len(c.Audience) == 0 || len(c.Audience) > MaxAudience {
		return ErrAudience
	}
	for _, fleet := range c.Audience {
		if fleet == "" || len(fleet) > maxFleet {
			return ErrAudience
		}
	}
	// A missing exp is a ticket for ever (A15).
	if c.Expires.IsZero() {
		return ErrNoExpiry
	}
	if c.IssuedAt.IsZero() || !c.Expires.After(c.IssuedAt) || c.Expires.Sub(c.IssuedAt) > MaxLifetime {
		return ErrLifetime
	}
	if c.Device == (Thumbprint{}) {
		return ErrDevice
	}
	return nil
}

// validSubject refuses U+FFFD besides invalid UTF-8: JSON decoders put it in
// place of a lone surrogate, and two accounts would become one.
func validSubject(sub string) bool {
	return sub != "" && len(sub) <= MaxSubject && utf8.ValidString(sub) && !strings.ContainsRune(sub, utf8.RuneError)
}

func intersect(own, named []string) []string {
	var both []string
	for _, o := range own {
		for _, n := range named {
			if o == n {
				both = append(both, o)
				break
			}
		}
	}
	return both
}

// Account is whose backup it is: the configured issuer name, not its iss
// value, so that renaming an issuer's URL orphans nobody; and the sub.
type Account struct {
	Issuer  string
	Subject string
}

// Bytes is lp(issuer name) ‖ lp(sub), lp(x) being the length of x as a
// big-endian u16, then x.
func (a Account) Bytes() []byte {
	return appendLP(appendLP(nil, []byte(a.Issuer)), []byte(a.Subject))
}

// Hash is SHA-256 of Bytes: how logs and receipts name an account.
func (a Account) Hash() [32]byte { return sha256.Sum256(a.Bytes()) }

// appendLP appends the length of x as a big-endian u16, then x. Every caller
// bounds x before: a longer one is a bug.
func appendLP(b, x []byte) []byte {
	if len(x) > 0xffff {
		panic("ticket: field over 65535 bytes")
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(x))), x...)
}

// Hash is SHA-256 of the ticket as it was sent: what the proofs of possession
// bind to it.
func Hash(ticket string) [32]byte {
	return sha256.Sum256(append(make([]byte, 0, 1<<10), ticket...)) // on the stack, if it fits
}
