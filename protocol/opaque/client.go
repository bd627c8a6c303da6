package opaque

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"

	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
)

// ClientParams is what a client must know besides the password. It is given
// with the server's answer, because that may be what tells the identity.
type ClientParams struct {
	// ClientIdentity and ServerIdentity are at most 65,535 bytes; absent, the
	// public key stands for them. They must be the same at every login as at
	// the registration.
	ClientIdentity []byte
	ServerIdentity []byte
	// ServerPublicKey is the key that the client expects, Npk bytes, from a
	// source that it trusts. With another the result is ErrAuthentication.
	ServerPublicKey []byte
	// KSF stretches; the same at every login as at the registration. Its
	// errors are returned as they are.
	KSF KSF
	// Context is bound into a login, not into a registration. At most 65,535
	// bytes, the same at client and server.
	Context []byte
}

// blinded is the state that a registration and a login begin with.
type blinded struct {
	password secret.Bytes
	blind    oprf.Blind
	message  [oprf.ElementSize]byte
	used     bool
}

func newBlinded(password []byte, blind oprf.Blind) (blinded, error) {
	message, err := oprf.BlindInput(password, blind)
	if err != nil {
		return blinded{}, fmt.Errorf("blinding: %w", err)
	}
	return blinded{
		password: bytes.Clone(password),
		blind:    blind,
		message:  [oprf.ElementSize]byte(message),
	}, nil
}

// use panics at the second call. A blinded element may be evaluated twice, but
// the keyshare and nonces of a KE1 must not answer two KE2s.
func (b *blinded) use() {
	if b.used {
		panic("opaque: client state used twice")
	}
	b.used = true
}

func (b *blinded) wipe() {
	b.password.Wipe()
	b.blind.Wipe()
}

// Format implements fmt.Formatter. The fields would not redact themselves: fmt
// calls no methods of unexported fields.
func (blinded) Format(f fmt.State, _ rune) { io.WriteString(f, secret.Redacted) }

// randomizedPassword finalizes the OPRF and stretches.
func (b *blinded) randomizedPassword(evaluated [oprf.ElementSize]byte, ksf KSF) (randomizedPassword, error) {
	output, err := oprf.Finalize(b.password, b.blind, b.message[:], evaluated[:])
	if err != nil {
		// The length and the blind were checked before, so that the evaluated
		// element is at fault.
		return randomizedPassword{}, ErrAuthentication
	}
	defer clear(output)
	rwd, err := newRandomizedPassword(output, ksf)
	if err != nil {
		return rwd, fmt.Errorf("stretching: %w", err)
	}
	return rwd, nil
}

// ClientRegistration is a registration between its two steps; it works once.
type ClientRegistration struct{ blinded }

// CreateRegistrationRequest is the client's first step, RFC 9807 section
// 5.2.1. It keeps a copy of password until the second step.
func CreateRegistrationRequest(password []byte, blind oprf.Blind) (*ClientRegistration, RegistrationRequest, error) {
	b, err := newBlinded(password, blind)
	if err != nil {
		return nil, RegistrationRequest{}, err
	}
	return &ClientRegistration{b}, RegistrationRequest{BlindedMessage: b.message}, nil
}

// FinalizeRegistrationRequest is the client's second step, RFC 9807 section
// 5.2.3. The record goes to the server; the export key stays. A second call
// panics.
func (c *ClientRegistration) FinalizeRegistrationRequest(p ClientParams, response RegistrationResponse) (RegistrationRecord, ExportKey, error) {
	var envelopeNonce [Nn]byte
	rand.Read(envelopeNonce[:])
	return c.finalize(p, response, envelopeNonce)
}

func (c *ClientRegistration) finalize(p ClientParams, response RegistrationResponse, envelopeNonce [Nn]byte) (RegistrationRecord, ExportKey, error) {
	c.use()
	defer c.wipe()
	expected, err := element("expected server public key", p.ServerPublicKey)
	if err != nil {
		return RegistrationRecord{}, ExportKey{}, err
	}
	if equal(expected[:], response.ServerPublicKey[:]) != 1 {
		return RegistrationRecord{}, ExportKey{}, ErrAuthentication
	}
	rwd, err := c.randomizedPassword(response.EvaluatedMessage, p.KSF)
	if err != nil {
		return RegistrationRecord{}, ExportKey{}, err
	}
	defer rwd.Wipe()
	return store(rwd, expected, p, envelopeNonce)
}

// ClientLogin is a login between KE1 and KE3; it works once. After a failure
// make another from the same password and blind: the blinded element is the
// same again, nonce and keyshare are fresh.
type ClientLogin struct {
	blinded
	ke1          KE1
	clientSecret oprf.PrivateKey
}

// GenerateKE1 is the client's first step of a login, RFC 9807 section 6.2.1. It
// keeps a copy of password until the second step.
func GenerateKE1(password []byte, blind oprf.Blind) (*ClientLogin, KE1, error) {
	var clientNonce [Nn]byte
	var keyshareSeed [Nseed]byte
	rand.Read(clientNonce[:])
	rand.Read(keyshareSeed[:])
	return generateKE1(password, blind, clientNonce, keyshareSeed)
}

func generateKE1(password []byte, blind oprf.Blind, clientNonce [Nn]byte, keyshareSeed [Nseed]byte) (*ClientLogin, KE1, error) {
	b, err := newBlinded(password, blind)
	if err != nil {
		return nil, KE1{}, err
	}
	clientSecret, clientPublicKeyshare, err := deriveDiffieHellmanKeyPair(keyshareSeed)
	if err != nil {
		return nil, KE1{}, err
	}
	ke1 := KE1{BlindedMessage: b.message, ClientNonce: clientNonce, ClientPublicKeyshare: clientPublicKeyshare}
	return &ClientLogin{blinded: b, ke1: ke1, clientSecret: clientSecret}, ke1, nil
}

// GenerateKE3 is the client's second step of a login, RFC 9807 section 6.2.3.
// ErrAuthentication is the one verdict on KE2, reached after everything was
// computed; other errors are the client's own (parameters, KSF). A second call
// panics.
func (c *ClientLogin) GenerateKE3(p ClientParams, ke2 KE2) (KE3, SessionKey, ExportKey, error) {
	c.use()
	defer c.wipe()
	defer c.clientSecret.Wipe()
	ke3, sessionKey, exportKey, err := c.authClientFinalize(p, ke2)
	if err != nil {
		return KE3{}, SessionKey{}, ExportKey{}, err
	}
	return ke3, sessionKey, exportKey, nil
}

// authClientFinalize is RecoverCredentials and AuthClientFinalize of RFC 9807
// sections 6.3.2.3 and 6.4.3. The RFC stops at the first failure; here three
// comparisons make one verdict, and until then the expected public key stands
// for the recovered one.
func (c *ClientLogin) authClientFinalize(p ClientParams, ke2 KE2) (ke3 KE3, sessionKey SessionKey, exportKey ExportKey, err error) {
	serverPublicKey, err := element("expected server public key", p.ServerPublicKey)
	if err != nil {
		return
	}
	rwd, err := c.randomizedPassword(ke2.CredentialResponse.EvaluatedMessage, p.KSF)
	if err != nil {
		return
	}
	defer rwd.Wipe()

	cr := ke2.CredentialResponse
	response := mask(rwd.maskingKey(), cr.MaskingNonce, cr.MaskedResponse)
	rightServer := equal(response[:Npk], serverPublicKey[:])
	envelope := Envelope{
		Nonce:   [Nn]byte(response[Npk : Npk+Nn]),
		AuthTag: [Nh]byte(response[Npk+Nn:]),
	}
	k, id, rightEnvelope, err := recoverEnvelope(rwd, serverPublicKey, envelope, p)
	if err != nil {
		return
	}
	defer k.clientPrivateKey.Wipe()

	keys, transcript, err := c.tripleDH(p.Context, id, ke2, serverPublicKey, k.clientPrivateKey)
	if err != nil {
		return
	}
	serverMAC, clientMAC := keys.confirm(transcript)
	rightMAC := equal(serverMAC[:], ke2.ServerMAC[:])

	if rightServer&rightEnvelope&rightMAC != 1 {
		err = ErrAuthentication
		return
	}
	return KE3{ClientMAC: clientMAC}, keys.sessionKey, k.exportKey, nil
}

// tripleDH is the client's side of RFC 9807 section 6.4.3.
func (c *ClientLogin) tripleDH(context []byte, id identities, ke2 KE2, serverPublicKey [Npk]byte, clientPrivateKey oprf.PrivateKey) (akeKeys, []byte, error) {
	transcript, err := preamble(context, id, c.ke1, ke2)
	if err != nil {
		return akeKeys{}, nil, err
	}
	dh1, err := diffieHellman(c.clientSecret, ke2.ServerPublicKeyshare)
	if err != nil {
		return akeKeys{}, nil, ErrAuthentication
	}
	dh2, err := diffieHellman(c.clientSecret, serverPublicKey)
	if err != nil {
		return akeKeys{}, nil, err
	}
	dh3, err := diffieHellman(clientPrivateKey, ke2.ServerPublicKeyshare)
	if err != nil {
		return akeKeys{}, nil, ErrAuthentication
	}
	return deriveKeys(sha256.Sum256(transcript), dh1, dh2, dh3), transcript, nil
}
