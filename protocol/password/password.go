// Package password is the one normalisation of passwords, the same in every
// client. Another keyboard, another system or another input method composes the
// same characters from other bytes; without one normalisation that is ten wrong
// passwords, and the backup key is destroyed.
//
// A normalised password is UTF-8, from which
//
//  1. every space (general category Zs, among them U+00A0 and U+3000) has become U+0020,
//  2. Normalization Form C (UAX #15) has been made.
//
// These are the mappings of RFC 8265 §4.2 (OpaqueString). Its character classes
// are not applied: an emoji with U+200D, a private-use or a not yet assigned
// character stays as it is. Case stays, and spaces at either end stay.
//
// Refused are
//
//   - what is not UTF-8, surrogates among it, and U+FFFD, which stands where
//     something else failed to decode (an unpaired surrogate in a browser),
//   - controls (Cc, so tab and every ASCII line break) and U+2028, U+2029,
//   - noncharacters (U+FDD0 to U+FDEF, and the last two of each plane): no
//     keyboard types them, and libraries disagree about passing them on,
//   - less than 1 or more than 1,024 bytes after normalisation,
//   - more than 12 combining marks (category M) in a row after normalisation:
//     some libraries, x/text among them, insert U+034F after 30 (UAX #15 §13),
//     others do not, and the same password would come out different.
//
// A client checks for unpaired surrogates before it encodes: most encoders
// replace them without a word.
package password

import (
	"fmt"
	"io"
	"log/slog"
	"unicode"
	"unicode/utf8"

	"chatvault/protocol/secret"

	"golang.org/x/text/unicode/norm"
)

// Limits.
const (
	MaxSize  = 1024 // bytes after normalisation
	MaxMarks = 12   // combining marks in a row, after normalisation

	// maxRaw is looked at first. It refuses nothing that could be MaxSize bytes
	// in the end: a character of at least one byte has at most four others of at
	// most four bytes in its decomposition.
	maxRaw = 16 * MaxSize
)

// Class names a reason to refuse, in vectors and in other languages.
type Class string

// Error is a refusal. Its text is fit for the person who typed the password and
// holds nothing of it.
type Error struct {
	Class  Class
	advice string
}

func (e *Error) Error() string { return "password: " + e.advice }

// The refusals.
var (
	ErrEmpty        = &Error{"empty", "it is empty: type at least one character"}
	ErrTooLong      = &Error{"too_long", "it is longer than 1,024 bytes: choose a shorter one"}
	ErrEncoding     = &Error{"encoding", "it is not valid UTF-8 text: type it again, or save the file as UTF-8"}
	ErrControl      = &Error{"control", "it contains a tab, a line break or another control character: leave it out"}
	ErrNoncharacter = &Error{"noncharacter", "it contains a code that is no character: leave it out"}
	ErrMarks        = &Error{"marks", "it contains more than 12 accents on one character: use fewer"}
)

// Password is a normalised password; only Normalize makes one. It prints as
// [redacted]. Inside of an unexported field, where fmt calls no methods, it
// prints as the address of a function: hence a function, fmt follows pointers.
type Password struct{ reveal func() secret.Bytes }

// Normalize returns the password that raw, UTF-8, stands for, or an *Error.
// It neither keeps nor changes raw. Normalising twice changes nothing.
func Normalize(raw []byte) (Password, error) {
	if len(raw) > maxRaw {
		return Password{}, ErrTooLong
	}
	if !utf8.Valid(raw) {
		return Password{}, ErrEncoding
	}
	mapped := make([]byte, 0, len(raw)) // a space only gets shorter
	defer func() { clear(mapped) }()
	for _, r := range string(raw) {
		if err := check(r); err != nil {
			return Password{}, err
		}
		if unicode.Is(unicode.Zs, r) {
			r = ' '
		}
		mapped = utf8.AppendRune(mapped, r)
	}
	out := norm.NFC.Append(nil, mapped...)
	if err := checkWhole(out); err != nil {
		clear(out)
		return Password{}, err
	}
	return Password{func() secret.Bytes { return out }}, nil
}

func check(r rune) error {
	switch {
	case r == utf8.RuneError:
		return ErrEncoding
	case unicode.Is(unicode.Cc, r), r == '\u2028', r == '\u2029':
		return ErrControl
	case r >= 0xfdd0 && r <= 0xfdef, r&0xfffe == 0xfffe:
		return ErrNoncharacter
	}
	return nil
}

func checkWhole(normalised []byte) error {
	if len(normalised) == 0 {
		return ErrEmpty
	}
	if len(normalised) > MaxSize {
		return ErrTooLong
	}
	marks := 0
	for _, r := range string(normalised) {
		if !unicode.Is(unicode.M, r) {
			marks = 0
		} else if marks++; marks > MaxMarks {
			return ErrMarks
		}
	}
	return nil
}

// Bytes are the normalised bytes, 1 to 1,024, nil for the zero Password. They
// are the password's own: Wipe clears them.
func (p Password) Bytes() secret.Bytes {
	if p.reveal == nil {
		return nil
	}
	return p.reveal()
}

// Equal compares in constant time; the lengths are not secret.
func (p Password) Equal(o Password) bool { return p.Bytes().Equal(o.Bytes()) }

// Wipe overwrites the password. Copies that Go or a library made are out of reach.
func (p Password) Wipe() { p.Bytes().Wipe() }

// Format implements fmt.Formatter for every verb.
func (Password) Format(f fmt.State, _ rune) { io.WriteString(f, secret.Redacted) }

// LogValue implements slog.LogValuer.
func (Password) LogValue() slog.Value { return slog.StringValue(secret.Redacted) }

// MarshalText keeps the password out of JSON and every other text encoding.
func (Password) MarshalText() ([]byte, error) { return []byte(secret.Redacted), nil }
