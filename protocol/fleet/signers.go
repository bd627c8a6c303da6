package fleet

import "fmt"

const signersHeader = "chatvault fleet signers v1"

// MaxChain bounds a chain of changes of signers.
const MaxChain = 256

// Signers is a change of signers: a signed note, signed by both old signers,
// with the text
//
//	chatvault fleet signers v1
//	sequence <decimal>
//	signer <verifier key>
//	signer <verifier key>
//
// The changes are numbered from 1 without gaps and kept for ever, so that a
// client that slept through several can follow them one by one. A change names
// no fleet: a pair of signers serves one operator's fleets only.
type Signers struct {
	Sequence uint32    // at least 1
	Keys     [2]string // note verifier keys; one of the two may be an old one
}

// Text is the text that is signed. It checks nothing: SignSigners does.
func (s Signers) Text() string {
	return fmt.Sprintf("%s\nsequence %d\nsigner %s\nsigner %s\n", signersHeader, s.Sequence, s.Keys[0], s.Keys[1])
}

// ParseSigners reads the text of a change of signers; it verifies no signature.
func ParseSigners(text string) (Signers, error) {
	if len(text) > MaxSize {
		return Signers{}, malformed("text of %d bytes, at most %d", len(text), MaxSize)
	}
	l := lines{rest: text}
	if l.next() != signersHeader {
		return Signers{}, malformed("first line is not %q", signersHeader)
	}
	var s Signers
	s.Sequence = l.number("sequence")
	s.Keys[0] = l.field("signer")
	s.Keys[1] = l.field("signer")
	if l.err != nil {
		return Signers{}, l.err
	}
	if _, _, err := verifierPair(s.Keys); err != nil {
		return Signers{}, malformed("signers: %w", err)
	}
	if s.Text() != text {
		return Signers{}, malformed("not in canonical form")
	}
	return s, nil
}

// Follow returns the pins after the changes of signers in chain, which stand in
// order. Changes that the pins have behind them are skipped; each further one
// must carry the next number and the signatures of both signers it replaces. On
// an error the pins stay as they were: nothing is followed half-way.
func (p Pins) Follow(chain [][]byte) (Pins, error) {
	if err := p.check(); err != nil {
		return p, err
	}
	if len(chain) > MaxChain {
		return p, fmt.Errorf("%w: %d changes, at most %d", ErrChain, len(chain), MaxChain)
	}
	next := p
	for _, signed := range chain {
		n, err := unverified(signed)
		if err != nil {
			return p, err
		}
		s, err := ParseSigners(n.Text)
		if err != nil {
			return p, err
		}
		if s.Sequence <= p.Sequence {
			continue
		}
		if s.Sequence != next.Sequence+1 {
			return p, fmt.Errorf("%w: change %d after %d", ErrChain, s.Sequence, next.Sequence)
		}
		if _, err := openBoth(next.Signers, signed); err != nil {
			return p, fmt.Errorf("change of signers %d: %w", s.Sequence, err)
		}
		next.Signers, next.Sequence = s.Keys, s.Sequence
	}
	return next, nil
}
