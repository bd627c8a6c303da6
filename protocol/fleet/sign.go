package fleet

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"chatvault/protocol/secret"

	"golang.org/x/mod/sumdb/note"
)

// maxSignerName bounds the name of a signer, in bytes.
const maxSignerName = 128

// SigningKey is a signer's private key in the encoding of x/mod/sumdb/note
// ("PRIVATE+KEY+name+hash+base64").
type SigningKey struct{ secret.Bytes }

// Signer makes the key ready to sign.
func (k SigningKey) Signer() (note.Signer, error) {
	s, err := note.NewSigner(string(k.Bytes))
	if err != nil {
		return nil, fmt.Errorf("fleet: signing key: %w", err)
	}
	return s, nil
}

// GenerateSigner makes an Ed25519 key pair for a signer. The name is printable
// ASCII without space and +, customarily host and path ("example.com/fleet").
// vkey is what clients pin.
func GenerateSigner(name string) (skey SigningKey, vkey string, err error) {
	if err := checkSignerName(name); err != nil {
		return SigningKey{}, "", err
	}
	s, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return SigningKey{}, "", fmt.Errorf("fleet: generating a signer: %w", err)
	}
	return SigningKey{secret.Bytes(s)}, vkey, nil
}

func checkSignerName(name string) error {
	if len(name) < 1 || len(name) > maxSignerName {
		return fmt.Errorf("%w: signer's name of %d bytes, want 1 to %d", ErrPins, len(name), maxSignerName)
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' || name[i] == '+' {
			return fmt.Errorf("%w: a signer's name is printable ASCII without space and +", ErrPins)
		}
	}
	return nil
}

// Sign checks the bundle and signs it. The second of the two signers signs
// elsewhere, with AddSignature.
func Sign(b Bundle, signers ...note.Signer) ([]byte, error) {
	text := b.Text()
	if _, err := Parse(text); err != nil {
		return nil, err
	}
	return signText(text, signers)
}

// SignSigners signs the change to a new pair of signers, by the old pair.
func SignSigners(s Signers, signers ...note.Signer) ([]byte, error) {
	text := s.Text()
	if _, err := ParseSigners(text); err != nil {
		return nil, err
	}
	return signText(text, signers)
}

func signText(text string, signers []note.Signer) ([]byte, error) {
	if len(signers) == 0 {
		return nil, fmt.Errorf("%w: no signer given", ErrUnsigned)
	}
	return sealNote(&note.Note{Text: text}, signers...)
}

// AddSignature adds the next signer's signature to a bundle or to a change of
// signers. It verifies none of those already there, but signs only what parses.
func AddSignature(signed []byte, signer note.Signer) ([]byte, error) {
	n, err := unverified(signed)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(n.Text, signersHeader) {
		_, err = ParseSigners(n.Text)
	} else {
		_, err = Parse(n.Text)
	}
	if err != nil {
		return nil, err
	}
	return sealNote(n, signer)
}

func sealNote(n *note.Note, signers ...note.Signer) ([]byte, error) {
	signed, err := note.Sign(n, signers...)
	if err != nil {
		return nil, fmt.Errorf("fleet: signing: %w", err)
	}
	if len(signed) > MaxSize {
		return nil, malformed("signed note of %d bytes, at most %d", len(signed), MaxSize)
	}
	return signed, nil
}

// unverified takes a note apart without verifying anything.
func unverified(signed []byte) (*note.Note, error) {
	if len(signed) > MaxSize {
		return nil, malformed("signed note of %d bytes, at most %d", len(signed), MaxSize)
	}
	_, err := note.Open(signed, nil)
	var u *note.UnverifiedNoteError
	if !errors.As(err, &u) {
		return nil, malformed("signed note: %w", err)
	}
	return u.Note, nil
}

// Epoch reads the epoch of a bundle and verifies no signature: it is for the
// relay, which serves the bundle and whose word about it counts for nothing.
func Epoch(signed []byte) (uint32, error) {
	n, err := unverified(signed)
	if err != nil {
		return 0, err
	}
	b, err := Parse(n.Text)
	if err != nil {
		return 0, err
	}
	return b.Epoch, nil
}

// verifierKey returns name and key bytes of a verifier key, strictly.
func verifierKey(vkey string) (name string, key []byte, v note.Verifier, err error) {
	v, err = note.NewVerifier(vkey)
	if err != nil {
		return "", nil, nil, fmt.Errorf("%w: verifier key: %w", ErrPins, err)
	}
	if err := checkSignerName(v.Name()); err != nil {
		return "", nil, nil, err
	}
	_, b64, _ := strings.Cut(vkey[len(v.Name())+1:], "+")
	key, err = base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return "", nil, nil, fmt.Errorf("%w: verifier key: %w", ErrPins, err)
	}
	// One spelling a key: note would take upper-case hash digits and line breaks.
	if vkey != fmt.Sprintf("%s+%08x+%s", v.Name(), v.KeyHash(), base64.StdEncoding.EncodeToString(key)) {
		return "", nil, nil, fmt.Errorf("%w: verifier key is not in canonical form", ErrPins)
	}
	return v.Name(), key, v, nil
}
