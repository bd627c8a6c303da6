// Package backupfile writes and reads the encrypted backup file, and the
// recovery key that opens it without the vault.
//
// # The file
//
// All integers are big-endian.
//
//	file    = header ‖ data part × n ‖ closing part        n ≥ 0, nothing trails
//
//	header  = magic 8 ‖ version u16 ‖ header length u16 ‖ part size u32
//	          ‖ compression u8 ‖ backup id 16 ‖ key-check value 32
//	          ‖ entry × m ‖ checksum 8                      73 to 4,096 bytes
//	entry   = type u16 ‖ flags u8 (bit 0: critical) ‖ length u16 ‖ value
//
//	part    = part number u32 ‖ flags u8 (bit 0: last) ‖ chunk × k ‖ end u32 = 0
//	chunk   = length u32 ‖ bytes
//
// The chunks of one part, concatenated, are one stream of Tink's streaming
// AEAD, AES256_GCM_HKDF_1MB: header 40 bytes (u8 40 ‖ salt 32 ‖ nonce prefix
// 7), then segments of 1 MiB of ciphertext, the first shorter by the 40. The
// chunks follow Tink's layout and no other: one for the Tink header, then one
// for each segment. So a part is written as it comes, without knowing its
// length beforehand and without holding it in memory.
//
//	file key         = HKDF-SHA256(backup key, salt = backup id, info = labelFileKey)   32 bytes
//	key-check value  = HKDF-SHA256(backup key, salt = backup id, info = labelKeyCheck)  32 bytes
//	associated data  = labelPart ‖ SHA-256(header) ‖ part number u32 ‖ last u8
//	checksum         = first 8 bytes of SHA-256(labelHeader ‖ header without the checksum)
//
// Tink feeds the associated data into the derivation of each part's key. The
// header goes in hashed, because some HKDF implementations refuse an info of
// more than 1,024 bytes. Anybody can compute the checksum: it is there so that
// a damaged header is not taken for a wrong key.
//
// Data parts are numbered from 0, with last = 0. Each holds exactly the part
// size in plaintext bytes, the last of them between 1 and that. With zstd the
// stored bytes are one zstd frame per part, so that a part can be written
// again, or read, without those before it. An empty backup has no data part.
//
// The closing part has the next number, last = 1, and holds, uncompressed,
//
//	total plaintext u64 ‖ number of data parts u32 ‖ chain 32      44 bytes
//	chain(0) = 32 zero bytes, chain(i+1) = SHA-256(chain(i) ‖ Tink header of part i)
//
// A file without it was cut off. The chain names each part by its salt: when
// an interrupted upload writes a part again, the old and the new version are
// both authentic, and only the chain keeps a cloud from mixing them.
//
// The size of the file tells the size of the plaintext, compressed: who can
// plant text in a backup and see its size learns something. [None] as the
// compression avoids that.
package backupfile

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"

	"chatvault/protocol/secret"
)

// The wire's constants. No length stands anywhere else.
const (
	magic   = "\x89CVBK\r\n\x1a" // not text, and damaged by a transfer in text mode
	version = 1

	headerFixed    = 65 // before the entries
	headerChecksum = 8
	headerMin      = headerFixed + headerChecksum
	// MaxHeader is the largest header, in bytes.
	MaxHeader   = 4096
	entryFixed  = 5
	entryCrit   = 1 << 0
	partFixed   = 5
	partLast    = 1 << 0
	chunkFixed  = 4
	closingSize = 8 + 4 + sha256.Size

	tinkHeader  = 40      // length byte, salt 32, nonce prefix 7
	tinkSegment = 1 << 20 // ciphertext
	tinkTag     = 16

	// MaxStored bounds what one part stores: plaintext, or its zstd frame.
	MaxStored = 64 << 20
	// MaxPartSize is the most plaintext that a part holds, in bytes. zstd's
	// worst case, 3 bytes for each 128 KiB block, stays far below MaxStored.
	MaxPartSize = 63 << 20
	// DefaultPartSize is the plaintext of a part, in bytes, unless Options
	// say otherwise.
	DefaultPartSize = 32 << 20

	zstdWindow    = 4 << 20 // what we write
	zstdMaxWindow = 8 << 20 // what we read: RFC 8878 §3.1.1.1.2 recommends to support 8 MiB
)

const (
	labelFileKey  = "chatvault/1 backup file key"
	labelKeyCheck = "chatvault/1 backup key check"
	labelPart     = "chatvault/1 backup part"
	labelHeader   = "chatvault/1 backup header"
	labelGroup    = "chatvault/1 recovery key check group"
)

// Compression says how parts are stored. The zero value is Zstd.
type Compression uint8

const (
	// Zstd stores each part as one zstd frame (RFC 8878).
	Zstd Compression = 0
	// None stores plaintext: for data that is compressed already, and where
	// sizes must tell nothing about content.
	None Compression = 1
)

func (c Compression) String() string {
	switch c {
	case Zstd:
		return "zstd"
	case None:
		return "none"
	}
	return fmt.Sprintf("compression %d", uint8(c))
}

// BackupKey is the 32 random bytes that a person's backups are encrypted
// under. One key may encrypt any number of files: each has its own backup id.
type BackupKey struct{ secret.Key }

// NewBackupKey returns a fresh key from the system's randomness.
func NewBackupKey() BackupKey {
	var k BackupKey
	rand.Read(k.B[:])
	return k
}

// derive is HKDF-SHA256 over the backup key with the backup id as salt.
func (k BackupKey) derive(id [16]byte, label string) secret.Bytes {
	out, err := hkdf.Key(sha256.New, k.B[:], id[:], label, 32)
	if err != nil {
		panic("backupfile: " + err.Error()) // 32 bytes are within every bound
	}
	return out
}

// fileAEAD makes Tink's primitive for one file.
func fileAEAD(key BackupKey, id [16]byte) (*subtle.AESGCMHKDF, error) {
	fileKey := key.derive(id, labelFileKey)
	defer fileKey.Wipe()
	return subtle.NewAESGCMHKDF(fileKey, "SHA256", 32, tinkSegment, 0)
}

// partAAD binds a part to its file, its place and its role.
func partAAD(headerSum [sha256.Size]byte, part uint32, last bool) []byte {
	aad := append([]byte(labelPart), headerSum[:]...)
	aad = binary.BigEndian.AppendUint32(aad, part)
	if last {
		return append(aad, 1)
	}
	return append(aad, 0)
}

// nextChain extends the chain by the part that has this Tink header.
func nextChain(chain [sha256.Size]byte, header [tinkHeader]byte) [sha256.Size]byte {
	return sha256.Sum256(append(chain[:], header[:]...))
}

// Checkpoint is a place between two parts, where writing or reading can go on
// after an interruption. It holds nothing secret.
type Checkpoint struct {
	Parts      uint32   `json:"parts"`       // data parts finished
	FileOffset int64    `json:"file_offset"` // bytes of the file up to here, header included
	PlainBytes int64    `json:"plain_bytes"` // bytes of plaintext up to here
	Chain      [32]byte `json:"chain"`
}

// check refuses a checkpoint that cannot belong to a file with this header.
func (c Checkpoint) check(h Header) error {
	size := int64(h.PartSize)
	full := int64(c.Parts) * size
	if c.FileOffset < int64(h.length()) || c.PlainBytes > full || c.PlainBytes < 0 ||
		(c.Parts > 0 && c.PlainBytes <= full-size) {
		return fmt.Errorf("backupfile: the checkpoint does not fit the header")
	}
	return nil
}
