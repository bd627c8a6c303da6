// Package opaquetest lets the tests of other packages run the vectors of RFC
// 9807 through an opaque server. A login whose randomness is known has no
// secrets, so everything here asks for a testing.TB.
package opaquetest

import (
	"testing"

	"chatvault/protocol/opaque/internal/fixed"
	"chatvault/protocol/vectors"
)

// KE2 returns the randomness of a vector for opaque.ServerParams.Fixed.
func KE2(tb testing.TB, v vectors.OPAQUECase) *fixed.KE2 {
	tb.Helper()
	for _, b := range [][]byte{v.MaskingNonce, v.ServerNonce, v.ServerKeyshareSeed} {
		if len(b) != 32 {
			tb.Fatalf("%s: a value of %d bytes, not 32", v, len(b))
		}
	}
	return &fixed.KE2{
		MaskingNonce:       [32]byte(v.MaskingNonce),
		ServerNonce:        [32]byte(v.ServerNonce),
		ServerKeyshareSeed: [32]byte(v.ServerKeyshareSeed),
	}
}
