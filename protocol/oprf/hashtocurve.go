package oprf

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"

	"chatvault/protocol/secret"

	"filippo.io/bigmod"
	"filippo.io/nistec"
)

// The suite P256_XMD:SHA-256_SSWU_RO_ of RFC 9380 section 8.2, in constant
// time: what is hashed here is a password.

// uniformSize is L of RFC 9380 section 8.2: the bytes that are reduced to one
// field element (or scalar), enough that the bias is below 2^-128.
const uniformSize = 48

// HashToCurve is hash_to_curve of RFC 9380 section 3. dst is the domain
// separation tag, 1 to 255 bytes; another length panics. The error is
// ErrInput for the identity, which a message hashes to with probability 2^-256.
func HashToCurve(msg, dst []byte) ([]byte, error) {
	p := hashToCurve(msg, dst)
	if p.IsInfinity() == 1 {
		return nil, ErrInput
	}
	return p.BytesCompressed(), nil
}

func hashToCurve(msg, dst []byte) *nistec.P256Point {
	uniform := expandMessageXMD(msg, dst, 2*uniformSize)
	u0 := reduce(uniform[:uniformSize], field)
	u1 := reduce(uniform[uniformSize:], field)
	// The cofactor is 1: there is no clear_cofactor.
	return nistec.NewP256Point().Add(mapToCurve(u0), mapToCurve(u1))
}

// HashToScalar is HashToScalar of RFC 9497 section 4.3: hash_to_field modulo
// the group order. dst as for HashToCurve.
func HashToScalar(msg, dst []byte) secret.Key {
	var k secret.Key
	copy(k.B[:], reduce(expandMessageXMD(msg, dst, uniformSize), order).Bytes(order))
	return k
}

// expandMessageXMD is expand_message_xmd of RFC 9380 section 5.3.1 with
// SHA-256, for at most 255 blocks.
func expandMessageXMD(msg, dst []byte, size int) []byte {
	if len(dst) == 0 || len(dst) > 255 || size > 255*sha256.Size {
		panic("oprf: domain separation tag or size out of range")
	}
	dstPrime := append(append([]byte{}, dst...), byte(len(dst)))

	h := sha256.New()
	h.Write(make([]byte, sha256.BlockSize)) // Z_pad
	h.Write(msg)
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(size))) // l_i_b_str
	h.Write([]byte{0})
	h.Write(dstPrime)
	b0 := h.Sum(nil)

	var uniform []byte
	bi := make([]byte, sha256.Size)
	for i := byte(1); len(uniform) < size; i++ {
		subtle.XORBytes(bi, bi, b0) // b_1 hashes b_0 as it is
		h.Reset()
		h.Write(bi)
		h.Write([]byte{i})
		h.Write(dstPrime)
		bi = h.Sum(bi[:0])
		uniform = append(uniform, bi...)
	}
	return uniform[:size]
}

// reduce returns the big-endian number of uniformSize bytes modulo m, which
// has 32 bytes. bigmod takes no longer input, so: high * 2^192 + low.
func reduce(b []byte, m *bigmod.Modulus) *bigmod.Nat {
	high := nat(b[:uniformSize/2], m)
	low := nat(b[uniformSize/2:], m)
	shift := nat(append([]byte{1}, make([]byte, uniformSize/2)...), m)
	return high.Mul(shift, m).Add(low, m)
}

// mapToCurve is map_to_curve_simple_swu for p = 3 mod 4, in the straight-line
// form of RFC 9380 F.2, whose step numbers stand at the right.
func mapToCurve(u *bigmod.Nat) *nistec.P256Point {
	tv1 := mul(sswuZ, sqr(u))                              // 1, 2
	tv2 := add(sqr(tv1), tv1)                              // 3, 4
	tv3 := mul(curveB, add(tv2, one))                      // 5, 6
	tv4 := mul(curveA, cmov(neg(tv2), sswuZ, isZero(tv2))) // 7, 8
	tv2 = sqr(tv3)                                         // 9
	tv6 := sqr(tv4)                                        // 10
	tv2 = add(tv2, mul(curveA, tv6))                       // 11, 12
	tv2 = mul(tv2, tv3)                                    // 13
	tv6 = mul(tv6, tv4)                                    // 14
	tv2 = add(tv2, mul(curveB, tv6))                       // 15, 16
	x := mul(tv1, tv3)                                     // 17
	isGX1Square, y1 := sqrtRatio(tv2, tv6)                 // 18
	y := mul(mul(tv1, u), y1)                              // 19, 20
	x = cmov(x, tv3, isGX1Square)                          // 21
	y = cmov(y, y1, isGX1Square)                           // 22
	y = cmov(neg(y), y, 1^sgn0(u)^sgn0(y))                 // 23, 24
	x = mul(x, inverse(tv4))                               // 25

	encoded := append([]byte{4}, x.Bytes(field)...)
	p, err := nistec.NewP256Point().SetBytes(append(encoded, y.Bytes(field)...))
	if err != nil {
		panic("oprf: map_to_curve left the curve: " + err.Error())
	}
	return p
}

// sqrtRatio is sqrt_ratio for p = 3 mod 4, RFC 9380 F.2.1.2: (1, sqrt(u/v)) if
// u/v is a square, else (0, sqrt(Z*u/v)).
func sqrtRatio(u, v *bigmod.Nat) (isQR uint, y *bigmod.Nat) {
	tv1 := sqr(v)
	tv2 := mul(u, v)
	tv1 = mul(tv1, tv2)
	y1 := mul(exp(tv1, sqrtC1), tv2)
	y2 := mul(y1, sqrtC2)
	isQR = mul(sqr(y1), v).Equal(u)
	return isQR, cmov(y2, y1, isQR)
}
