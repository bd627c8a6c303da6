package pebblestore_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/pebblestore"
	"chatvault/vaultd/internal/recordstore/storetest"
)

// open opens a store that must not fail, quietly.
func open(t *testing.T, dir string, o pebblestore.Options) *pebblestore.Store {
	t.Helper()
	if o.Fatal == nil {
		o.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s, err := pebblestore.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Lasting(func(t *testing.T) func(*testing.T, bool) recordstore.Store {
		dir := t.TempDir()
		return func(t *testing.T, create bool) recordstore.Store {
			return open(t, dir, pebblestore.Options{Create: create})
		}
	}))
}

func TestMissingStoreIsNotCreatedUnasked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mistyped")
	if _, err := pebblestore.Open(dir, pebblestore.Options{}); !errors.Is(err, pebblestore.ErrNoStore) {
		t.Errorf("no directory: %v", err)
	}
	// What is left behind by a failed Open must not pass for a store either.
	if _, err := pebblestore.Open(dir, pebblestore.Options{}); !errors.Is(err, pebblestore.ErrNoStore) {
		t.Errorf("once more: %v", err)
	}
	s := open(t, dir, pebblestore.Options{Create: true})
	id := s.StoreID()
	s.Close()
	s = open(t, dir, pebblestore.Options{Create: true})
	defer s.Close()
	if s.StoreID() != id {
		t.Error("Create made a new store over an old one")
	}
}

func TestDirectoryIsPrivateAndLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := open(t, dir, pebblestore.Options{Create: true})
	defer s.Close()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if info, err := os.Stat(d); err != nil || info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", d, info.Mode(), err)
		}
	}
	if _, err := pebblestore.Open(dir, pebblestore.Options{Create: true}); err == nil {
		t.Error("a store was opened twice")
	}
}

func TestForeignContentIsRefused(t *testing.T) {
	id := bytes.Repeat([]byte{7}, 16)
	meta := func(name string, version byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, uint16(len(name)))
		return append(append(append(b, name...), version), id...)
	}
	record := append([]byte{2}, id...)
	for name, content := range map[string]map[string][]byte{
		"no description":  {"anything": []byte("x")},
		"another kind":    {"\x00": meta("chatvault recordz", 1)},
		"a later version": {"\x00": meta("chatvault records", 3)},
		"a longer one":    {"\x00": append(meta("chatvault records", 1), 0)},
		"record in part":  {"\x00": meta("chatvault records", 1), string(record): make([]byte, 8)},
		"version 0":       {"\x00": meta("chatvault records", 1), string(record): make([]byte, 9)},
	} {
		dir := t.TempDir()
		db, err := pebble.Open(dir, &pebble.Options{Logger: quiet{t}})
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range content {
			if err := db.Set([]byte(k), v, pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
		db.Close()
		s, err := pebblestore.Open(dir, pebblestore.Options{Create: true})
		if err == nil {
			_, _, err = s.Load(t.Context(), recordstore.ID(id))
			s.Close()
		}
		if !errors.Is(err, pebblestore.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFormat1Opens: with its counts, and as format 2 from then on.
func TestFormat1Opens(t *testing.T) {
	dir, id, storeID := t.TempDir(), bytes.Repeat([]byte{7}, 16), bytes.Repeat([]byte{9}, 16)
	meta := func(version byte) []byte {
		return append([]byte("\x00\x11chatvault records"+string(version)), storeID...)
	}
	put := map[string][]byte{
		"\x00": meta(1), "\x01\x00\x07": binary.BigEndian.AppendUint64(nil, 3),
		"\x02" + string(id): append(binary.BigEndian.AppendUint64(nil, 3), "data"...),
	}
	db, err := pebble.Open(dir, &pebble.Options{Logger: quiet{t}})
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range put {
		if err := db.Set([]byte(k), v, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	s := open(t, dir, pebblestore.Options{})
	data, v, err := s.Load(t.Context(), recordstore.ID(id))
	if err != nil || v != 3 || string(data) != "data" || s.StoreID() != recordstore.StoreID(storeID) {
		t.Errorf("%q, %d, %v in store %s", data, v, err, s.StoreID())
	}
	if p, err := s.Position(t.Context()); err != nil || p < 3 {
		t.Errorf("position %d, %v, after 3 swaps", p, err)
	}
	if ids, err := s.Scan(t.Context(), recordstore.ID{}, 10); err != nil || len(ids) != 1 {
		t.Errorf("scanned %v, %v", ids, err)
	}
	s.Close()
	if db, err = pebble.Open(dir, &pebble.Options{Logger: quiet{t}}); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	got, closer, err := db.Get([]byte{0})
	if err != nil || !bytes.Equal(got, meta(2)) {
		t.Fatalf("the description is %q, %v", got, err)
	}
	closer.Close()
}

type quiet struct{ t *testing.T }

func (quiet) Infof(string, ...any)                {}
func (q quiet) Errorf(format string, args ...any) { q.t.Errorf(format, args...) }
func (q quiet) Fatalf(format string, args ...any) { q.t.Errorf(format, args...) }

func TestPebblesNewsStayOutOfTheLog(t *testing.T) {
	var log strings.Builder
	handler := slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo})
	s := open(t, t.TempDir(), pebblestore.Options{Create: true, Log: slog.New(handler)})
	if _, err := s.Swap(t.Context(), recordstore.ID{1}, 0, []byte("x")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if log.Len() != 0 {
		t.Errorf("logged: %s", log.String())
	}
}
