package backupfile

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"chatvault/protocol/secret"
)

const (
	keyDigits   = 64
	checkDigits = 4
)

// ErrCheckGroup: the recovery key has the right length, and a digit of it, or
// of its check group, is mistyped.
var ErrCheckGroup = errors.New("recovery key does not fit its check group: a digit is mistyped")

// KeyLengthError is a recovery key that is too short or too long.
type KeyLengthError struct {
	Digits int // without spaces and dashes
}

func (e *KeyLengthError) Error() string {
	if e.Digits < keyDigits {
		return fmt.Sprintf("recovery key has %d of %d digits", e.Digits, keyDigits)
	}
	return fmt.Sprintf("recovery key has %d digits; it has %d, or %d with its check group",
		e.Digits, keyDigits, keyDigits+checkDigits)
}

// KeyCharError is a character that no recovery key holds. It does not say
// which: the text is a secret, typed in the wrong field perhaps.
type KeyCharError struct {
	Position int // characters from the start of the text, counted from 1
	Digit    int // digits before it, plus 1
}

func (e *KeyCharError) Error() string {
	return fmt.Sprintf("recovery key has a wrong character at position %d (digit %d)", e.Position, e.Digit)
}

// FormatRecoveryKey writes the backup key as 64 hexadecimal digits in 16
// groups of four, then " - " and the check group: 86 characters of ASCII.
func FormatRecoveryKey(key BackupKey) secret.Bytes {
	var digits [keyDigits]byte
	hex.Encode(digits[:], key.B[:])
	out := make(secret.Bytes, 0, keyDigits+keyDigits/4+6)
	for i := 0; i < keyDigits; i += 4 {
		out = append(append(out, digits[i:i+4]...), ' ')
	}
	group := CheckGroup(key)
	return append(append(out, "- "...), group[:]...)
}

// CheckGroup returns four decimal digits by which a mistyped recovery key is
// noticed, 9,999 times in 10,000: SHA-256(label ‖ key), its first 8 bytes as a
// big-endian integer modulo 10,000. They tell something about the key, and
// belong nowhere but beside it.
func CheckGroup(key BackupKey) [checkDigits]byte {
	sum := sha256.Sum256(append([]byte(labelGroup), key.B[:]...))
	var out [checkDigits]byte
	copy(out[:], fmt.Sprintf("%04d", binary.BigEndian.Uint64(sum[:])%10000))
	return out
}

// ParseRecoveryKey reads what a person types or scans: in either case, with
// spaces, line ends and dashes anywhere, O for 0, and l or I for 1. The check
// group may be missing; checked says whether it was there, and it fitted. The
// error is a *KeyLengthError, a *KeyCharError or ErrCheckGroup.
func ParseRecoveryKey(text string) (key BackupKey, checked bool, err error) {
	digits := make([]byte, 0, keyDigits+checkDigits)
	defer func() { clear(digits) }()
	count, position := 0, 0
	for _, c := range text {
		position++
		if unicode.IsSpace(c) || unicode.Is(unicode.Pd, c) || c == '\u2212' /* minus */ || c == '\ufeff' {
			continue
		}
		d, ok := keyDigit(c)
		if !ok || (count >= keyDigits && d > '9') {
			return BackupKey{}, false, &KeyCharError{Position: position, Digit: count + 1}
		}
		if count++; count <= keyDigits+checkDigits {
			digits = append(digits, d)
		}
	}
	if count != keyDigits && count != keyDigits+checkDigits {
		return BackupKey{}, false, &KeyLengthError{Digits: count}
	}
	if _, err := hex.Decode(key.B[:], digits[:keyDigits]); err != nil {
		panic("backupfile: " + err.Error()) // keyDigit returns nothing else
	}
	if count == keyDigits {
		return key, false, nil
	}
	group := CheckGroup(key)
	if !secret.Bytes(group[:]).Equal(digits[keyDigits:]) {
		return BackupKey{}, false, ErrCheckGroup
	}
	return key, true, nil
}

// keyDigit maps to 0-9a-f. The letters O, I and L are no hexadecimal digits,
// so they can only be misread ones.
func keyDigit(c rune) (byte, bool) {
	switch {
	case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
		return byte(c), true
	case c >= 'A' && c <= 'F':
		return byte(c) - 'A' + 'a', true
	case c < 0x80 && strings.ContainsRune("oO", c):
		return '0', true
	case c < 0x80 && strings.ContainsRune("iIlL", c):
		return '1', true
	}
	return 0, false
}
