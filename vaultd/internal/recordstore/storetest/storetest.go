// Package storetest is the one suite that every record store passes.
package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"chatvault/vaultd/internal/recordstore"
)

// Maker makes stores for the suite.
type Maker struct {
	// New returns an empty store.
	New func(t *testing.T) recordstore.Store
	// Reopen closes a store that New or Reopen returned and opens the same one
	// again. Nil: the store does not outlive its process.
	Reopen func(t *testing.T, s recordstore.Store) recordstore.Store
}

// Lasting is the Maker of a store that outlives its process. place takes a new
// place for one and returns what opens the store there; create says that there
// is none yet.
func Lasting(place func(t *testing.T) (open func(t *testing.T, create bool) recordstore.Store)) Maker {
	places := make(map[recordstore.Store]func(*testing.T, bool) recordstore.Store)
	return Maker{
		New: func(t *testing.T) recordstore.Store {
			open := place(t)
			s := open(t, true)
			places[s] = open
			return s
		},
		Reopen: func(t *testing.T, old recordstore.Store) recordstore.Store {
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			open := places[old]
			s := open(t, false)
			places[s] = open
			return s
		},
	}
}

// Run runs the suite.
func Run(t *testing.T, m Maker) {
	tests := []struct {
		name string
		test func(*testing.T, Maker)
	}{
		{"AbsentIsNoError", absent},
		{"SwapComparesTheVersion", swapCompares},
		{"BytesAreCopied", bytesAreCopied},
		{"Sizes", sizes},
		{"MisusePanics", misuse},
		{"NoIncrementIsLost", increments},
		{"OneOfManyWins", oneWins},
		{"ReadersSeeOneHistory", readers},
		{"StaleIsWhatWas", stale},
		{"StaleLosesTheSwap", staleSwaps},
		{"ScanPages", scanPages},
		{"ScanWhileWriting", scanWhileWriting},
		{"PositionGrows", position},
		{"EndedContext", endedContext},
		{"Closed", closed},
		{"StoreIDsDiffer", storeIDs},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) { c.test(t, m) })
	}
	if m.Reopen != nil {
		t.Run("SurvivesReopening", func(t *testing.T) { survives(t, m) })
	}
}

func open(t *testing.T, m Maker) recordstore.Store {
	t.Helper()
	s := m.New(t)
	t.Cleanup(func() { s.Close() })
	return s
}

// id makes the n-th of a row of ids, n from 1; ascending.
func id(n int) (id recordstore.ID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

func mustSwap(t *testing.T, s recordstore.Store, id recordstore.ID, expect recordstore.Version, data []byte) {
	t.Helper()
	v, err := s.Swap(t.Context(), id, expect, data)
	if err != nil || v != expect+1 {
		t.Fatalf("Swap(%s, %d) = %d, %v; want %d", id, expect, v, err, expect+1)
	}
}

func wantLoad(t *testing.T, s recordstore.Store, id recordstore.ID, v recordstore.Version, data []byte) {
	t.Helper()
	got, gotV, err := s.Load(t.Context(), id)
	if err != nil || gotV != v || !bytes.Equal(got, data) {
		t.Fatalf("Load(%s) = %q, %d, %v; want %q, %d", id, got, gotV, err, data, v)
	}
}

func absent(t *testing.T, m Maker) {
	s := open(t, m)
	data, v, err := s.Load(t.Context(), id(1))
	if data != nil || v != 0 || err != nil {
		t.Errorf("Load = %q, %d, %v; want nothing", data, v, err)
	}
	if ids, err := s.Scan(t.Context(), recordstore.ID{}, 10); len(ids) != 0 || err != nil {
		t.Errorf("Scan = %v, %v; want none", ids, err)
	}
	if p, err := s.Position(t.Context()); err != nil {
		t.Errorf("Position = %d, %v", p, err)
	}
}

func swapCompares(t *testing.T, m Maker) {
	s := open(t, m)
	mustSwap(t, s, id(1), 0, []byte("one"))
	mustSwap(t, s, id(1), 1, []byte("two"))
	before, err := s.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, expect := range []recordstore.Version{0, 1, 3, 1 << 62, 1<<64 - 1} {
		if v, err := s.Swap(t.Context(), id(1), expect, []byte("no")); !errors.Is(err, recordstore.ErrConflict) || v != 0 {
			t.Errorf("Swap expecting %d over 2 = %d, %v; want ErrConflict", expect, v, err)
		}
	}
	if _, err := s.Swap(t.Context(), id(2), 1, []byte("no")); !errors.Is(err, recordstore.ErrConflict) {
		t.Errorf("Swap expecting 1 over nothing: %v; want ErrConflict", err)
	}
	wantLoad(t, s, id(1), 2, []byte("two"))
	wantLoad(t, s, id(2), 0, nil)
	if after, err := s.Position(t.Context()); err != nil || after < before {
		t.Errorf("Position fell from %d to %d, %v", before, after, err)
	}
	// The same bytes again are a swap like any other.
	mustSwap(t, s, id(1), 2, []byte("two"))
	wantLoad(t, s, id(1), 3, []byte("two"))
}

func bytesAreCopied(t *testing.T, m Maker) {
	s := open(t, m)
	data := []byte("genuine")
	mustSwap(t, s, id(1), 0, data)
	copy(data, "changed")
	got, _, err := s.Load(t.Context(), id(1))
	if err != nil || string(got) != "genuine" {
		t.Fatalf("the store kept the caller's slice: %q, %v", got, err)
	}
	copy(got, "changed")
	wantLoad(t, s, id(1), 1, []byte("genuine"))
}

func sizes(t *testing.T, m Maker) {
	s := open(t, m)
	for i, n := range []int{1, 512, recordstore.MaxData} {
		data := bytes.Repeat([]byte{0xa5}, n)
		mustSwap(t, s, id(i+1), 0, data)
		wantLoad(t, s, id(i+1), 1, data)
	}
	edge := recordstore.ID(bytes.Repeat([]byte{0xff}, recordstore.IDSize))
	mustSwap(t, s, edge, 0, []byte("last"))
	wantLoad(t, s, edge, 1, []byte("last"))
	if ids, err := s.Scan(t.Context(), edge, 1); err != nil || len(ids) != 0 {
		t.Errorf("Scan after the last id of all: %v, %v", ids, err)
	}
}

func misuse(t *testing.T, m Maker) {
	s := open(t, m)
	for name, swap := range map[string]func(){
		"zero id":  func() { s.Swap(t.Context(), recordstore.ID{}, 0, []byte("x")) },
		"no bytes": func() { s.Swap(t.Context(), id(1), 0, nil) },
		"oversize": func() { s.Swap(t.Context(), id(1), 0, make([]byte, recordstore.MaxData+1)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: Swap did not panic", name)
				}
			}()
			swap()
		}()
	}
	wantLoad(t, s, id(1), 0, nil)
}

func scanPages(t *testing.T, m Maker) {
	s := open(t, m)
	var want []recordstore.ID
	for _, n := range []int{5, 300, 1, 77, 256, 1 << 40, 2} {
		mustSwap(t, s, id(n), 0, []byte("x"))
		want = append(want, id(n))
	}
	mustSwap(t, s, id(77), 1, []byte("again: listed once"))
	slices.SortFunc(want, func(a, b recordstore.ID) int { return bytes.Compare(a[:], b[:]) })
	for page := 1; page <= len(want)+1; page++ {
		var got []recordstore.ID
		var after recordstore.ID
		for {
			ids, err := s.Scan(t.Context(), after, page)
			if err != nil || len(ids) > page {
				t.Fatalf("Scan(%s, %d) = %v, %v", after, page, ids, err)
			}
			if len(ids) == 0 {
				break
			}
			got = append(got, ids...)
			after = ids[len(ids)-1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %v; want %v", page, got, want)
		}
	}
	for _, n := range []int{0, -1} {
		if ids, err := s.Scan(t.Context(), recordstore.ID{}, n); err != nil || len(ids) != 0 {
			t.Errorf("Scan of %d: %v, %v", n, ids, err)
		}
	}
	if ids, err := s.Scan(t.Context(), id(6), 1<<30); err != nil || !slices.Equal(ids, want[3:]) {
		t.Errorf("Scan after an id that is not there: %v, %v; want %v", ids, err, want[3:])
	}
}

func idSlice(id recordstore.ID) []byte { return id[:] }

func position(t *testing.T, m Maker) {
	s := open(t, m)
	last, err := s.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 20; n++ {
		mustSwap(t, s, id(n), 0, []byte("x"))
		mustSwap(t, s, id(n), 1, []byte("x"))
		p, err := s.Position(t.Context())
		if err != nil || p < last+2 {
			t.Fatalf("two swaps after %d: %d, %v", last, p, err)
		}
		last = p
	}
}

func endedContext(t *testing.T, m Maker) {
	s := open(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, loadErr := s.Load(ctx, id(1))
	_, _, staleErr := s.LoadStale(ctx, id(1))
	_, swapErr := s.Swap(ctx, id(1), 0, []byte("x"))
	_, scanErr := s.Scan(ctx, recordstore.ID{}, 1)
	_, posErr := s.Position(ctx)
	for name, err := range map[string]error{"Load": loadErr, "LoadStale": staleErr, "Swap": swapErr, "Scan": scanErr, "Position": posErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s under an ended context: %v", name, err)
		}
	}
	wantLoad(t, s, id(1), 0, nil)
}

func closed(t *testing.T, m Maker) {
	s := m.New(t)
	mustSwap(t, s, id(1), 0, []byte("x"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, loadErr := s.Load(t.Context(), id(1))
	_, _, staleErr := s.LoadStale(t.Context(), id(1))
	_, swapErr := s.Swap(t.Context(), id(1), 1, []byte("x"))
	_, scanErr := s.Scan(t.Context(), recordstore.ID{}, 1)
	_, posErr := s.Position(t.Context())
	for name, err := range map[string]error{"Load": loadErr, "LoadStale": staleErr, "Swap": swapErr, "Scan": scanErr, "Position": posErr} {
		if !errors.Is(err, recordstore.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func storeIDs(t *testing.T, m Maker) {
	a, b := open(t, m).StoreID(), open(t, m).StoreID()
	if a == b || a == (recordstore.StoreID{}) {
		t.Errorf("two stores have the ids %s and %s", a, b)
	}
}

func survives(t *testing.T, m Maker) {
	s := m.New(t)
	storeID := s.StoreID()
	var swaps uint64
	for round := range recordstore.Version(4) {
		for n := 1; n <= 20; n++ {
			mustSwap(t, s, id(n), round, []byte{byte(round), byte(n)})
			swaps++
		}
		before, err := s.Position(t.Context())
		if err != nil || before < swaps {
			t.Fatalf("Position = %d, %v, after %d swaps", before, err, swaps)
		}
		s = m.Reopen(t, s)
		if after, err := s.Position(t.Context()); err != nil || after < before {
			t.Fatalf("reopened: Position = %d, %v; it was %d", after, err, before)
		}
		if s.StoreID() != storeID {
			t.Fatalf("reopened: id %s; it was %s", s.StoreID(), storeID)
		}
		for n := 1; n <= 20; n++ {
			wantLoad(t, s, id(n), round+1, []byte{byte(round), byte(n)})
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
