package p11

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/asn1"
	"testing"

	"chatvault/vaultd/internal/hsm"
)

// lookalike is a bare point that begins like a DER octet string of the right
// length: 04 3f.
func lookalike(t testing.TB) []byte {
	for {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if bare := key.PublicKey().Bytes(); bare[1] == hsm.PublicSize-2 {
			return bare
		}
	}
}

func TestPoint(t *testing.T) {
	bare := lookalike(t)
	der, err := asn1.Marshal(bare)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string][]byte{"bare": bare, "DER": der} {
		if got := point(value); !bytes.Equal(got, bare) {
			t.Errorf("%s: %x, want %x", name, got, bare)
		}
	}
}

func FuzzPoint(f *testing.F) {
	bare := lookalike(f)
	der, err := asn1.Marshal(bare)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{nil, {0}, {4, 0}, bare, der, der[:66], append(bytes.Clone(der), 0)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		got := point(value)
		if bytes.Equal(got, value) {
			return // taken as bare
		}
		again, err := asn1.Marshal(got)
		if err != nil || !bytes.Equal(again, value) {
			t.Errorf("%x read as %x, which is written %x, %v", value, got, again, err)
		}
	})
}
