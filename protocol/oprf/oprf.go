// Package oprf is OPRF(P-256, SHA-256) of RFC 9497 in mode 0x00: a client
// learns F(key, input) from an evaluator that learns nothing about input. It
// reads like sections 3 and 4 of that RFC.
//
// Everything that touches a secret is constant time, on filippo.io/nistec and
// filippo.io/bigmod. What those libraries leave on the heap cannot be wiped.
//
// The evaluator's key may be in an HSM that multiplies a point but gives only
// the x-coordinate: see EvaluateByX.
package oprf

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The context string of RFC 9497 section 3.1 for mode OPRF (0x00) and the
// suite identifier of section 4.3, and the tags made of it.
const (
	contextString   = "OPRFV1-\x00-P256-SHA256"
	hashToGroupDST  = "HashToGroup-" + contextString
	hashToScalarDST = "HashToScalar-" + contextString
	deriveKeyDST    = "DeriveKeyPair" + contextString
)

// OutputSize is the length of the OPRF's output (Nh).
const OutputSize = sha256.Size

// ErrInput says that an input is longer than 65,535 bytes, or that it (with
// probability 2^-256) hashes to the identity.
var ErrInput = errors.New("input cannot be evaluated")

// BlindInput is Blind of RFC 9497 section 3.3.1 with the blind as an input,
// so that a client can send the same blinded element again.
func BlindInput(input []byte, blind Blind) (blindedElement []byte, err error) {
	if len(input) > math.MaxUint16 {
		return nil, ErrInput
	}
	if _, err := deserializeScalar(blind.Key); err != nil {
		return nil, err
	}
	inputElement := hashToCurve(input, []byte(hashToGroupDST))
	if inputElement.IsInfinity() == 1 {
		return nil, ErrInput
	}
	return multiply(blind.B[:], inputElement)
}

// Evaluate is BlindEvaluate of RFC 9497 section 3.3.1, in software. It is also
// DiffieHellman of RFC 9807 section 6.4.1.2: a scalar times a checked element.
func Evaluate(key PrivateKey, blindedElement []byte) (evaluatedElement []byte, err error) {
	if _, err := deserializeScalar(key.Key); err != nil {
		return nil, err
	}
	p, err := deserializeElement(blindedElement)
	if err != nil {
		return nil, err
	}
	return multiply(key.B[:], p)
}

// Finalize is Finalize of RFC 9497 section 3.3.1. blindedElement is what
// BlindInput returned for the same input and blind; the output is OutputSize
// bytes.
func Finalize(input []byte, blind Blind, blindedElement, evaluatedElement []byte) (output []byte, err error) {
	if len(input) > math.MaxUint16 {
		return nil, ErrInput
	}
	if err := CheckElement(blindedElement); err != nil {
		return nil, fmt.Errorf("blinded element: %w", err)
	}
	p, err := deserializeElement(evaluatedElement)
	if err != nil {
		return nil, fmt.Errorf("evaluated element: %w", err)
	}
	// Attack A3: an evaluator without the key reflects the blinded element,
	// and the client goes on with an output that only its input protects.
	if subtle.ConstantTimeCompare(blindedElement, evaluatedElement) == 1 {
		return nil, fmt.Errorf("evaluated element equals the blinded one: %w", ErrElement)
	}
	inverse, err := scalarInverse(blind.Key)
	if err != nil {
		return nil, err
	}
	defer clear(inverse[:])
	unblindedElement, err := multiply(inverse[:], p)
	if err != nil {
		return nil, err
	}
	defer clear(unblindedElement)

	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(input))))
	h.Write(input)
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(unblindedElement))))
	h.Write(unblindedElement)
	h.Write([]byte("Finalize"))
	return h.Sum(nil), nil
}

// DeriveKeyPair is DeriveKeyPair of RFC 9497 section 3.2.1. The RFC's seed has
// 32 bytes; info is at most 65,535.
func DeriveKeyPair(seed, info []byte) (skS PrivateKey, pkS []byte, err error) {
	if len(info) > math.MaxUint16 {
		return PrivateKey{}, nil, ErrInput
	}
	deriveInput := make([]byte, 0, len(seed)+2+len(info)+1)
	defer func() { clear(deriveInput[:cap(deriveInput)]) }()
	deriveInput = append(deriveInput, seed...)
	deriveInput = binary.BigEndian.AppendUint16(deriveInput, uint16(len(info)))
	deriveInput = append(deriveInput, info...)
	for counter := range 256 {
		skS.Key = HashToScalar(append(deriveInput, byte(counter)), []byte(deriveKeyDST))
		if _, err := deserializeScalar(skS.Key); err == nil {
			pkS, err = skS.Public()
			return skS, pkS, err
		}
	}
	return PrivateKey{}, nil, errors.New("DeriveKeyPair: 256 zeros in a row")
}
