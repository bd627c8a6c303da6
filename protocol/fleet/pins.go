package fleet

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Pins are what a client trusts before it has spoken to anybody: the file of
// the CLI's --fleet, or a constant of an app. As JSON, with no other field:
//
//	{"fleet": "…", "min_epoch": 1, "signers": ["name+hash+key", "name+hash+key"], "sequence": 0}
//
// A client raises them (Raise, Follow) and stores them back.
type Pins struct {
	// Fleet is the fleet that the client uses. A bundle must name it as the
	// current or as a previous fleet.
	Fleet string
	// MinEpoch is the lowest epoch accepted, at least 1: the highest seen so far.
	MinEpoch uint32
	// Signers are two note verifier keys with distinct names and distinct keys.
	Signers [2]string
	// Sequence is the number of the change of signers that made these two; 0,
	// and absent in JSON, for the first pair. Without it an old change could be
	// played back after two changes that returned to an earlier pair.
	Sequence uint32
}

// Open verifies a bundle: signed by both pinned signers, of a fleet and epoch
// that the pins allow, not expired. Other signatures are ignored, so a
// bundle can carry those of old and new signers. Fails closed.
func (p Pins) Open(signed []byte, now time.Time) (Bundle, error) {
	if err := p.check(); err != nil {
		return Bundle{}, err
	}
	text, err := openBoth(p.Signers, signed)
	if err != nil {
		return Bundle{}, err
	}
	b, err := Parse(text)
	if err != nil {
		return Bundle{}, err
	}
	if _, _, ok := b.Find(p.Fleet); !ok {
		return Bundle{}, fmt.Errorf("%w: %s does not name %s", ErrFleet, b.Fleet, p.Fleet)
	}
	if b.Epoch < p.MinEpoch {
		return Bundle{}, fmt.Errorf("%w: %d, seen %d", ErrEpochBack, b.Epoch, p.MinEpoch)
	}
	if now.After(b.NotAfter) {
		return Bundle{}, fmt.Errorf("%w: at %s", ErrExpired, b.NotAfter.Format(timeLayout))
	}
	return b, nil
}

// Raise returns the pins after a bundle was opened with them: no lower epoch
// is accepted again.
func (p Pins) Raise(b Bundle) Pins {
	p.MinEpoch = max(p.MinEpoch, b.Epoch)
	return p
}

// openBoth returns the text of a note that both signers have signed.
// note.Open is content with one signature, so the names are counted here.
func openBoth(signers [2]string, signed []byte) (string, error) {
	if len(signed) > MaxSize {
		return "", malformed("signed note of %d bytes, at most %d", len(signed), MaxSize)
	}
	a, b, err := verifierPair(signers)
	if err != nil {
		return "", err
	}
	n, err := note.Open(signed, note.VerifierList(a, b))
	if _, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		return "", ErrUnsigned
	}
	if bad, ok := errors.AsType[*note.InvalidSignatureError](err); ok {
		return "", fmt.Errorf("%w: %s", ErrBadSignature, bad.Name)
	}
	if err != nil {
		return "", malformed("signed note: %w", err)
	}
	have := map[string]bool{}
	for _, s := range n.Sigs {
		// note lets the last bits of base64 vary.
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return "", malformed("signature of %s: %w", s.Name, err)
		}
		have[s.Name] = true
	}
	for _, v := range []note.Verifier{a, b} {
		if !have[v.Name()] {
			return "", fmt.Errorf("%w: %s is missing", ErrOneSignature, v.Name())
		}
	}
	return n.Text, nil
}

// verifierPair refuses one signer in two guises: the same name, or the same key
// under two names.
func verifierPair(signers [2]string) (a, b note.Verifier, err error) {
	nameA, keyA, a, err := verifierKey(signers[0])
	if err != nil {
		return nil, nil, err
	}
	nameB, keyB, b, err := verifierKey(signers[1])
	if err != nil {
		return nil, nil, err
	}
	if nameA == nameB || bytes.Equal(keyA, keyB) {
		return nil, nil, fmt.Errorf("%w: the two signers are the same", ErrPins)
	}
	return a, b, nil
}

func (p Pins) check() error {
	if !ValidID(p.Fleet) {
		return fmt.Errorf("%w: fleet id is not 1 to %d of a-z 0-9 . -", ErrPins, MaxIDSize)
	}
	if p.MinEpoch == 0 {
		return fmt.Errorf("%w: min_epoch is 0", ErrPins)
	}
	_, _, err := verifierPair(p.Signers)
	return err
}

type pinsJSON struct {
	Fleet    string   `json:"fleet"`
	MinEpoch uint32   `json:"min_epoch"`
	Signers  []string `json:"signers"`
	Sequence uint32   `json:"sequence,omitempty"`
}

// MarshalJSON implements json.Marshaler; unfit pins are refused.
func (p Pins) MarshalJSON() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return json.Marshal(pinsJSON{p.Fleet, p.MinEpoch, p.Signers[:], p.Sequence})
}

// UnmarshalJSON implements json.Unmarshaler. It refuses unknown and repeated
// fields, other spellings of a field, and anything but two signers.
func (p *Pins) UnmarshalJSON(data []byte) error {
	if len(data) > MaxSize {
		return malformed("pins of %d bytes, at most %d", len(data), MaxSize)
	}
	var j pinsJSON
	fields := map[string]any{"fleet": &j.Fleet, "min_epoch": &j.MinEpoch, "signers": &j.Signers, "sequence": &j.Sequence}
	if err := strictObject(data, fields); err != nil {
		return err
	}
	if len(j.Signers) != 2 {
		return fmt.Errorf("%w: %d signers, want 2", ErrPins, len(j.Signers))
	}
	q := Pins{j.Fleet, j.MinEpoch, [2]string(j.Signers), j.Sequence}
	if err := q.check(); err != nil {
		return err
	}
	*p = q
	return nil
}

// ParsePins reads pins from a file's bytes.
func ParsePins(data []byte) (Pins, error) {
	if len(data) > MaxSize { // before encoding/json looks at it
		return Pins{}, malformed("pins of %d bytes, at most %d", len(data), MaxSize)
	}
	var p Pins
	if err := json.Unmarshal(data, &p); err != nil {
		if _, ok := errors.AsType[*json.SyntaxError](err); ok {
			return Pins{}, malformed("pins: %w", err)
		}
		return Pins{}, err
	}
	return p, nil
}

// strictObject decodes a JSON object into the fields that the map names;
// encoding/json would take repeated fields and any case.
func strictObject(data []byte, fields map[string]any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return malformed("pins: not an object")
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return malformed("pins: %w", err)
		}
		name, _ := t.(string)
		to, ok := fields[name]
		if !ok {
			return malformed("pins: unknown or repeated field %q", name)
		}
		delete(fields, name)
		if err := dec.Decode(to); err != nil {
			return malformed("pins: %s: %w", name, err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return malformed("pins: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return malformed("pins: something follows the object")
	}
	return nil
}
