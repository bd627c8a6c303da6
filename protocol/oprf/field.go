package oprf

import "filippo.io/bigmod"

// Arithmetic in GF(p), the field of P-256, as expressions: no operation
// changes its operands. Everything is constant time, as bigmod is.

// The field, the curve y^2 = x^3 + A*x + B, and SSWU's Z (RFC 9380 section
// 8.2).
var (
	field = mustModulus("ffffffff00000001000000000000000000000000ffffffffffffffffffffffff")

	one    = nat([]byte{1}, field)
	curveA = neg(nat([]byte{3}, field))
	curveB = nat(mustHex("5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b"), field)
	sswuZ  = neg(nat([]byte{10}, field))

	// c1 = (p-3)/4 and c2 = sqrt(-Z) of sqrt_ratio, RFC 9380 F.2.1.2.
	sqrtC1 = mustHex("3fffffffc00000004000000000000000000000003fffffffffffffffffffffff")
	sqrtC2 = nat(mustHex("da538e3be1d89b99c978fc675180aab27b8d1ff84c55d5b62ccd3427e433c47f"), field)

	fieldMinusTwo = mustHex("ffffffff00000001000000000000000000000000fffffffffffffffffffffffd")
)

// nat reads a big-endian number that is below m by construction.
func nat(b []byte, m *bigmod.Modulus) *bigmod.Nat {
	x, err := bigmod.NewNat().SetBytes(b, m)
	if err != nil {
		panic("oprf: " + err.Error())
	}
	return x
}

func clone(x *bigmod.Nat) *bigmod.Nat {
	c := bigmod.NewNat().ExpandFor(field)
	copy(c.Bits(), x.Bits())
	return c
}

func add(x, y *bigmod.Nat) *bigmod.Nat        { return clone(x).Add(y, field) }
func mul(x, y *bigmod.Nat) *bigmod.Nat        { return clone(x).Mul(y, field) }
func sqr(x *bigmod.Nat) *bigmod.Nat           { return clone(x).Mul(x, field) }
func neg(x *bigmod.Nat) *bigmod.Nat           { return bigmod.NewNat().ExpandFor(field).Sub(x, field) }
func exp(x *bigmod.Nat, e []byte) *bigmod.Nat { return bigmod.NewNat().Exp(x, e, field) }
func inverse(x *bigmod.Nat) *bigmod.Nat       { return exp(x, fieldMinusTwo) } // inverse(0) = 0, inv0 of RFC 9380
func isZero(x *bigmod.Nat) uint               { return uint(x.IsZero()) }
func sgn0(x *bigmod.Nat) uint                 { return uint(x.IsOdd()) } // RFC 9380 section 4.1, m = 1

// cmov returns b if cond is 1, a if it is 0: CMOV of RFC 9380 section 4.
func cmov(a, b *bigmod.Nat, cond uint) *bigmod.Nat {
	c := clone(a)
	limbs, other, mask := c.Bits(), b.Bits(), -cond
	for i := range limbs {
		limbs[i] ^= mask & (limbs[i] ^ other[i])
	}
	return c
}
