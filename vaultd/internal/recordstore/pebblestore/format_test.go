package pebblestore

import (
	"bytes"
	"errors"
	"testing"

	"chatvault/vaultd/internal/recordstore"
)

func FuzzParseRecord(f *testing.F) {
	f.Add(appendRecord(nil, 1, []byte("x")))
	f.Add(appendRecord(nil, 1<<64-2, bytes.Repeat([]byte{1}, recordstore.MaxData)))
	f.Add(appendRecord(nil, 0, []byte("x")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		data, v, err := parseRecord(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("error %v is not ErrFormat", err)
			}
			return
		}
		if again := appendRecord(nil, v, data); !bytes.Equal(again, b) {
			t.Fatalf("%x parsed and re-encodes as %x", b, again)
		}
	})
}

func FuzzParseMeta(f *testing.F) {
	f.Add(appendMeta(nil, formatVersion, recordstore.StoreID{1, 15: 2}))
	f.Add(appendMeta(nil, formatCounts, recordstore.StoreID{1, 15: 2}))
	f.Add(appendMeta(nil, formatVersion, recordstore.StoreID{})[1:])
	f.Fuzz(func(t *testing.T, b []byte) {
		version, id, err := parseMeta(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("error %v is not ErrFormat", err)
			}
			return
		}
		if again := appendMeta(nil, version, id); !bytes.Equal(again, b) {
			t.Fatalf("%x parsed and re-encodes as %x", b, again)
		}
	})
}
