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
	tagCount  byte = 0x01
	tagRecord byte = 0x02
)

const (
	formatName    = "chatvault records"
	formatVersion = 1

	versionSize = 8
	metaSize    = 2 + len(formatName) + 1 + len(recordstore.StoreID{})
)

var metaKey = []byte{tagMeta}

// The lengths of keys, in bytes.
const (
	recordKeySize = 1 + recordstore.IDSize
	countKeySize  = 1 + 2
)

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

func appendCountKey(b []byte, stripe uint16) []byte {
	return binary.BigEndian.AppendUint16(append(b, tagCount), stripe)
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

func appendMeta(b []byte, id recordstore.StoreID) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(formatName)))
	b = append(append(b, formatName...), formatVersion)
	return append(b, id[:]...)
}

func parseMeta(b []byte) (id recordstore.StoreID, err error) {
	if len(b) != metaSize {
		return id, fmt.Errorf("%w: its description has %d bytes", ErrFormat, len(b))
	}
	id = recordstore.StoreID(b[metaSize-len(id):])
	if !bytes.Equal(b, appendMeta(nil, id)) {
		return id, fmt.Errorf("%w: its description is of another kind or version", ErrFormat)
	}
	return id, nil
}

// readMeta learns the store's id and position. A directory without a description
// is a store whose creation was cut short, if it has nothing else in it either.
func (s *Store) readMeta(create bool) error {
	value, closer, err := s.db.Get(metaKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return s.writeMeta(create)
	} else if err != nil {
		return fmt.Errorf("reading its description: %w", err)
	}
	defer closer.Close()
	if s.id, err = parseMeta(value); err != nil {
		return err
	}
	return s.readCounts()
}

func (s *Store) writeMeta(create bool) (err error) {
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
	if err := s.setSynced(metaKey, appendMeta(nil, s.id)); err != nil {
		return fmt.Errorf("writing its description: %w", err)
	}
	return nil
}

func (s *Store) setSynced(key, value []byte) (err error) {
	defer func() {
		if err = orPanic(err, recover()); err != nil {
			s.fail(err)
		}
	}()
	if err := s.db.Set(key, value, pebble.Sync); err != nil {
		return err
	}
	if s.failed.Load() {
		return errGaveUp
	}
	return nil
}

func (s *Store) readCounts() (err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tagCount}, UpperBound: []byte{tagCount + 1}})
	if err != nil {
		return fmt.Errorf("reading counts: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var sum uint64
	for ok := it.First(); ok; ok = it.Next() {
		key, value := it.Key(), it.Value()
		if len(key) != countKeySize || len(value) != 8 || binary.BigEndian.Uint16(key[1:]) >= stripes {
			return fmt.Errorf("%w: count %x", ErrFormat, key)
		}
		n := binary.BigEndian.Uint64(value)
		s.stripes[binary.BigEndian.Uint16(key[1:])].swaps = n
		sum += n
	}
	s.position.Store(sum)
	return it.Error()
}
