package opaquetest_test

import (
	"bytes"
	"context"
	"testing"

	"chatvault/protocol/opaque"
	"chatvault/protocol/opaque/opaquetest"
	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
	"chatvault/protocol/vectors"
)

// byX multiplies as an HSM does that gives x-coordinates alone.
func byX(t *testing.T, k oprf.PrivateKey) func(context.Context, []byte) ([]byte, error) {
	public, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	dh := func(peer []byte) (x [32]byte, err error) {
		element, err := oprf.Compress(peer)
		if err != nil {
			return x, err
		}
		product, err := oprf.Evaluate(k, element)
		if err != nil {
			return x, err
		}
		return [32]byte(product[1:]), nil
	}
	return func(_ context.Context, point []byte) ([]byte, error) { return oprf.EvaluateByX(dh, public, point) }
}

// The KE2s of RFC 9807, real and fake, come out of keys that are known by
// their x-coordinates only. A test of an HSM looks like this one.
func TestVectorsByXCoordinates(t *testing.T) {
	for _, v := range vectors.OPAQUE() {
		t.Run(v.String(), func(t *testing.T) {
			oprfKey, err := opaque.DeriveOPRFKey(v.OPRFSeed, v.CredentialIdentifier)
			if err != nil {
				t.Fatal(err)
			}
			record := opaque.RegistrationRecord{
				ClientPublicKey: [opaque.Npk]byte(v.ClientPublicKey),
				MaskingKey:      secret.Key{B: [32]byte(v.MaskingKey)},
			}
			if !v.Fake {
				if record, err = opaque.ParseRegistrationRecord(v.RegistrationUpload); err != nil {
					t.Fatal(err)
				}
			}
			ke1, err := opaque.ParseKE1(v.KE1)
			if err != nil {
				t.Fatal(err)
			}
			ke2, _, err := opaque.GenerateKE2(t.Context(), opaque.ServerParams{
				ServerIdentity:  v.ServerIdentity,
				ServerPublicKey: v.ServerPublicKey,
				Evaluate:        byX(t, oprfKey),
				DH:              byX(t, oprf.PrivateKey{Key: secret.Key{B: [32]byte(v.ServerPrivateKey)}}),
				Context:         v.Context,
				Fixed:           opaquetest.KE2(t, v),
			}, record, v.ClientIdentity, ke1)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(ke2.Bytes(), v.KE2) {
				t.Errorf("KE2 = %x, want %x", ke2.Bytes(), v.KE2)
			}
		})
	}
}
