package oprf

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"

	"filippo.io/nistec"
)

// ErrIntegrity says that a multiplication does not belong to its public key:
// the HSM, or the way to it, gave a wrong result.
var ErrIntegrity = errors.New("the product does not fit the public key")

// EvaluateByX multiplies point by the private key k behind dh, which gives
// only x-coordinates, as PKCS#11's CKM_ECDH1_DERIVE does. peer is
// UncompressedSize bytes; public is K = kG, point and result are elements.
//
// x(kP) leaves two candidates, Q and -Q. The right one is told by a second
// call: k(P+G) = kP + K, so x(Q+K) must be x(k(P+G)). Both cannot fit, since
// x(Q+K) = x(-Q+K) needs Q or K to be the identity. When neither fits the
// result is ErrIntegrity.
//
// The sign of kP is secret in OPAQUE's 3DH, so that it is chosen without a
// branch. That P is G or -G is not secret: then the product is K or -K, and
// dh is not called.
func EvaluateByX(dh func(peer []byte) (x [32]byte, err error), public, point []byte) ([]byte, error) {
	K, err := deserializeElement(public)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	P, err := deserializeElement(point)
	if err != nil {
		return nil, err
	}
	G := nistec.NewP256Point().SetGenerator()
	if P.Equal(G) == 1 {
		return bytes.Clone(public), nil
	}
	if P.Equal(nistec.NewP256Point().Negate(G)) == 1 {
		return nistec.NewP256Point().Negate(K).BytesCompressed(), nil
	}

	x1, err := dh(P.Bytes())
	if err != nil {
		return nil, fmt.Errorf("multiplying P: %w", err)
	}
	defer clear(x1[:])
	x2, err := dh(nistec.NewP256Point().Add(P, G).Bytes())
	if err != nil {
		return nil, fmt.Errorf("multiplying P+G: %w", err)
	}
	defer clear(x2[:])
	return chooseSign(K, x1, x2)
}

// chooseSign returns the point Q with x(Q) = x1 and x(Q+K) = x2. The errors
// are the only branches: they tell that an HSM fails, not what it computes.
func chooseSign(K *nistec.P256Point, x1, x2 [32]byte) ([]byte, error) {
	plus, err := nistec.NewP256Point().SetBytes(append([]byte{2}, x1[:]...))
	if err != nil {
		return nil, ErrIntegrity
	}
	minus := nistec.NewP256Point().Negate(plus)
	// Q = K or -K would mean P = G or -G; BytesX refuses the identity.
	xPlus, errPlus := nistec.NewP256Point().Add(plus, K).BytesX()
	xMinus, errMinus := nistec.NewP256Point().Add(minus, K).BytesX()
	if errPlus != nil || errMinus != nil {
		return nil, ErrIntegrity
	}
	isPlus := subtle.ConstantTimeCompare(xPlus, x2[:])
	isMinus := subtle.ConstantTimeCompare(xMinus, x2[:])
	if isPlus^isMinus != 1 {
		return nil, ErrIntegrity
	}
	return nistec.NewP256Point().Select(plus, minus, isPlus).BytesCompressed(), nil
}
