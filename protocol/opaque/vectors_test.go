package opaque

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	"chatvault/protocol/opaque/internal/fixed"
	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
	"chatvault/protocol/vectors"
)

// identityKSF is the KSF of the RFC's vectors.
func identityKSF(b []byte) ([]byte, error) { return bytes.Clone(b), nil }

func key(b []byte) secret.Key { return secret.Key{B: [32]byte(b)} }

func same(t *testing.T, name string, got, want []byte) {
	t.Helper()
	if len(want) == 0 || !bytes.Equal(got, want) {
		t.Errorf("%s = %x, want %x", name, got, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// software multiplies by a key in memory.
func software(k oprf.PrivateKey) func(context.Context, []byte) ([]byte, error) {
	return func(_ context.Context, b []byte) ([]byte, error) { return oprf.Evaluate(k, b) }
}

func vectorServer(t *testing.T, v vectors.OPAQUECase) ServerParams {
	t.Helper()
	oprfKey, err := DeriveOPRFKey(v.OPRFSeed, v.CredentialIdentifier)
	must(t, err)
	if !v.Fake {
		same(t, "oprf_key", oprfKey.B[:], v.OPRFKey)
	}
	serverKey := oprf.PrivateKey{Key: key(v.ServerPrivateKey)}
	public, err := serverKey.Public()
	must(t, err)
	same(t, "server_public_key", public, v.ServerPublicKey)
	return ServerParams{
		ServerIdentity:  v.ServerIdentity,
		ServerPublicKey: v.ServerPublicKey,
		Evaluate:        software(oprfKey),
		DH:              software(serverKey),
		Context:         v.Context,
		Fixed: &fixed.KE2{
			MaskingNonce:       [32]byte(v.MaskingNonce),
			ServerNonce:        [32]byte(v.ServerNonce),
			ServerKeyshareSeed: [32]byte(v.ServerKeyshareSeed),
		},
	}
}

func vectorClient(v vectors.OPAQUECase) ClientParams {
	return ClientParams{
		ClientIdentity:  v.ClientIdentity,
		ServerIdentity:  v.ServerIdentity,
		ServerPublicKey: v.ServerPublicKey,
		KSF:             identityKSF,
		Context:         v.Context,
	}
}

func TestRealVectors(t *testing.T) {
	for _, v := range vectors.OPAQUE() {
		if v.Fake {
			continue
		}
		t.Run(v.String(), func(t *testing.T) {
			record := vectorRegistration(t, v)
			vectorLogin(t, v, record)
			vectorIntermediates(t, v)
		})
	}
}

func vectorRegistration(t *testing.T, v vectors.OPAQUECase) RegistrationRecord {
	client, request, err := CreateRegistrationRequest(v.Password, oprf.Blind{Key: key(v.BlindRegistration)})
	must(t, err)
	same(t, "registration_request", request.Bytes(), v.RegistrationRequest)
	response, err := CreateRegistrationResponse(t.Context(), vectorServer(t, v).Evaluate, v.ServerPublicKey, request)
	must(t, err)
	same(t, "registration_response", response.Bytes(), v.RegistrationResponse)
	record, exportKey, err := client.finalize(vectorClient(v), response, [Nn]byte(v.EnvelopeNonce))
	must(t, err)
	same(t, "registration_upload", record.Bytes(), v.RegistrationUpload)
	same(t, "client_public_key", record.ClientPublicKey[:], v.ClientPublicKey)
	same(t, "masking_key", record.MaskingKey.B[:], v.MaskingKey)
	same(t, "envelope", record.Envelope.Bytes(), v.Envelope)
	same(t, "export_key", exportKey.B[:], v.ExportKey)
	return record
}

func vectorLogin(t *testing.T, v vectors.OPAQUECase, record RegistrationRecord) {
	client, ke1, err := generateKE1(v.Password, oprf.Blind{Key: key(v.BlindLogin)}, [Nn]byte(v.ClientNonce), [Nseed]byte(v.ClientKeyshareSeed))
	must(t, err)
	same(t, "KE1", ke1.Bytes(), v.KE1)
	ke2, state, err := GenerateKE2(t.Context(), vectorServer(t, v), record, v.ClientIdentity, ke1)
	must(t, err)
	same(t, "KE2", ke2.Bytes(), v.KE2)
	ke3, sessionKey, exportKey, err := client.GenerateKE3(vectorClient(v), ke2)
	must(t, err)
	same(t, "KE3", ke3.Bytes(), v.KE3)
	same(t, "session_key of the client", sessionKey.B[:], v.SessionKey)
	same(t, "export_key", exportKey.B[:], v.ExportKey)
	sessionKey, err = state.Finish(ke3)
	must(t, err)
	same(t, "session_key of the server", sessionKey.B[:], v.SessionKey)
}

// vectorIntermediates compares the values that no message shows.
func vectorIntermediates(t *testing.T, v vectors.OPAQUECase) {
	evaluated, err := ParseRegistrationResponse(v.RegistrationResponse)
	must(t, err)
	output, err := oprf.Finalize(v.Password, oprf.Blind{Key: key(v.BlindRegistration)}, v.RegistrationRequest, evaluated.EvaluatedMessage[:])
	must(t, err)
	rwd, err := newRandomizedPassword(output, identityKSF)
	must(t, err)
	same(t, "randomized_password", rwd.B[:], v.RandomizedPassword)
	k, err := rwd.envelopeKeys([Nn]byte(v.EnvelopeNonce))
	must(t, err)
	same(t, "auth_key", k.authKey.B[:], v.AuthKey)

	ke1, err := ParseKE1(v.KE1)
	must(t, err)
	ke2, err := ParseKE2(v.KE2)
	must(t, err)
	login, _, err := generateKE1(v.Password, oprf.Blind{Key: key(v.BlindLogin)}, [Nn]byte(v.ClientNonce), [Nseed]byte(v.ClientKeyshareSeed))
	must(t, err)
	id, err := newIdentities(v.ClientIdentity, v.ClientPublicKey, v.ServerIdentity, v.ServerPublicKey)
	must(t, err)
	keys, transcript, err := login.tripleDH(v.Context, id, ke2, [Npk]byte(v.ServerPublicKey), k.clientPrivateKey)
	must(t, err)
	want, err := preamble(v.Context, id, ke1, ke2)
	must(t, err)
	if sha256.Sum256(transcript) != sha256.Sum256(want) {
		t.Error("the client's KE1 is not the vector's")
	}
	same(t, "handshake_secret", keys.handshakeSecret.B[:], v.HandshakeSecret)
	same(t, "server_mac_key", keys.km2.B[:], v.ServerMACKey)
	same(t, "client_mac_key", keys.km3.B[:], v.ClientMACKey)
}

// A fake record has random keys and an empty envelope (RFC 9807 section
// 6.3.2.2), and its KE2 is made as any other.
func TestFakeVector(t *testing.T) {
	tested := 0
	for _, v := range vectors.OPAQUE() {
		if !v.Fake {
			continue
		}
		tested++
		t.Run(v.String(), func(t *testing.T) {
			record := RegistrationRecord{ClientPublicKey: [Npk]byte(v.ClientPublicKey), MaskingKey: key(v.MaskingKey)}
			public, err := oprf.PrivateKey{Key: key(v.ClientPrivateKey)}.Public()
			must(t, err)
			same(t, "client_public_key", public, v.ClientPublicKey)
			ke1, err := ParseKE1(v.KE1)
			must(t, err)
			_, keyshare, err := deriveDiffieHellmanKeyPair([Nseed]byte(v.ClientKeyshareSeed))
			must(t, err)
			same(t, "keyshare in KE1", keyshare[:], v.KE1[KE1Size-Npk:])
			ke2, state, err := GenerateKE2(t.Context(), vectorServer(t, v), record, v.ClientIdentity, ke1)
			must(t, err)
			same(t, "KE2", ke2.Bytes(), v.KE2)
			if _, err := state.Finish(KE3{}); !errors.Is(err, ErrAuthentication) {
				t.Errorf("Finish: %v", err)
			}
		})
	}
	if tested == 0 {
		t.Error("no fake vector")
	}
}
