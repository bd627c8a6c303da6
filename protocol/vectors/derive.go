package vectors

// The derivations of SPEC.md. Their values come from a second implementation,
// written in Python from the text of SPEC.md alone. A generation is 8 bytes,
// big-endian, because JSON's numbers end at 2^53.

// AccountCase is what is made of an account, a fleet and a password: SPEC.md
// 5.6, 9.3 and 9.4.
type AccountCase struct {
	Source
	Password       Hex    `json:"password"` // normalised
	Fleet          string `json:"fleet"`
	Issuer         string `json:"issuer"`
	Subject        string `json:"subject"`
	Generation     Hex    `json:"generation"`
	Account        Hex    `json:"account"`
	AccountHash    Hex    `json:"account_hash"`
	ClientIdentity Hex    `json:"client_identity"`
	OPRFInput      Hex    `json:"oprf_input"`
}

// ContextCase is OPAQUE's context: SPEC.md 9.5.
type ContextCase struct {
	Source
	MemoryKiB     uint32 `json:"memory_kib"`
	Time          uint32 `json:"time"`
	Parallelism   uint8  `json:"parallelism"`
	HandshakeHash Hex    `json:"handshake_hash"`
	Context       Hex    `json:"context"`
}

// ProofCase is a device key's thumbprint and its two proofs of possession:
// SPEC.md 5.5, 5.7 and 5.8. The ticket is any text, not a real one. ECDSA is
// randomised: the signatures are to be verified, the digests to be compared.
type ProofCase struct {
	Source
	DevicePrivate   Hex    `json:"device_private"`
	DevicePublic    Hex    `json:"device_public"`
	Thumbprint      Hex    `json:"thumbprint"`
	JKT             string `json:"jkt"`
	Ticket          string `json:"ticket"`
	TicketHash      Hex    `json:"ticket_hash"`
	Nonce           Hex    `json:"nonce"`
	Host            string `json:"host"`
	RelayAuthDigest Hex    `json:"relay_auth_digest"`
	RelayAuth       Hex    `json:"relay_auth"`
	Fleet           string `json:"fleet"`
	HandshakeHash   Hex    `json:"handshake_hash"`
	VaultAuthDigest Hex    `json:"vault_auth_digest"`
	VaultAuth       Hex    `json:"vault_auth"`
}

// AttemptCase is an attempt id, and the release under it: SPEC.md 11.2 and 10.3.
type AttemptCase struct {
	Source
	Generation     Hex `json:"generation"`
	Thumbprint     Hex `json:"thumbprint"`
	BlindedElement Hex `json:"blinded_element"`
	AttemptID      Hex `json:"attempt_id"`
	SessionKey     Hex `json:"session_key"`
	ReleaseKey     Hex `json:"release_key"`
	Wrap           Hex `json:"wrap"`
	Release        Hex `json:"release"`
}

// KeywrapCase is a wrapped key: SPEC.md 10.1.
type KeywrapCase struct {
	Source
	ExportKey         Hex    `json:"export_key"`
	BackupKey         Hex    `json:"backup_key"`
	Fleet             string `json:"fleet"`
	Account           Hex    `json:"account"`
	Generation        Hex    `json:"generation"`
	EncryptionKey     Hex    `json:"encryption_key"`
	AuthenticationKey Hex    `json:"authentication_key"`
	WrappedKey        Hex    `json:"wrapped_key"`
}

// ReceiptCase is a body hash and a signed receipt: SPEC.md 12.4.
type ReceiptCase struct {
	Source
	Record      Hex    `json:"record"` // RegistrationRecord
	Wrap        Hex    `json:"wrap"`
	MemoryKiB   uint32 `json:"memory_kib"`
	Time        uint32 `json:"time"`
	Parallelism uint8  `json:"parallelism"`
	BodyHash    Hex    `json:"body_hash"`
	Fleet       string `json:"fleet"`
	AccountHash Hex    `json:"account_hash"`
	ReceiptKey  Hex    `json:"receipt_key"`
	Digest      Hex    `json:"digest"`
	Receipt     Hex    `json:"receipt"` // 172 bytes
}

// Accounts returns the cases of derive_account.json.
func Accounts() []AccountCase { return load[AccountCase]("derive_account.json") }

// Contexts returns the cases of derive_context.json.
func Contexts() []ContextCase { return load[ContextCase]("derive_context.json") }

// Proofs returns the cases of derive_proof.json.
func Proofs() []ProofCase { return load[ProofCase]("derive_proof.json") }

// Attempts returns the cases of derive_attempt.json.
func Attempts() []AttemptCase { return load[AttemptCase]("derive_attempt.json") }

// Keywraps returns the cases of derive_keywrap.json.
func Keywraps() []KeywrapCase { return load[KeywrapCase]("derive_keywrap.json") }

// Receipts returns the cases of derive_receipt.json.
func Receipts() []ReceiptCase { return load[ReceiptCase]("derive_receipt.json") }
