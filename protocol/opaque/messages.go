package opaque

import (
	"fmt"

	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
)

// The messages of RFC 9807, all of fixed size:
//
//	RegistrationRequest   33  blinded_message 33
//	RegistrationResponse  66  evaluated_message 33, server_public_key 33
//	RegistrationRecord   129  client_public_key 33, masking_key 32, envelope 64
//	  Envelope            64  envelope_nonce 32, auth_tag 32
//	KE1                   98  blinded_message 33, client_nonce 32, client_public_keyshare 33
//	KE2                  259  credential_response 162, auth_response 97
//	  CredentialResponse 162  evaluated_message 33, masking_nonce 32, masked_response 97
//	  AuthResponse        97  server_nonce 32, server_public_keyshare 33, server_mac 32
//	KE3                   32  client_mac 32
//
// The parsers take exactly these sizes and only elements of the group; every
// error is an ErrMessage. What they return encodes to the same bytes.
const (
	RegistrationRequestSize  = oprf.ElementSize
	RegistrationResponseSize = oprf.ElementSize + Npk
	RegistrationRecordSize   = Npk + Nh + EnvelopeSize
	EnvelopeSize             = Nn + Nh
	KE1Size                  = oprf.ElementSize + Nn + Npk
	KE2Size                  = credentialResponseSize + Nn + Npk + Nh
	KE3Size                  = Nh

	maskedResponseSize     = Npk + EnvelopeSize
	credentialResponseSize = oprf.ElementSize + Nn + maskedResponseSize
)

// RegistrationRequest is the client's first message of a registration.
type RegistrationRequest struct {
	BlindedMessage [oprf.ElementSize]byte
}

// RegistrationResponse is the server's answer to a RegistrationRequest.
type RegistrationResponse struct {
	EvaluatedMessage [oprf.ElementSize]byte
	ServerPublicKey  [Npk]byte
}

// RegistrationRecord is what the server stores. With the OPRF key it lets
// passwords be tested offline.
type RegistrationRecord struct {
	ClientPublicKey [Npk]byte
	MaskingKey      secret.Key
	Envelope        Envelope
}

// Envelope authenticates the server's public key and the identities to a
// client that has the password (RFC 9807 section 4.1).
type Envelope struct {
	Nonce   [Nn]byte
	AuthTag [Nh]byte
}

// KE1 is the client's first message of a login.
type KE1 struct {
	BlindedMessage       [oprf.ElementSize]byte
	ClientNonce          [Nn]byte
	ClientPublicKeyshare [Npk]byte
}

// KE2 is the server's answer to a KE1.
type KE2 struct {
	CredentialResponse   CredentialResponse
	ServerNonce          [Nn]byte
	ServerPublicKeyshare [Npk]byte
	ServerMAC            [Nh]byte
}

// CredentialResponse is the part of KE2 that carries the envelope.
type CredentialResponse struct {
	EvaluatedMessage [oprf.ElementSize]byte
	MaskingNonce     [Nn]byte
	MaskedResponse   [maskedResponseSize]byte
}

// KE3 is the client's second message: it shows that the password was right.
type KE3 struct {
	ClientMAC [Nh]byte
}

// reader cuts a message of checked size into its fields and remembers the
// first element that is not one.
type reader struct {
	b   []byte
	err error
}

func newReader(name string, b []byte, size int) *reader {
	if len(b) != size {
		return &reader{err: fmt.Errorf("%w: %s has %d bytes, not %d", ErrMessage, name, len(b), size)}
	}
	return &reader{b: b}
}

func (r *reader) read(field []byte) {
	if r.err == nil {
		r.b = r.b[copy(field, r.b):]
	}
}

func (r *reader) readElement(name string, field *[oprf.ElementSize]byte) {
	r.read(field[:])
	if r.err != nil {
		return
	}
	if err := oprf.CheckElement(field[:]); err != nil {
		r.err = fmt.Errorf("%w: %s: %w", ErrMessage, name, err)
	}
}

// finish returns the message, or nothing of it.
func finish[T any](r *reader, m T) (T, error) {
	if r.err != nil {
		var zero T
		return zero, r.err
	}
	return m, nil
}

func concat(size int, fields ...[]byte) []byte {
	b := make([]byte, 0, size)
	for _, f := range fields {
		b = append(b, f...)
	}
	return b
}

// ParseRegistrationRequest reads RegistrationRequestSize bytes.
func ParseRegistrationRequest(b []byte) (m RegistrationRequest, err error) {
	r := newReader("RegistrationRequest", b, RegistrationRequestSize)
	r.readElement("blinded_message", &m.BlindedMessage)
	return finish(r, m)
}

// Bytes encodes the message.
func (m RegistrationRequest) Bytes() []byte {
	return concat(RegistrationRequestSize, m.BlindedMessage[:])
}

// ParseRegistrationResponse reads RegistrationResponseSize bytes.
func ParseRegistrationResponse(b []byte) (m RegistrationResponse, err error) {
	r := newReader("RegistrationResponse", b, RegistrationResponseSize)
	r.readElement("evaluated_message", &m.EvaluatedMessage)
	r.readElement("server_public_key", &m.ServerPublicKey)
	return finish(r, m)
}

// Bytes encodes the message.
func (m RegistrationResponse) Bytes() []byte {
	return concat(RegistrationResponseSize, m.EvaluatedMessage[:], m.ServerPublicKey[:])
}

// ParseRegistrationRecord reads RegistrationRecordSize bytes.
func ParseRegistrationRecord(b []byte) (m RegistrationRecord, err error) {
	r := newReader("RegistrationRecord", b, RegistrationRecordSize)
	r.readElement("client_public_key", &m.ClientPublicKey)
	r.read(m.MaskingKey.B[:])
	r.read(m.Envelope.Nonce[:])
	r.read(m.Envelope.AuthTag[:])
	return finish(r, m)
}

// Bytes encodes the record, masking key included.
func (m RegistrationRecord) Bytes() []byte {
	return concat(RegistrationRecordSize, m.ClientPublicKey[:], m.MaskingKey.B[:], m.Envelope.Bytes())
}

// Bytes encodes the envelope, EnvelopeSize bytes.
func (e Envelope) Bytes() []byte {
	return concat(EnvelopeSize, e.Nonce[:], e.AuthTag[:])
}

// ParseKE1 reads KE1Size bytes.
func ParseKE1(b []byte) (m KE1, err error) {
	r := newReader("KE1", b, KE1Size)
	r.readElement("blinded_message", &m.BlindedMessage)
	r.read(m.ClientNonce[:])
	r.readElement("client_public_keyshare", &m.ClientPublicKeyshare)
	return finish(r, m)
}

// Bytes encodes the message.
func (m KE1) Bytes() []byte {
	return concat(KE1Size, m.BlindedMessage[:], m.ClientNonce[:], m.ClientPublicKeyshare[:])
}

// ParseKE2 reads KE2Size bytes.
func ParseKE2(b []byte) (m KE2, err error) {
	r := newReader("KE2", b, KE2Size)
	r.readElement("evaluated_message", &m.CredentialResponse.EvaluatedMessage)
	r.read(m.CredentialResponse.MaskingNonce[:])
	r.read(m.CredentialResponse.MaskedResponse[:])
	r.read(m.ServerNonce[:])
	r.readElement("server_public_keyshare", &m.ServerPublicKeyshare)
	r.read(m.ServerMAC[:])
	return finish(r, m)
}

// Bytes encodes the message.
func (m KE2) Bytes() []byte {
	return concat(KE2Size, m.CredentialResponse.bytes(), m.ServerNonce[:], m.ServerPublicKeyshare[:], m.ServerMAC[:])
}

func (m CredentialResponse) bytes() []byte {
	return concat(credentialResponseSize, m.EvaluatedMessage[:], m.MaskingNonce[:], m.MaskedResponse[:])
}

// ParseKE3 reads KE3Size bytes.
func ParseKE3(b []byte) (m KE3, err error) {
	r := newReader("KE3", b, KE3Size)
	r.read(m.ClientMAC[:])
	return finish(r, m)
}

// Bytes encodes the message.
func (m KE3) Bytes() []byte { return concat(KE3Size, m.ClientMAC[:]) }
