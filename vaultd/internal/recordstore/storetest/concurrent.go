package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"chatvault/vaultd/internal/recordstore"
)

// add1 counts a record up by one; it gives up on nothing but an error.
func add1(ctx context.Context, s recordstore.Store, id recordstore.ID) error {
	for {
		data, v, err := s.Load(ctx, id)
		if err != nil {
			return err
		}
		var n uint64
		if v != 0 {
			n = binary.BigEndian.Uint64(data)
		}
		_, err = s.Swap(ctx, id, v, binary.BigEndian.AppendUint64(nil, n+1))
		if !errors.Is(err, recordstore.ErrConflict) {
			return err
		}
	}
}

func increments(t *testing.T, m Maker) {
	const workers, each = 64, 8
	s := open(t, m)
	before, err := s.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				if err := add1(t.Context(), s, id(1)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	wantLoad(t, s, id(1), workers*each, binary.BigEndian.AppendUint64(nil, workers*each))
	if after, err := s.Position(t.Context()); err != nil || after-before < workers*each {
		t.Errorf("Position went from %d to %d, %v, in %d swaps", before, after, err, workers*each)
	}
}

func oneWins(t *testing.T, m Maker) {
	s := open(t, m)
	for expect := recordstore.Version(0); expect < 8; expect++ {
		var mu sync.Mutex
		var winners []byte
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				_, err := s.Swap(t.Context(), id(1), expect, []byte{byte(i)})
				if err == nil {
					mu.Lock()
					winners = append(winners, byte(i))
					mu.Unlock()
				} else if !errors.Is(err, recordstore.ErrConflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(winners) != 1 {
			t.Fatalf("%d swaps of version %d won", len(winners), expect)
		}
		wantLoad(t, s, id(1), expect+1, winners)
	}
}

// readers: whoever loads sees versions that never fall and contents that belong
// to them, while they are being swapped.
func readers(t *testing.T, m Maker) {
	const versions = 60
	s := open(t, m)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for last := recordstore.Version(0); last < versions; {
				data, v, err := s.Load(t.Context(), id(1))
				if err != nil || v < last || (v > 0 && binary.BigEndian.Uint64(data) != uint64(v)) {
					t.Errorf("after version %d: Load = %x, %d, %v", last, data, v, err)
					return
				}
				last = v
			}
		})
	}
	for v := range recordstore.Version(versions) {
		mustSwap(t, s, id(1), v, binary.BigEndian.AppendUint64(nil, uint64(v)+1))
	}
	wg.Wait()
}

// stale: what LoadStale shows was swapped in, under the version that it names.
func stale(t *testing.T, m Maker) {
	const versions = 60
	s := open(t, m)
	if data, v, err := s.LoadStale(t.Context(), id(1)); data != nil || v != 0 || err != nil {
		t.Errorf("LoadStale = %q, %d, %v; want nothing", data, v, err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			// Nothing says that it ever shows the last version.
			for done := false; !done; {
				_, at, err := s.Load(t.Context(), id(1))
				done = err != nil || at == versions
				data, v, err := s.LoadStale(t.Context(), id(1))
				if err != nil || v > versions || (v > 0 && (len(data) != 8 || binary.BigEndian.Uint64(data) != uint64(v))) {
					t.Errorf("LoadStale = %x, %d, %v", data, v, err)
					return
				}
				if v > 0 {
					copy(data, "changed!") // the bytes are ours
				}
			}
		})
	}
	for v := range recordstore.Version(versions) {
		mustSwap(t, s, id(1), v, binary.BigEndian.AppendUint64(nil, uint64(v)+1))
	}
	wg.Wait()
	wantLoad(t, s, id(1), versions, binary.BigEndian.AppendUint64(nil, versions))
}

// staleSwaps: counting up from stale reads loses no increment. After a conflict a
// Load leads on, whatever LoadStale goes on to show.
func staleSwaps(t *testing.T, m Maker) {
	const workers, each = 16, 8
	s := open(t, m)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				data, v, err := s.LoadStale(t.Context(), id(1))
				var n uint64
				if err == nil && v != 0 {
					n = binary.BigEndian.Uint64(data)
				}
				if err == nil {
					_, err = s.Swap(t.Context(), id(1), v, binary.BigEndian.AppendUint64(nil, n+1))
				}
				if errors.Is(err, recordstore.ErrConflict) {
					err = add1(t.Context(), s, id(1))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	wantLoad(t, s, id(1), workers*each, binary.BigEndian.AppendUint64(nil, workers*each))
}

func scanWhileWriting(t *testing.T, m Maker) {
	const old = 50
	s := open(t, m)
	for n := range old {
		mustSwap(t, s, id(2*n+2), 0, []byte("x"))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				if _, err := s.Swap(t.Context(), id(2*n+1), 0, []byte("y")); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	seen := make(map[recordstore.ID]bool)
	var after recordstore.ID
	for {
		ids, err := s.Scan(t.Context(), after, 7)
		if err != nil {
			t.Error(err)
		}
		if len(ids) == 0 || bytes.Compare(after[:], idSlice(id(2*old))) >= 0 {
			break
		}
		for _, i := range ids {
			if bytes.Compare(i[:], after[:]) <= 0 {
				t.Errorf("id %s after %s", i, after)
			}
			seen[i], after = true, i
		}
	}
	close(stop)
	wg.Wait()
	for n := range old {
		if !seen[id(2*n+2)] {
			t.Errorf("id %s, there before the scan, is missing", id(2*n+2))
		}
	}
}

// ManyMakeOne checks that those who make the same store at a time all get one.
// create opens it, and makes it if it is not there yet.
func ManyMakeOne(t *testing.T, create func() (recordstore.Store, error)) {
	t.Helper()
	var wg sync.WaitGroup
	var ids [8]recordstore.StoreID
	for i := range ids {
		wg.Go(func() {
			s, err := create()
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = s.StoreID()
			s.Close()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == (recordstore.StoreID{}) {
			t.Errorf("two ids for one store: %s, %s", id, ids[0])
		}
	}
}
