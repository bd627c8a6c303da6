package vectors

// H2C is a case of hash_to_curve, RFC 9380 appendix J.1.1: suite
// P256_XMD:SHA-256_SSWU_RO_. Coordinates are 32 bytes, big-endian.
type H2C struct {
	Source
	DST Hex `json:"dst"`
	Msg Hex `json:"msg"`
	U0  Hex `json:"u0"`
	U1  Hex `json:"u1"`
	Q0X Hex `json:"q0_x"`
	Q0Y Hex `json:"q0_y"`
	Q1X Hex `json:"q1_x"`
	Q1Y Hex `json:"q1_y"`
	PX  Hex `json:"p_x"`
	PY  Hex `json:"p_y"`
}

// HashToCurveP256 returns the five cases of RFC 9380 J.1.1.
func HashToCurveP256() []H2C { return load[H2C]("hashtocurve_p256.json") }

// ElementCase is the encoding of an element of P-256, valid or not by
// RFC 9497 section 4.3. The values are the project's own; each invalid case
// has one fault.
type ElementCase struct {
	Source
	Valid   bool `json:"valid"`
	Element Hex  `json:"element"`
}

// Elements returns encodings of elements that a parser must accept or refuse.
func Elements() []ElementCase { return load[ElementCase]("elements_p256.json") }

// OPRFCase is a case of OPRF(P-256, SHA-256) in mode 0x00, RFC 9497 A.3.1.
type OPRFCase struct {
	Source
	Seed              Hex `json:"seed"`
	KeyInfo           Hex `json:"key_info"`
	SkSm              Hex `json:"sk_sm"`
	Input             Hex `json:"input"`
	Blind             Hex `json:"blind"`
	BlindedElement    Hex `json:"blinded_element"`
	EvaluationElement Hex `json:"evaluation_element"`
	Output            Hex `json:"output"`
}

// OPRF returns the two cases of RFC 9497 A.3.1.
func OPRF() []OPRFCase { return load[OPRFCase]("oprf_p256.json") }

// OPAQUECase is a case of OPAQUE-3DH with P256-SHA256, HKDF-SHA256,
// HMAC-SHA256 and the identity as KSF, RFC 9807 appendix C. A fake case has
// the inputs of a record that nobody registered, KE1 among them, and KE2 as
// its only output.
type OPAQUECase struct {
	Source
	Fake    bool `json:"fake"`
	Context Hex  `json:"context"`

	// Inputs.
	OPRFSeed             Hex `json:"oprf_seed"`
	CredentialIdentifier Hex `json:"credential_identifier"`
	Password             Hex `json:"password"`
	ClientIdentity       Hex `json:"client_identity"`
	ServerIdentity       Hex `json:"server_identity"`
	ServerPrivateKey     Hex `json:"server_private_key"`
	ServerPublicKey      Hex `json:"server_public_key"`
	BlindRegistration    Hex `json:"blind_registration"`
	BlindLogin           Hex `json:"blind_login"`
	EnvelopeNonce        Hex `json:"envelope_nonce"`
	MaskingNonce         Hex `json:"masking_nonce"`
	ClientNonce          Hex `json:"client_nonce"`
	ServerNonce          Hex `json:"server_nonce"`
	ClientKeyshareSeed   Hex `json:"client_keyshare_seed"`
	ServerKeyshareSeed   Hex `json:"server_keyshare_seed"`
	ClientPrivateKey     Hex `json:"client_private_key"` // fake only

	// Intermediate values; client_public_key and masking_key are inputs of a
	// fake case.
	ClientPublicKey    Hex `json:"client_public_key"`
	MaskingKey         Hex `json:"masking_key"`
	AuthKey            Hex `json:"auth_key"`
	RandomizedPassword Hex `json:"randomized_password"`
	Envelope           Hex `json:"envelope"`
	OPRFKey            Hex `json:"oprf_key"`
	HandshakeSecret    Hex `json:"handshake_secret"`
	ServerMACKey       Hex `json:"server_mac_key"`
	ClientMACKey       Hex `json:"client_mac_key"`

	// Outputs.
	RegistrationRequest  Hex `json:"registration_request"`
	RegistrationResponse Hex `json:"registration_response"`
	RegistrationUpload   Hex `json:"registration_upload"`
	KE1                  Hex `json:"ke1"`
	KE2                  Hex `json:"ke2"`
	KE3                  Hex `json:"ke3"`
	ExportKey            Hex `json:"export_key"`
	SessionKey           Hex `json:"session_key"`
}

// OPAQUE returns RFC 9807 C.1.5, C.1.6 (real) and C.2.3 (fake).
func OPAQUE() []OPAQUECase { return load[OPAQUECase]("opaque_p256.json") }
