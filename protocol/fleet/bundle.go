// Package fleet is the fleet bundle: the public keys of the vaults, which
// clients get over the air and believe because two independent signers signed
// them (attack A10: a fake vault, a key pushed by whoever runs the relay, a
// retired fleet).
//
// A bundle is a C2SP signed note (https://c2sp.org/signed-note) with two
// Ed25519 signatures over a text of strict lines:
//
//	chatvault fleet bundle v1
//	fleet <id>
//	epoch <decimal>
//	not_after <RFC 3339, UTC, whole seconds>
//	noise <base64 of 65 bytes, uncompressed point>
//	opaque <base64 of 33 bytes, compressed point>
//	receipt <base64 of 65 bytes, uncompressed point>
//
// and for each previous fleet, up to four, newest first:
//
//	previous <id>
//	noise …
//	opaque …
//	receipt …
//
// Every line ends with a newline, nothing else is allowed, and what parses
// encodes to the same bytes.
package fleet

import (
	"crypto/ecdh"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Limits.
const (
	MaxSize     = 16 << 10 // bytes of a signed note, looked at before anything is parsed
	MaxPrevious = 4        // previous fleets in a bundle
	MaxIDSize   = 64       // bytes of a fleet id
)

const (
	bundleHeader = "chatvault fleet bundle v1"
	timeLayout   = "2006-01-02T15:04:05Z"
)

// The reasons to refuse a bundle, a chain of signers or pins.
var (
	// ErrFormat: not a note, not our text, a key that is no key, or too large.
	ErrFormat = errors.New("fleet: malformed")
	// ErrUnsigned: neither pinned signer has signed.
	ErrUnsigned = errors.New("fleet: signed by neither pinned signer")
	// ErrOneSignature: one pinned signer has signed, the other has not.
	ErrOneSignature = errors.New("fleet: signed by one of the two pinned signers only")
	// ErrBadSignature: a signature in a pinned signer's name is not valid.
	ErrBadSignature = errors.New("fleet: invalid signature of a pinned signer")
	// ErrEpochBack: the epoch is below the lowest that the pins allow.
	ErrEpochBack = errors.New("fleet: epoch goes back")
	// ErrExpired: not_after has passed; a newer bundle is needed.
	ErrExpired = errors.New("fleet: bundle has expired")
	// ErrFleet: the pinned fleet is neither the current nor a previous one.
	ErrFleet = errors.New("fleet: bundle of another fleet")
	// ErrPins: pins that cannot protect, as with one signer named twice.
	ErrPins = errors.New("fleet: unfit pins")
	// ErrChain: the chain of signers has a gap or is out of order.
	ErrChain = errors.New("fleet: chain of signers does not follow")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrFormat, fmt.Errorf(format, args...))
}

// Keys are the public keys that all vaults of one fleet share.
type Keys struct {
	Fleet   string   // fleet id, 1 to 64 of a-z 0-9 . -
	Noise   [65]byte // static key of the handshake, uncompressed P-256 point
	OPAQUE  [33]byte // server public key of RFC 9807, compressed P-256 point
	Receipt [65]byte // verifies receipts, uncompressed P-256 point
}

// Bundle is the current fleet's keys and those of its predecessors, which only
// recover and delete.
type Bundle struct {
	Keys               // of the current fleet
	Epoch    uint32    // at least 1, rises with every bundle
	NotAfter time.Time // encoded in UTC, whole seconds
	Previous []Keys    // newest first, at most MaxPrevious
}

// Find returns the keys of a fleet, and whether it is the current one.
func (b Bundle) Find(fleetID string) (k Keys, current, ok bool) {
	if b.Fleet == fleetID {
		return b.Keys, true, true
	}
	for _, p := range b.Previous {
		if p.Fleet == fleetID {
			return p, false, true
		}
	}
	return Keys{}, false, false
}

// Text is the text that is signed. It checks nothing: Sign does.
func (b Bundle) Text() string {
	var t strings.Builder
	fmt.Fprintf(&t, "%s\nfleet %s\nepoch %d\nnot_after %s\n", bundleHeader, b.Fleet, b.Epoch, b.NotAfter.UTC().Format(timeLayout))
	b.Keys.write(&t)
	for _, p := range b.Previous {
		fmt.Fprintf(&t, "previous %s\n", p.Fleet)
		p.write(&t)
	}
	return t.String()
}

func (k Keys) write(t *strings.Builder) {
	b64 := base64.StdEncoding.EncodeToString
	fmt.Fprintf(t, "noise %s\nopaque %s\nreceipt %s\n", b64(k.Noise[:]), b64(k.OPAQUE[:]), b64(k.Receipt[:]))
}

// Parse reads the text of a bundle; it verifies no signature. Errors are ErrFormat.
func Parse(text string) (Bundle, error) {
	if len(text) > MaxSize {
		return Bundle{}, malformed("text of %d bytes, at most %d", len(text), MaxSize)
	}
	l := lines{rest: text}
	if l.next() != bundleHeader {
		return Bundle{}, malformed("first line is not %q", bundleHeader)
	}
	var b Bundle
	b.Fleet = l.field("fleet")
	b.Epoch = l.number("epoch")
	b.NotAfter = l.time("not_after")
	l.keys(&b.Keys)
	for l.err == nil && l.rest != "" {
		var p Keys
		p.Fleet = l.field("previous")
		l.keys(&p)
		b.Previous = append(b.Previous, p)
	}
	if l.err != nil {
		return Bundle{}, l.err
	}
	if err := b.check(); err != nil {
		return Bundle{}, err
	}
	// The parts above accept some spellings that Text would not write (base64
	// with a line break in it): one comparison refuses them all.
	if b.Text() != text {
		return Bundle{}, malformed("not in canonical form")
	}
	return b, nil
}

func (b Bundle) check() error {
	if len(b.Previous) > MaxPrevious {
		return malformed("%d previous fleets, at most %d", len(b.Previous), MaxPrevious)
	}
	seen := map[string]bool{}
	for _, k := range append([]Keys{b.Keys}, b.Previous...) {
		if err := k.check(); err != nil {
			return err
		}
		if seen[k.Fleet] {
			return malformed("a fleet stands twice")
		}
		seen[k.Fleet] = true
	}
	return nil
}

func (k Keys) check() error {
	if !ValidID(k.Fleet) {
		return malformed("fleet id is not 1 to %d of a-z 0-9 . -", MaxIDSize)
	}
	if _, err := ecdh.P256().NewPublicKey(k.Noise[:]); err != nil {
		return malformed("noise: %w", err)
	}
	if x, _ := elliptic.UnmarshalCompressed(elliptic.P256(), k.OPAQUE[:]); x == nil {
		return malformed("opaque: not a compressed point")
	}
	if _, err := ecdh.P256().NewPublicKey(k.Receipt[:]); err != nil {
		return malformed("receipt: %w", err)
	}
	return nil
}

// ValidID says whether id can name a fleet: 1 to 64 of a-z 0-9 . -
func ValidID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return false
		}
	}
	return len(id) >= 1 && len(id) <= MaxIDSize
}

// lines reads a text of "key value" lines in a fixed order. The first error
// stays; after it every value is zero.
type lines struct {
	rest string
	err  error
}

func (l *lines) fail(format string, args ...any) {
	if l.err == nil {
		l.err = malformed(format, args...)
	}
}

func (l *lines) next() string {
	line, rest, ok := strings.Cut(l.rest, "\n")
	if !ok {
		l.fail("the text ends early")
		return ""
	}
	l.rest = rest
	return line
}

func (l *lines) field(key string) string {
	value, ok := strings.CutPrefix(l.next(), key+" ")
	if !ok {
		l.fail("no line %q where it belongs", key)
		return ""
	}
	return value
}

// number reads a decimal from 1 to 4,294,967,295 without leading zeros.
func (l *lines) number(key string) uint32 {
	s := l.field(key)
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || s != strconv.FormatUint(n, 10) {
		l.fail("%s: not a number from 1 to 4294967295", key)
	}
	return uint32(n)
}

func (l *lines) time(key string) time.Time {
	s := l.field(key)
	t, err := time.Parse(timeLayout, s)
	if err != nil || t.Format(timeLayout) != s {
		l.fail("%s: not a time like 2027-01-31T00:00:00Z", key)
	}
	return t
}

func (l *lines) keys(k *Keys) {
	l.bytes("noise", k.Noise[:])
	l.bytes("opaque", k.OPAQUE[:])
	l.bytes("receipt", k.Receipt[:])
}

func (l *lines) bytes(key string, to []byte) {
	b, err := base64.StdEncoding.Strict().DecodeString(l.field(key))
	if err != nil || len(b) != len(to) {
		l.fail("%s: not base64 of %d bytes", key, len(to))
		return
	}
	copy(to, b)
}
