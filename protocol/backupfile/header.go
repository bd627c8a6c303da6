package backupfile

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Header is the plaintext start of a backup file. Every part is bound to all
// of it.
type Header struct {
	PartSize    uint32 // plaintext bytes per part, 1 to MaxPartSize
	Compression Compression
	ID          [16]byte // random, one per file
	KeyCheck    [32]byte // tells whether a backup key is the right one
	Entries     []Entry  // none are defined in version 1
}

// Entry is an extension of the header. Readers skip a type that they do not
// know, unless it is critical.
type Entry struct {
	Type     uint16
	Critical bool
	Value    []byte // at most what MaxHeader leaves
}

func newHeader(key BackupKey, partSize uint32, c Compression, entries []Entry) Header {
	h := Header{PartSize: partSize, Compression: c, Entries: entries}
	rand.Read(h.ID[:])
	h.KeyCheck = [32]byte(key.derive(h.ID, labelKeyCheck))
	return h
}

// CheckKey returns ErrWrongKey when the file was encrypted under another key.
// The comparison takes constant time.
func CheckKey(h Header, key BackupKey) error {
	if subtle.ConstantTimeCompare(key.derive(h.ID, labelKeyCheck), h.KeyCheck[:]) != 1 {
		return ErrWrongKey
	}
	return nil
}

func (h Header) length() int {
	n := headerMin
	for _, e := range h.Entries {
		n += entryFixed + len(e.Value)
	}
	return n
}

// Encode returns the header's bytes, 73 to MaxHeader.
func (h Header) Encode() ([]byte, error) {
	if h.PartSize < 1 || h.PartSize > MaxPartSize {
		return nil, fmt.Errorf("backupfile: part size %d is not between 1 and %d", h.PartSize, MaxPartSize)
	}
	if h.Compression > None {
		return nil, fmt.Errorf("backupfile: unknown %v", h.Compression)
	}
	n := h.length()
	if n > MaxHeader {
		return nil, fmt.Errorf("backupfile: header of %d bytes, at most %d are allowed", n, MaxHeader)
	}
	b := append(make([]byte, 0, n), magic...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = binary.BigEndian.AppendUint32(b, h.PartSize)
	b = append(b, byte(h.Compression))
	b = append(b, h.ID[:]...)
	b = append(b, h.KeyCheck[:]...)
	for _, e := range h.Entries {
		b = binary.BigEndian.AppendUint16(b, e.Type)
		if e.Critical {
			b = append(b, entryCrit)
		} else {
			b = append(b, 0)
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.Value)))
		b = append(b, e.Value...)
	}
	sum := checksum(b)
	return append(b, sum[:]...), nil
}

func checksum(b []byte) [headerChecksum]byte {
	sum := sha256.Sum256(append([]byte(labelHeader), b...))
	return [headerChecksum]byte(sum[:])
}

// ReadHeader reads exactly the header. It returns ErrNotABackup, ErrVersion or
// a *CorruptError for what is not a header that this code can use.
func ReadHeader(r io.Reader) (Header, error) {
	h, _, err := readHeader(r)
	return h, err
}

// readHeader returns the raw bytes too.
func readHeader(r io.Reader) (Header, []byte, error) {
	const prefix = len(magic) + 2 + 2
	b := make([]byte, prefix, MaxHeader)
	n, err := io.ReadFull(r, b)
	if !bytes.HasPrefix(b[:n], []byte(magic)[:min(n, len(magic))]) {
		return Header{}, nil, ErrNotABackup
	}
	if err != nil {
		return Header{}, nil, headerReadError(n, err)
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != version {
		return Header{}, nil, fmt.Errorf("version %d: %w", v, ErrVersion)
	}
	length := int(binary.BigEndian.Uint16(b[10:]))
	if length < headerMin || length > MaxHeader {
		return Header{}, nil, headerError(10, "length %d", length)
	}
	b = b[:length]
	if n, err := io.ReadFull(r, b[prefix:]); err != nil {
		return Header{}, nil, headerReadError(prefix+n, err)
	}
	h, err := parseHeader(b)
	return h, b, err
}

func headerReadError(n int, err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return &CorruptError{Offset: int64(n), Err: ErrTruncated}
	}
	return fmt.Errorf("read backup header: %w", err)
}

func headerError(offset int, format string, args ...any) error {
	return &CorruptError{Offset: int64(offset), Err: fmt.Errorf("%w: %s", ErrHeader, fmt.Sprintf(format, args...))}
}

// parseHeader parses a header whose magic, version and length are checked.
func parseHeader(b []byte) (Header, error) {
	body, sum := b[:len(b)-headerChecksum], b[len(b)-headerChecksum:]
	// Before anything else, so that a flipped bit is not taken for another
	// key, a newer version or an oversized part.
	if want := checksum(body); !bytes.Equal(sum, want[:]) {
		return Header{}, headerError(0, "checksum")
	}
	h := Header{PartSize: binary.BigEndian.Uint32(b[12:]), Compression: Compression(b[16])}
	copy(h.ID[:], b[17:])
	copy(h.KeyCheck[:], b[33:])
	if h.PartSize < 1 || h.PartSize > MaxPartSize {
		return Header{}, headerError(12, "part size %d", h.PartSize)
	}
	if h.Compression > None {
		return Header{}, fmt.Errorf("%v: %w", h.Compression, ErrVersion)
	}
	for at := headerFixed; at < len(body); {
		rest := body[at:]
		if len(rest) < entryFixed || rest[2]&^entryCrit != 0 {
			return Header{}, headerError(at, "entry")
		}
		e := Entry{Type: binary.BigEndian.Uint16(rest), Critical: rest[2] == entryCrit}
		n := int(binary.BigEndian.Uint16(rest[3:]))
		if len(rest) < entryFixed+n {
			return Header{}, headerError(at, "entry of %d bytes", n)
		}
		if e.Critical { // none are known
			return Header{}, fmt.Errorf("header entry of type %d: %w", e.Type, ErrVersion)
		}
		e.Value = bytes.Clone(rest[entryFixed : entryFixed+n])
		h.Entries = append(h.Entries, e)
		at += entryFixed + n
	}
	return h, nil
}
