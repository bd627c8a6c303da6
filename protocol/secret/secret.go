// Package secret holds the types that every secret of the project is built
// from. They print as [redacted] however they are printed: %v, %x, slog, JSON.
//
// One way around them is left: fmt calls no methods on unexported fields, so a
// struct that holds a secret in one prints it. A type that may ever be printed
// and does so needs a Format of its own.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what stands in place of a secret wherever one is printed.
const Redacted = "[redacted]"

// Key is a secret of 32 bytes. Embed it to make a type per key:
//
//	type BackupKey struct{ secret.Key }
//
// The methods have value receivers: a pointer receiver would leak the bytes
// when a struct that holds the key is printed by value.
type Key struct{ B [32]byte }

// Bytes is a secret of any length.
type Bytes []byte

// Equal compares in constant time.
func (k Key) Equal(o Key) bool { return subtle.ConstantTimeCompare(k.B[:], o.B[:]) == 1 }

// Wipe overwrites the key. Copies that Go or a library made are out of reach.
func (k *Key) Wipe() { clear(k.B[:]) }

// Format implements fmt.Formatter for every verb.
func (Key) Format(f fmt.State, _ rune) { io.WriteString(f, Redacted) }

// LogValue implements slog.LogValuer.
func (Key) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText keeps the key out of JSON and every other text encoding.
func (Key) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// Equal compares in constant time; the lengths are not secret.
func (b Bytes) Equal(o Bytes) bool { return subtle.ConstantTimeCompare(b, o) == 1 }

// Wipe overwrites the bytes.
func (b Bytes) Wipe() { clear(b) }

// Format implements fmt.Formatter for every verb.
func (Bytes) Format(f fmt.State, _ rune) { io.WriteString(f, Redacted) }

// LogValue implements slog.LogValuer.
func (Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText keeps the bytes out of JSON and every other text encoding.
func (Bytes) MarshalText() ([]byte, error) { return []byte(Redacted), nil }
