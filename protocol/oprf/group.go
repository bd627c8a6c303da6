package oprf

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"chatvault/protocol/secret"

	"filippo.io/bigmod"
	"filippo.io/nistec"
)

const (
	// ElementSize is the length of an element: a compressed point (Noe).
	ElementSize = 33
	// ScalarSize is the length of a scalar, big-endian (Ns).
	ScalarSize = 32
	// UncompressedSize is the length of a point as HSMs take it: 04, x, y.
	UncompressedSize = 65
)

var (
	// ErrElement says that bytes are not the compressed form of a point of
	// P-256 other than the identity.
	ErrElement = errors.New("not an element of P-256")
	// ErrScalar says that a scalar is zero or not below the group order.
	ErrScalar = errors.New("not a scalar of P-256")
)

// The group order n, and the exponent that inverts modulo it (Fermat).
var (
	order         = mustModulus("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
	orderMinusTwo = mustHex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc63254f")
)

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("oprf: " + err.Error())
	}
	return b
}

func mustModulus(s string) *bigmod.Modulus {
	m, err := bigmod.NewModulus(mustHex(s))
	if err != nil {
		panic("oprf: " + err.Error())
	}
	return m
}

// PrivateKey is skS, a scalar. ScalarSize bytes, big-endian.
type PrivateKey struct{ secret.Key }

// Public returns pkS = skS * G, ElementSize bytes.
func (k PrivateKey) Public() ([]byte, error) {
	if _, err := deserializeScalar(k.Key); err != nil {
		return nil, err
	}
	p, err := nistec.NewP256Point().ScalarBaseMult(k.B[:])
	if err != nil {
		return nil, err
	}
	return p.BytesCompressed(), nil
}

// Blind is the scalar that hides an input from the evaluator. A client that
// has to send the same blinded element again keeps it, as carefully as the
// password: blinded element and Blind together let anybody test passwords.
type Blind struct{ secret.Key }

// NewBlind draws a Blind, uniform among the non-zero scalars, from rand.
func NewBlind(rand io.Reader) (Blind, error) {
	// One draw fails with probability 2^-32, so a reader that fails 16 in a
	// row is not random.
	for range 16 {
		var b Blind
		if _, err := io.ReadFull(rand, b.B[:]); err != nil {
			return Blind{}, fmt.Errorf("reading randomness: %w", err)
		}
		if _, err := deserializeScalar(b.Key); err == nil {
			return b, nil
		}
	}
	return Blind{}, fmt.Errorf("reading randomness: %w 16 times", ErrScalar)
}

// deserializeScalar is DeserializeScalar of RFC 9497 section 4.3, and refuses
// zero besides.
func deserializeScalar(k secret.Key) (*bigmod.Nat, error) {
	s, err := bigmod.NewNat().SetBytes(k.B[:], order)
	if err != nil || s.IsZero() == 1 {
		return nil, ErrScalar
	}
	return s, nil
}

// scalarInverse returns 1/k mod n in constant time.
func scalarInverse(k secret.Key) (inverse [ScalarSize]byte, err error) {
	s, err := deserializeScalar(k)
	if err != nil {
		return inverse, err
	}
	copy(inverse[:], bigmod.NewNat().Exp(s, orderMinusTwo, order).Bytes(order))
	return inverse, nil
}

// deserializeElement is DeserializeElement of RFC 9497 section 4.3.
//
// Attack A3: implementations were found to take the identity, points off the
// curve and other encodings of the same point. nistec takes the identity and
// the uncompressed form, so length and prefix are checked here; x >= p and
// points off the curve are refused by nistec. The cofactor is 1: there is no
// subgroup to check.
func deserializeElement(b []byte) (*nistec.P256Point, error) {
	if len(b) != ElementSize || (b[0] != 2 && b[0] != 3) {
		return nil, ErrElement
	}
	p, err := nistec.NewP256Point().SetBytes(b)
	if err != nil {
		return nil, ErrElement
	}
	return p, nil
}

// CheckElement returns ErrElement unless b is ElementSize bytes, prefix 02 or
// 03, of a point on the curve. The identity has no such encoding.
func CheckElement(b []byte) error {
	_, err := deserializeElement(b)
	return err
}

// Decompress turns an element into UncompressedSize bytes, as HSMs take it.
func Decompress(element []byte) ([]byte, error) {
	p, err := deserializeElement(element)
	if err != nil {
		return nil, err
	}
	return p.Bytes(), nil
}

// Compress turns UncompressedSize bytes, prefix 04, into an element.
func Compress(uncompressed []byte) ([]byte, error) {
	if len(uncompressed) != UncompressedSize || uncompressed[0] != 4 {
		return nil, ErrElement
	}
	p, err := nistec.NewP256Point().SetBytes(uncompressed)
	if err != nil {
		return nil, ErrElement
	}
	return p.BytesCompressed(), nil
}

// multiply returns k*p. k is a checked scalar, so the product is never the
// identity.
func multiply(k []byte, p *nistec.P256Point) ([]byte, error) {
	q, err := nistec.NewP256Point().ScalarMult(p, k)
	if err != nil {
		return nil, err
	}
	return q.BytesCompressed(), nil
}
