package oprf

import (
	"bytes"
	"testing"

	"chatvault/protocol/vectors"
)

func TestHashToCurveVectors(t *testing.T) {
	for _, v := range vectors.HashToCurveP256() {
		t.Run(v.String(), func(t *testing.T) {
			uniform := expandMessageXMD(v.Msg, v.DST, 2*uniformSize)
			for i, want := range []struct{ u, x, y []byte }{{v.U0, v.Q0X, v.Q0Y}, {v.U1, v.Q1X, v.Q1Y}} {
				u := reduce(uniform[i*uniformSize:(i+1)*uniformSize], field)
				if got := u.Bytes(field); !bytes.Equal(got, want.u) {
					t.Errorf("u%d = %x, want %x", i, got, want.u)
				}
				q := mapToCurve(nat(want.u, field)).Bytes()
				if !bytes.Equal(q[1:33], want.x) || !bytes.Equal(q[33:], want.y) {
					t.Errorf("Q%d = %x, want %x, %x", i, q, want.x, want.y)
				}
			}
			element, err := HashToCurve(v.Msg, v.DST)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Decompress(element)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p[1:33], v.PX) || !bytes.Equal(p[33:], v.PY) {
				t.Errorf("P = %x, want %x, %x", p, v.PX, v.PY)
			}
		})
	}
}

func TestOPRFVectors(t *testing.T) {
	for _, v := range vectors.OPRF() {
		t.Run(v.String(), func(t *testing.T) {
			skS, pkS, err := DeriveKeyPair(v.Seed, v.KeyInfo)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "skSm", skS.B[:], v.SkSm)
			if public, err := skS.Public(); err != nil || !bytes.Equal(public, pkS) {
				t.Errorf("Public() = %x, %v, want %x", public, err, pkS)
			}

			var blind Blind
			copy(blind.B[:], v.Blind)
			blinded, err := BlindInput(v.Input, blind)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "BlindedElement", blinded, v.BlindedElement)
			evaluated, err := Evaluate(skS, blinded)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "EvaluationElement", evaluated, v.EvaluationElement)
			byX, err := EvaluateByX(xOnly(t, skS), pkS, blinded)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "EvaluationElement by x", byX, v.EvaluationElement)
			output, err := Finalize(v.Input, blind, blinded, evaluated)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "Output", output, v.Output)
		})
	}
}

func TestElementVectors(t *testing.T) {
	for _, v := range vectors.Elements() {
		t.Run(v.Name, func(t *testing.T) {
			err := CheckElement(v.Element)
			if v.Valid {
				if err != nil {
					t.Fatal(err)
				}
				uncompressed, err := Decompress(v.Element)
				if err != nil || len(uncompressed) != UncompressedSize || uncompressed[0] != 4 {
					t.Fatalf("Decompress: %x, %v", uncompressed, err)
				}
				back, err := Compress(uncompressed)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "round trip", back, v.Element)
				return
			}
			for name, err := range map[string]error{
				"CheckElement": err,
				"Decompress":   second(Decompress(v.Element)),
				"Evaluate":     second(Evaluate(testKey, v.Element)),
				"Finalize":     second(Finalize(nil, Blind(testKey), generator, v.Element)),
				"EvaluateByX":  second(EvaluateByX(xOnly(t, testKey), generator, v.Element)),
				"public key":   second(EvaluateByX(xOnly(t, testKey), v.Element, generator)),
			} {
				wantError(t, name, err, ErrElement)
			}
		})
	}
}

// RFC 9380 section 6.6.2 names the exceptional inputs of SSWU, those with
// Z^2*u^4 + Z*u^2 = 0. For P-256 that is u = 0 alone, which no hash of ours
// will show. There x1 = B / (Z*A), and section 8.2 chose Z so that g(x1) is a
// square.
func TestMapToCurveOfZero(t *testing.T) {
	q := mapToCurve(nat(nil, field)).Bytes()
	equal(t, "x", q[1:33], mul(curveB, inverse(mul(sswuZ, curveA))).Bytes(field))
	if q[64]&1 != 0 {
		t.Error("sgn0(y) differs from sgn0(u) = 0")
	}
}

func TestSqrtRatio(t *testing.T) {
	v := nat([]byte{7}, field)
	squares := 0
	for i := byte(1); i <= 40; i++ {
		u := nat([]byte{i}, field)
		isQR, y := sqrtRatio(u, v)
		want := u
		if isQR == 0 {
			want = mul(sswuZ, u)
		} else {
			squares++
		}
		if mul(sqr(y), v).Equal(want) != 1 {
			t.Errorf("sqrt_ratio(%d, 7) is wrong, isQR = %d", i, isQR)
		}
	}
	if squares == 0 || squares == 40 {
		t.Errorf("%d of 40 are squares: only one branch was tested", squares)
	}
}
