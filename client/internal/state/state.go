// Package state is what a client keeps between two runs, as versioned JSON.
package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"chatvault/protocol/opaque"
	"chatvault/protocol/secret"
	"chatvault/protocol/vaultmsg"
)

// Version is the version that Encode writes and Parse reads.
const Version = 1

// maxSize bounds what is parsed, in bytes.
const maxSize = 1 << 20

// ErrFormat says that the bytes are not a state of this version.
var ErrFormat = errors.New("not a client state of version 1")

// State is everything. Its zero value is a new client's.
//
// Nothing in it lets anybody test passwords offline:
//
//   - A Blind is a random scalar that says nothing about any password. The
//     blinded element is not kept beside it, because the two together would be
//     such a test (see package oprf).
//   - A Pending registration can be tested only with its OPRF key, which the
//     vault's HSM made and keeps.
type State struct {
	Version int `json:"version"`
	// Issuer and Subject are the account, once something was registered or
	// recovered.
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"subject,omitempty"`
	// Bundle is the last fleet bundle accepted, MinEpoch the highest epoch.
	Bundle   []byte `json:"bundle,omitempty"`
	MinEpoch uint32 `json:"min_epoch,omitempty"`
	// Fleets holds what is known about the account's record at each fleet.
	Fleets map[string]*Fleet `json:"fleets,omitempty"`
}

// Fleet is what is known about the account's record at one fleet.
type Fleet struct {
	// Generation is the highest seen.
	Generation uint64      `json:"generation,omitempty"`
	Registered *Registered `json:"registered,omitempty"`
	Pending    *Pending    `json:"pending,omitempty"`
	// Blind is that of attempts without a verdict, 32 bytes.
	Blind Secret `json:"blind,omitempty"`
}

// Registered is the registration that this device made or recovered from last:
// the one whose backup key it encrypts under.
type Registered struct {
	ID         Hex    `json:"id"`
	BodyHash   Hex    `json:"body_hash"`
	Generation uint64 `json:"generation"`
	Receipt    []byte `json:"receipt,omitempty"` // absent after a recovery
}

// Pending is a registration whose RegisterFinish was sent, or may have been, and
// whose outcome is not known.
type Pending struct {
	ID         Hex    `json:"id"`
	Generation uint64 `json:"generation"` // that it makes
	Replaces   bool   `json:"replaces"`   // the generation before was live
	Record     Secret `json:"record"`
	Wrap       Secret `json:"wrap"`
	MemoryKiB  uint32 `json:"memory_kib"`
	Time       uint32 `json:"time"`
	Lanes      uint8  `json:"lanes"`
}

// NewPending keeps the RegisterFinish that is about to be sent.
func NewPending(m vaultmsg.RegisterFinish, generation uint64, replaces bool) *Pending {
	return &Pending{
		ID: m.ID[:], Generation: generation, Replaces: replaces,
		Record: m.Record[:], Wrap: m.Wrap[:],
		MemoryKiB: m.KSF.MemoryKiB, Time: m.KSF.Time, Lanes: m.KSF.Parallelism,
	}
}

// Finish is the RegisterFinish, to the byte as it was first sent.
func (p *Pending) Finish() vaultmsg.RegisterFinish {
	return vaultmsg.RegisterFinish{
		ID:     vaultmsg.RegistrationID(p.ID),
		Record: [opaque.RegistrationRecordSize]byte(p.Record),
		Wrap:   [vaultmsg.WrapSize]byte(p.Wrap),
		KSF:    opaque.Argon2id{MemoryKiB: p.MemoryKiB, Time: p.Time, Parallelism: p.Lanes},
	}
}

// At returns what is known about a fleet, to be changed in place.
func (s *State) At(fleet string) *Fleet {
	if s.Fleets == nil {
		s.Fleets = map[string]*Fleet{}
	}
	if s.Fleets[fleet] == nil {
		s.Fleets[fleet] = &Fleet{}
	}
	return s.Fleets[fleet]
}

// Encode returns the JSON.
func (s *State) Encode() ([]byte, error) {
	s.Version = Version
	return json.Marshal(s)
}

// Parse reads what Encode wrote; nothing stored is a new client's state. Every
// error wraps ErrFormat.
func Parse(b []byte) (*State, error) {
	if len(b) == 0 {
		return &State{Version: Version}, nil
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	}
	// The version alone first: a newer state has fields that this one lacks.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if head.Version != Version {
		return nil, fmt.Errorf("%w: version %d", ErrFormat, head.Version)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	s := &State{}
	if err := d.Decode(s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows it", ErrFormat)
	}
	for name, f := range s.Fleets {
		if err := f.check(); err != nil {
			return nil, fmt.Errorf("%w: fleet %q: %w", ErrFormat, name, err)
		}
	}
	return s, nil
}

// check makes the conversions of Finish and of the caller safe.
func (f *Fleet) check() error {
	switch {
	case f == nil:
		return errors.New("null")
	case len(f.Blind) != 0 && len(f.Blind) != 32:
		return errors.New("blind of a wrong size")
	case f.Registered != nil && (len(f.Registered.ID) != vaultmsg.RegistrationIDSize || len(f.Registered.BodyHash) != vaultmsg.HashSize):
		return errors.New("registration of a wrong size")
	case f.Pending != nil && (len(f.Pending.ID) != vaultmsg.RegistrationIDSize ||
		len(f.Pending.Record) != opaque.RegistrationRecordSize || len(f.Pending.Wrap) != vaultmsg.WrapSize):
		return errors.New("pending registration of a wrong size")
	}
	return nil
}

// Hex is bytes that stand as hexadecimal digits, for people who look.
type Hex []byte

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%x", []byte(h)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) error {
	if _, err := fmt.Sscanf(string(text), "%x", (*[]byte)(h)); err != nil {
		return err
	}
	if again, _ := h.MarshalText(); !bytes.Equal(again, text) {
		return errors.New("not lower-case hexadecimal digits")
	}
	return nil
}

// Secret is bytes that are written to the Store and nowhere else: they print as
// [redacted], in JSON they are base64.
type Secret []byte

// Format implements fmt.Formatter for every verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, secret.Redacted) }
