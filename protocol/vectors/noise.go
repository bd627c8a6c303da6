package vectors

// NoiseCase is one Noise handshake of two messages over 25519, AES-GCM and
// SHA-256, followed by transport messages that alternate from the initiator.
// No public vectors are over P-256: these show that a state machine is driven
// rightly, NoiseSessionCase covers our curve.
type NoiseCase struct {
	Source
	Origin             string         `json:"origin"` // where it was published
	Protocol           string         `json:"protocol"`
	Prologue           Hex            `json:"prologue,omitempty"`
	PSK                Hex            `json:"psk,omitempty"` // absent: a pattern without psk
	ResponderStatic    Hex            `json:"responder_static"`
	InitiatorEphemeral Hex            `json:"initiator_ephemeral"`
	ResponderEphemeral Hex            `json:"responder_ephemeral"`
	HandshakeHash      Hex            `json:"handshake_hash,omitempty"` // absent: not published
	Messages           []NoiseMessage `json:"messages"`
}

// NoiseMessage is a payload and what goes on the wire.
type NoiseMessage struct {
	Payload    Hex `json:"payload"`
	Ciphertext Hex `json:"ciphertext"`
}

// NoiseSessionCase is one vault session of Noise_NKpsk2_P256_AESGCM_SHA256 with
// all its randomness: private keys are 32-byte scalars, the ML-KEM-768 seed is
// d ‖ z (64 bytes, FIPS 203 §7.1), the encapsulation's randomness m (32 bytes, §7.2).
type NoiseSessionCase struct {
	Source
	Fleet               string           `json:"fleet"`
	Prologue            Hex              `json:"prologue"`
	VaultStatic         Hex              `json:"vault_static"`
	VaultStaticPublic   Hex              `json:"vault_static_public"`
	InitiatorEphemeral  Hex              `json:"initiator_ephemeral"`
	InitiatorKEMSeed    Hex              `json:"initiator_kem_seed"`
	ResponderEphemeral  Hex              `json:"responder_ephemeral"`
	ResponderKEMEntropy Hex              `json:"responder_kem_entropy"`
	PSK                 Hex              `json:"psk"`
	Message1            Hex              `json:"message1"`
	Message2            Hex              `json:"message2"`
	HandshakeHash       Hex              `json:"handshake_hash"`
	SessionID           Hex              `json:"session_id"`
	Transport           []NoiseTransport `json:"transport"`
}

// NoiseTransport is one message of the session, sealed.
type NoiseTransport struct {
	FromInitiator  bool   `json:"from_initiator"`
	SequenceNumber uint32 `json:"sequence_number"`
	Plaintext      Hex    `json:"plaintext"`
	Ciphertext     Hex    `json:"ciphertext"`
}

// Noise returns the cases of noise.json.
func Noise() []NoiseCase { return load[NoiseCase]("noise.json") }

// NoiseSessions returns the cases of noise_session.json.
func NoiseSessions() []NoiseSessionCase { return load[NoiseSessionCase]("noise_session.json") }
