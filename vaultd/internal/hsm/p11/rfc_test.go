package p11

import (
	"bytes"
	"context"
	"encoding/asn1"
	"testing"

	"github.com/miekg/pkcs11"

	"chatvault/protocol/opaque"
	"chatvault/protocol/opaque/opaquetest"
	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
	"chatvault/protocol/vectors"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/hsmtest"
)

// importWrapped brings a private key into the token and out again under the
// wrap key, as if NewOPRFKey had made it.
func importWrapped(t *testing.T, token hsmtest.Token, scalar []byte) (wrapped, public []byte) {
	t.Helper()
	public = publicOf(t, scalar)
	raw(t, token, func(api *pkcs11.Ctx, session pkcs11.SessionHandle) {
		key, err := api.CreateObject(session, append(oprfPrivateTemplate(),
			attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
			attr(pkcs11.CKA_EC_PARAMS, p256), attr(pkcs11.CKA_VALUE, scalar)))
		if err != nil {
			t.Fatal(err)
		}
		kek, err := find(api, session, pkcs11.CKO_SECRET_KEY, DefaultPrefix+".wrap")
		if err != nil || len(kek) != 1 {
			t.Fatal(kek, err)
		}
		if wrapped, err = api.WrapKey(session, mechanism(pkcs11.CKM_AES_KEY_WRAP, nil), kek[0], key); err != nil {
			t.Fatal(err)
		}
	})
	return wrapped, public
}

// importStatic puts a private key in the place of the token's opaque key.
func importStatic(t *testing.T, token hsmtest.Token, scalar []byte) {
	t.Helper()
	label := DefaultPrefix + "." + string(hsm.Opaque)
	uncompressed, err := oprf.Decompress(publicOf(t, scalar))
	if err != nil {
		t.Fatal(err)
	}
	ecPoint, err := asn1.Marshal(uncompressed)
	if err != nil {
		t.Fatal(err)
	}
	raw(t, token, func(api *pkcs11.Ctx, session pkcs11.SessionHandle) {
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
			old, err := find(api, session, class, label)
			if err != nil || len(old) != 1 {
				t.Fatal(old, err)
			}
			if err := api.DestroyObject(session, old[0]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := api.CreateObject(session, append(privateTemplate(hsm.UseDH, true),
			attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
			attr(pkcs11.CKA_LABEL, label),
			attr(pkcs11.CKA_EC_PARAMS, p256), attr(pkcs11.CKA_VALUE, scalar))); err != nil {
			t.Fatal(err)
		}
		if _, err := api.CreateObject(session, append(publicTemplate(hsm.UseDH, true),
			attr(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
			attr(pkcs11.CKA_LABEL, label), attr(pkcs11.CKA_EC_POINT, ecPoint))); err != nil {
			t.Fatal(err)
		}
	})
}

func publicOf(t *testing.T, scalar []byte) []byte {
	t.Helper()
	public, err := oprf.PrivateKey{Key: secret.Key{B: [32]byte(scalar)}}.Public()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// RFC 9497 A.3.1 with skSm in the token.
func TestRFC9497(t *testing.T) {
	token := provisioned(t)
	tested := 0
	for _, v := range vectors.OPRF() {
		t.Run(v.String(), func(t *testing.T) {
			wrapped, public := importWrapped(t, token, v.SkSm)
			m := opened(t, Config{URI: token.URI})
			got, err := m.Evaluate(t.Context(), wrapped, public, v.BlindedElement)
			if err != nil || !bytes.Equal(got, v.EvaluationElement) {
				t.Fatalf("evaluated %x, %v, want %x", got, err, v.EvaluationElement)
			}
			output, err := oprf.Finalize(v.Input, oprf.Blind{Key: secret.Key{B: [32]byte(v.Blind)}}, v.BlindedElement, got)
			if err != nil || !bytes.Equal(output, v.Output) {
				t.Errorf("output %x, %v, want %x", output, err, v.Output)
			}
		})
		tested++
	}
	if tested != 2 {
		t.Errorf("%d vectors, not 2", tested)
	}
}

// RFC 9807 C.1.5, C.1.6 and C.2.3 with oprf_key and server_private_key in the
// token.
func TestRFC9807(t *testing.T) {
	tested := 0
	for _, v := range vectors.OPAQUE() {
		t.Run(v.String(), func(t *testing.T) { rfc9807(t, v) })
		tested++
	}
	if tested != 3 {
		t.Errorf("%d vectors, not 3", tested)
	}
}

func rfc9807(t *testing.T, v vectors.OPAQUECase) {
	token := provisioned(t)
	oprfKey, err := opaque.DeriveOPRFKey(v.OPRFSeed, v.CredentialIdentifier)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, public := importWrapped(t, token, oprfKey.B[:])
	importStatic(t, token, v.ServerPrivateKey)
	m := opened(t, Config{URI: token.URI})
	evaluate := func(ctx context.Context, blinded []byte) ([]byte, error) {
		return m.Evaluate(ctx, wrapped, public, blinded)
	}

	record := opaque.RegistrationRecord{
		ClientPublicKey: [opaque.Npk]byte(v.ClientPublicKey),
		MaskingKey:      secret.Key{B: [32]byte(v.MaskingKey)},
	}
	if !v.Fake {
		request, err := opaque.ParseRegistrationRequest(v.RegistrationRequest)
		if err != nil {
			t.Fatal(err)
		}
		response, err := opaque.CreateRegistrationResponse(t.Context(), evaluate, v.ServerPublicKey, request)
		if err != nil || !bytes.Equal(response.Bytes(), v.RegistrationResponse) {
			t.Errorf("registration_response %x, %v, want %x", response.Bytes(), err, v.RegistrationResponse)
		}
		if record, err = opaque.ParseRegistrationRecord(v.RegistrationUpload); err != nil {
			t.Fatal(err)
		}
	}
	ke1, err := opaque.ParseKE1(v.KE1)
	if err != nil {
		t.Fatal(err)
	}
	ke2, state, err := opaque.GenerateKE2(t.Context(), opaque.ServerParams{
		ServerIdentity:  v.ServerIdentity,
		ServerPublicKey: v.ServerPublicKey,
		Evaluate:        evaluate,
		DH: func(ctx context.Context, peer []byte) ([]byte, error) {
			return m.DH(ctx, hsm.Opaque, peer)
		},
		Context: v.Context,
		Fixed:   opaquetest.KE2(t, v),
	}, record, v.ClientIdentity, ke1)
	if err != nil || !bytes.Equal(ke2.Bytes(), v.KE2) {
		t.Fatalf("KE2 %x, %v, want %x", ke2.Bytes(), err, v.KE2)
	}
	if v.Fake {
		return
	}
	ke3, err := opaque.ParseKE3(v.KE3)
	if err != nil {
		t.Fatal(err)
	}
	sessionKey, err := state.Finish(ke3)
	if err != nil || !bytes.Equal(sessionKey.B[:], v.SessionKey) {
		t.Errorf("session_key %x, %v, want %x", sessionKey.B, err, v.SessionKey)
	}
}
