package opaque

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"

	"chatvault/protocol/opaque/internal/fixed"
	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
)

// EvaluateFunc multiplies a blinded element (33 bytes) by the OPRF key of one
// record: BlindEvaluate of RFC 9497, 33 bytes.
type EvaluateFunc func(ctx context.Context, blinded []byte) (evaluated []byte, err error)

// DHFunc multiplies an element (33 bytes) by the server's static private key:
// DiffieHellman of RFC 9807 section 6.4.1.2, 33 bytes.
type DHFunc func(ctx context.Context, peer []byte) (point []byte, err error)

// ServerParams is what a server must know and do for one login.
type ServerParams struct {
	// ServerIdentity is at most 65,535 bytes; absent, the public key stands
	// for it.
	ServerIdentity []byte
	// ServerPublicKey belongs to the key behind DH, Npk bytes.
	ServerPublicKey []byte
	// Evaluate and DH use the private keys. Their errors are returned
	// wrapped; their results are checked to be elements.
	Evaluate EvaluateFunc
	DH       DHFunc
	// Context is bound into the login, at most 65,535 bytes, the same at
	// client and server.
	Context []byte
	// Fixed is nil except in tests of vectors, which make it with
	// opaquetest.KE2.
	Fixed *fixed.KE2
}

// CreateRegistrationResponse is RFC 9807 section 5.2.2 with an injected
// evaluation, which must be under a fresh OPRF key: under a live one it would
// be an oracle for passwords that nobody counts (attack A4).
func CreateRegistrationResponse(ctx context.Context, evaluate EvaluateFunc, serverPublicKey []byte, request RegistrationRequest) (RegistrationResponse, error) {
	pk, err := element("server public key", serverPublicKey)
	if err != nil {
		return RegistrationResponse{}, err
	}
	evaluated, err := blindEvaluate(ctx, evaluate, request.BlindedMessage)
	if err != nil {
		return RegistrationResponse{}, err
	}
	return RegistrationResponse{EvaluatedMessage: evaluated, ServerPublicKey: pk}, nil
}

func blindEvaluate(ctx context.Context, evaluate EvaluateFunc, blinded [oprf.ElementSize]byte) ([oprf.ElementSize]byte, error) {
	b, err := evaluate(ctx, blinded[:])
	if err != nil {
		return [oprf.ElementSize]byte{}, fmt.Errorf("evaluating: %w", err)
	}
	return element("evaluated element", b)
}

// AKEState is the server's side of a login between KE2 and KE3. It holds the
// session key; whoever drops it before Finish should Wipe it.
type AKEState struct {
	expectedClientMAC secret.Key
	sessionKey        SessionKey
	used              bool
}

// GenerateKE2 is GenerateKE2 of RFC 9807 section 6.2.2. The attempt must have
// been charged before, because this evaluates.
func GenerateKE2(ctx context.Context, p ServerParams, record RegistrationRecord, clientIdentity []byte, ke1 KE1) (KE2, *AKEState, error) {
	serverPublicKey, err := element("server public key", p.ServerPublicKey)
	if err != nil {
		return KE2{}, nil, err
	}
	random := p.Fixed
	if random == nil {
		random = new(fixed.KE2)
		rand.Read(random.MaskingNonce[:])
		rand.Read(random.ServerNonce[:])
		rand.Read(random.ServerKeyshareSeed[:])
		defer clear(random.ServerKeyshareSeed[:])
	}
	id, err := newIdentities(clientIdentity, record.ClientPublicKey[:], p.ServerIdentity, serverPublicKey[:])
	if err != nil {
		return KE2{}, nil, err
	}
	login := serverLogin{p, serverPublicKey, id, record, ke1}
	credentialResponse, err := login.createCredentialResponse(ctx, random.MaskingNonce)
	if err != nil {
		return KE2{}, nil, err
	}
	serverSecret, serverPublicKeyshare, err := deriveDiffieHellmanKeyPair(random.ServerKeyshareSeed)
	if err != nil {
		return KE2{}, nil, err
	}
	defer serverSecret.Wipe()
	ke2 := KE2{
		CredentialResponse:   credentialResponse,
		ServerNonce:          random.ServerNonce,
		ServerPublicKeyshare: serverPublicKeyshare,
	}
	state, err := login.authServerRespond(ctx, serverSecret, &ke2)
	if err != nil {
		return KE2{}, nil, err
	}
	return ke2, state, nil
}

// serverLogin is what the steps of GenerateKE2 have in common.
type serverLogin struct {
	ServerParams
	serverPublicKey [Npk]byte
	id              identities
	record          RegistrationRecord
	ke1             KE1
}

// createCredentialResponse is CreateCredentialResponse of RFC 9807 section
// 6.3.2.2.
func (l *serverLogin) createCredentialResponse(ctx context.Context, maskingNonce [Nn]byte) (CredentialResponse, error) {
	evaluated, err := blindEvaluate(ctx, l.Evaluate, l.ke1.BlindedMessage)
	if err != nil {
		return CredentialResponse{}, err
	}
	response := concat(maskedResponseSize, l.serverPublicKey[:], l.record.Envelope.Bytes())
	return CredentialResponse{
		EvaluatedMessage: evaluated,
		MaskingNonce:     maskingNonce,
		MaskedResponse:   mask(l.record.MaskingKey, maskingNonce, [maskedResponseSize]byte(response)),
	}, nil
}

// authServerRespond is AuthServerRespond of RFC 9807 section 6.4.4: it adds
// server_mac to ke2.
func (l *serverLogin) authServerRespond(ctx context.Context, serverSecret oprf.PrivateKey, ke2 *KE2) (*AKEState, error) {
	transcript, err := preamble(l.Context, l.id, l.ke1, *ke2)
	if err != nil {
		return nil, err
	}
	dh1, err := diffieHellman(serverSecret, l.ke1.ClientPublicKeyshare)
	if err != nil {
		return nil, fmt.Errorf("client keyshare: %w", err)
	}
	dh2, err := l.DH(ctx, l.ke1.ClientPublicKeyshare[:])
	if err != nil {
		return nil, fmt.Errorf("static Diffie-Hellman: %w", err)
	}
	if err := oprf.CheckElement(dh2); err != nil {
		return nil, fmt.Errorf("static Diffie-Hellman: %w", err)
	}
	dh3, err := diffieHellman(serverSecret, l.record.ClientPublicKey)
	if err != nil {
		return nil, fmt.Errorf("client public key: %w", err)
	}
	keys := deriveKeys(sha256.Sum256(transcript), dh1, dh2, dh3)
	serverMAC, clientMAC := keys.confirm(transcript)
	ke2.ServerMAC = serverMAC
	return &AKEState{expectedClientMAC: secret.Key{B: clientMAC}, sessionKey: keys.sessionKey}, nil
}

// Finish is ServerFinish of RFC 9807 section 6.2.4: it returns the session key
// if KE3 shows the right password, else ErrAuthentication. It works once, and
// a second call panics: a state that took two KE3s would allow guessing. Not
// safe for concurrent use.
func (s *AKEState) Finish(ke3 KE3) (SessionKey, error) {
	if s.used {
		panic("opaque: AKEState used twice")
	}
	s.used = true
	defer s.wipe()
	if !s.expectedClientMAC.Equal(secret.Key{B: ke3.ClientMAC}) {
		return SessionKey{}, ErrAuthentication
	}
	return s.sessionKey, nil
}

// Wipe ends a login without a KE3. Finish panics afterwards.
func (s *AKEState) Wipe() {
	s.used = true
	s.wipe()
}

// Format implements fmt.Formatter. The fields would not redact themselves: fmt
// calls no methods of unexported fields.
func (AKEState) Format(f fmt.State, _ rune) { io.WriteString(f, secret.Redacted) }

func (s *AKEState) wipe() {
	s.expectedClientMAC.Wipe()
	s.sessionKey.Wipe()
}
