package vectors

// Argon2idCase is a case of the KSF: Argon2id version 0x13 (RFC 9106) of the
// OPRF's output, salt 16 zero bytes, output 32 bytes. The values are the
// project's own, computed with the reference implementation, libargon2.
type Argon2idCase struct {
	Source
	MemoryKiB   uint32 `json:"memory_kib"`
	Time        uint32 `json:"time"`
	Parallelism uint8  `json:"parallelism"`
	Input       Hex    `json:"input"`
	Output      Hex    `json:"output"`
}

// Argon2id returns the cases of the KSF.
func Argon2id() []Argon2idCase { return load[Argon2idCase]("argon2id.json") }
