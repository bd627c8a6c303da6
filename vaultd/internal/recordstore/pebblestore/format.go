package pebblestore

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"chatvault/vaultd/internal/recordstore"
)

// The first byte of a key.
const (
	tagMeta   byte = 0x00
	tagRecord byte = 0x02
)

const (
	formatName    = "chatvault records"
	formatVersion = 2
	formatCounts  = 1 // is read, and becomes formatVersion when it is opened

	versionSize = 8
	metaSize    = 2 + len(formatName) + 1 + len(recordstore.StoreID{})
)

var metaKey = []byte{tagMeta}

// recordKeySize is the length of a record's key, in bytes.
const recordKeySize = 1 + recordstore.IDSize

func recordKey(id recordstore.ID) []byte {
	return appendRecordKey(make([]byte, 0, recordKeySize), id)
}

func appendRecordKey(b []byte, id recordstore.ID) []byte {
	return append(append(b, tagRecord), id[:]...)
}

func parseRecordKey(key []byte) (id recordstore.ID, err error) {
	if len(key) != recordKeySize || key[0] != tagRecord {
		return id, fmt.Errorf("%w: a record's key of %d bytes", ErrFormat, len(key))
	}
	return recordstore.ID(key[1:]), nil
}

func appendRecord(b []byte, v recordstore.Version, data []byte) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(v)), data...)
}

// parseRecord reads a stored value; the data is a copy.
func parseRecord(value []byte) ([]byte, recordstore.Version, error) {
	if len(value) <= versionSize || len(value) > versionSize+recordstore.MaxData {
		return nil, 0, fmt.Errorf("%w: a record of %d bytes", ErrFormat, len(value))
	}
	v := recordstore.Version(binary.BigEndian.Uint64(value))
	if v == 0 || v == math.MaxUint64 {
		return nil, 0, fmt.Errorf("%w: a record of version %d", ErrFormat, v)
	}
	return bytes.Clone(value[versionSize:]), v, nil
}

func appendMeta(b []byte, version byte, id recordstore.StoreID) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(formatName)))
	b = append(append(b, formatName...), version)
	return append(b, id[:]...)
}

func parseMeta(b []byte) (version byte, id recordstore.StoreID, err error) {
	if len(b) != metaSize {
		return 0, id, fmt.Errorf("%w: its description has %d bytes", ErrFormat, len(b))
	}
	version, id = b[metaSize-len(id)-1], recordstore.StoreID(b[metaSize-len(id):])
	if version != formatVersion && version != formatCounts || !bytes.Equal(b, appendMeta(nil, version, id)) {
		return 0, recordstore.StoreID{}, fmt.Errorf("%w: its description is of another kind or version", ErrFormat)
	}
	return version, id, nil
}

// readMeta learns the store's id and position. A directory without a description
// is a store whose creation was cut short, if it has nothing else in it either.
func (s *Store) readMeta(create bool) error {
	value, closer, err := s.db.Get(metaKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return s.createMeta(create)
	} else if err != nil {
		return fmt.Errorf("reading its description: %w", err)
	}
	defer closer.Close()
	if _, s.id, err = parseMeta(value); err != nil {
		return err
	}
	return s.writeMeta()
}

func (s *Store) createMeta(create bool) (err error) {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return fmt.Errorf("looking for other content: %w", err)
	}
	other := it.First()
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return fmt.Errorf("looking for other content: %w", err)
	}
	if other {
		return fmt.Errorf("%w: content without a description", ErrFormat)
	}
	if !create {
		return ErrNoStore
	}
	rand.Read(s.id[:]) // never fails: crypto/rand ends the process instead
	return s.writeMeta()
}

// writeMeta writes the description, also where it is there: a write is what
// Pebble's sequence number can be learnt from.
func (s *Store) writeMeta() error {
	b := s.db.NewBatch()
	err := b.Set(metaKey, appendMeta(nil, formatVersion, s.id), nil)
	if err == nil {
		err = s.commitBatch(b)
	}
	if err != nil {
		s.fail(err)
		return fmt.Errorf("writing its description: %w", err)
	}
	return nil
}
