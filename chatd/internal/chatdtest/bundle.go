package chatdtest

import (
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/rand"
	"math/big"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chatvault/protocol/fleet"
)

// Bundle is a signed fleet bundle of the epoch.
func Bundle(t testing.TB, epoch uint32) []byte {
	t.Helper()
	point := func() [65]byte {
		k, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return [65]byte(k.PublicKey().Bytes())
	}
	p := point()
	x, y := new(big.Int).SetBytes(p[1:33]), new(big.Int).SetBytes(p[33:])
	var signers []note.Signer
	for _, name := range []string{"one.example", "two.example"} {
		key, _, err := fleet.GenerateSigner(name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := key.Signer()
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, s)
	}
	signed, err := fleet.Sign(fleet.Bundle{
		Keys: fleet.Keys{
			Fleet: Fleet, Noise: point(), Receipt: point(),
			OPAQUE: [33]byte(elliptic.MarshalCompressed(elliptic.P256(), x, y)),
		},
		Epoch: epoch, NotAfter: time.Now().Add(24 * time.Hour),
	}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}
