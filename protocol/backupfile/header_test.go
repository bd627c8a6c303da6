package backupfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

func headerBytes(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	b, err := newHeader(testKey(1), 100, Zstd, entries).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// forge changes a header and makes its checksum right again.
func forge(b []byte, change func([]byte)) []byte {
	b = bytes.Clone(b)
	change(b)
	sum := checksum(b[:len(b)-headerChecksum])
	copy(b[len(b)-headerChecksum:], sum[:])
	return b
}

func TestEntries(t *testing.T) {
	optional := Entry{Type: 7, Value: []byte("skipped, and authenticated")}
	key, plain := testKey(1), []byte("hello")
	file := seal(t, key, plain, Options{entries: []Entry{optional, {Type: 8}}})
	if got, err := open(file, key); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("unknown optional entries: %v", err)
	}
	n := int(binary.BigEndian.Uint16(file[10:]))
	changed := append(forge(file[:n], func(b []byte) { b[headerFixed+entryFixed] ^= 1 }), file[n:]...)
	if _, err := open(changed, key); !errors.Is(err, ErrAuthentication) {
		t.Errorf("an entry changed, its checksum too: %v", err)
	}
	critical := seal(t, key, plain, Options{entries: []Entry{{Type: 7, Critical: true}}})
	if _, err := open(critical, key); !errors.Is(err, ErrVersion) {
		t.Errorf("unknown critical entry: %v", err)
	}
	largest := Entry{Value: make([]byte, MaxHeader-headerMin-entryFixed)}
	if got, err := open(seal(t, key, plain, Options{entries: []Entry{largest}}), key); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("largest header: %v", err)
	}
}

func TestHeadersThatAreRefused(t *testing.T) {
	good := headerBytes(t, Entry{Type: 7, Value: []byte("abc")})
	for _, c := range []struct {
		name   string
		b      []byte
		want   error
		offset int64
	}{
		{"a text", []byte("Dear reader"), ErrNotABackup, 0},
		{"zip", []byte("PK\x03\x04"), ErrNotABackup, 0},
		{"nothing", nil, ErrTruncated, 0},
		{"half of the magic", good[:4], ErrTruncated, 4},
		{"cut off", good[:40], ErrTruncated, 40},
		{"next version", forge(good, func(b []byte) { b[9] = 2 }), ErrVersion, 0},
		{"length too small", forge(good, func(b []byte) { b[10], b[11] = 0, headerMin-1 }), ErrHeader, 10},
		{"length too large", forge(good, func(b []byte) { b[10], b[11] = 0x10, 1 }), ErrHeader, 10},
		{"checksum", append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), ErrHeader, 0},
		{"no part size", forge(good, func(b []byte) { clear(b[12:16]) }), ErrHeader, 12},
		{"part size too large", forge(good, func(b []byte) { binary.BigEndian.PutUint32(b[12:], MaxPartSize+1) }), ErrHeader, 12},
		{"unknown compression", forge(good, func(b []byte) { b[16] = 2 }), ErrVersion, 0},
		{"unknown entry flag", forge(good, func(b []byte) { b[headerFixed+2] = 2 }), ErrHeader, headerFixed},
		{"entry too long", forge(good, func(b []byte) { b[headerFixed+4]++ }), ErrHeader, headerFixed},
		{"half an entry", forge(good, func(b []byte) { b[headerFixed+4]-- }), ErrHeader, headerFixed + entryFixed + 2},
	} {
		_, err := ReadHeader(bytes.NewReader(c.b))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		var ce *CorruptError
		if errors.As(err, &ce) && ce.Offset != c.offset {
			t.Errorf("%s: offset %d, want %d", c.name, ce.Offset, c.offset)
		}
	}
}

func TestReadHeaderReadsNothingElse(t *testing.T) {
	b := headerBytes(t)
	r := bytes.NewReader(append(b, "rest"...))
	if _, err := ReadHeader(r); err != nil || r.Len() != 4 {
		t.Errorf("%d bytes are left, %v", r.Len(), err)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(headerBytes(f))
	f.Add(headerBytes(f, Entry{Type: 7, Value: []byte("abc")}, Entry{Type: 1}))
	f.Add(headerBytes(f, Entry{Type: 7, Critical: true}))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > headerMin && len(b) <= MaxHeader { // else the fuzzer finds no checksum
			b = forge(b, func([]byte) {})
		}
		h, err := ReadHeader(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := h.Encode()
		if err != nil || !bytes.HasPrefix(b, again) {
			t.Errorf("%x became %x, %v", b, again, err)
		}
	})
}

func FuzzReader(f *testing.F) {
	for _, c := range []Compression{None, Zstd} {
		for _, n := range []int{0, 50, 250} {
			file := seal(f, testKey(1), random(1, n), Options{Compression: c, PartSize: 100})
			f.Add(file)
			f.Add(file[:len(file)/2])
		}
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		plain, err := open(file, testKey(1))
		if err == nil {
			// The seeds open. Nothing else can: it would be a forgery.
			parts := split(t, file)
			if !bytes.Equal(join(parts...), file) || !bytes.Equal(plain, random(1, len(plain))) {
				t.Errorf("%x opens", file)
			}
			return
		}
		var c *CorruptError
		if !errors.As(err, &c) && !errors.Is(err, ErrWrongKey) && !errors.Is(err, ErrNotABackup) && !errors.Is(err, ErrVersion) {
			t.Errorf("untyped error %v", err)
		}
	})
}
