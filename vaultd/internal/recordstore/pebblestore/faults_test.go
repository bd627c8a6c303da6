package pebblestore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/pebblestore"
)

// The flow that is broken at every step: a store is opened, three records are
// counted up in turn, the store is closed.
const (
	ids    = 3
	rounds = 4
)

func recID(n int) recordstore.ID { return recordstore.ID{15: byte(n + 1)} }

// ledger is what the outside world was told.
type ledger struct {
	mu      sync.Mutex
	acked   [ids]recordstore.Version
	maybe   [ids]recordstore.Version // 0, or the version of a swap that ended in ErrUnknown
	storeID recordstore.StoreID
}

func (l *ledger) snapshot() *ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &ledger{acked: l.acked, maybe: l.maybe, storeID: l.storeID}
}

// run does the flow until something fails, and returns what did.
func run(t *testing.T, fs vfs.FS, l *ledger, fatal func(error)) error {
	s, err := pebblestore.Open("store", pebblestore.Options{
		Create: true, FS: fs, Fatal: fatal, Log: slog.New(slog.DiscardHandler), CacheSize: 1 << 20,
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.storeID = s.StoreID()
	l.mu.Unlock()
	for range rounds {
		for n := range ids {
			_, v, err := s.Load(t.Context(), recID(n))
			if err != nil {
				return err
			}
			l.mu.Lock()
			l.maybe[n] = v + 1 // in doubt while it is under way
			l.mu.Unlock()
			_, err = s.Swap(t.Context(), recID(n), v, binary.BigEndian.AppendUint64(nil, uint64(v)+1))
			l.mu.Lock()
			if err == nil {
				l.acked[n] = v + 1
			}
			if !errors.Is(err, recordstore.ErrUnknown) {
				l.maybe[n] = 0
			}
			l.mu.Unlock()
			if err != nil {
				checkDead(t, s)
				return err
			}
		}
	}
	return s.Close()
}

// checkDead: after a failed commit nothing is served any more, from doubt.
func checkDead(t *testing.T, s *pebblestore.Store) {
	t.Helper()
	_, _, loadErr := s.Load(t.Context(), recID(0))
	_, swapErr := s.Swap(t.Context(), recID(0), 0, []byte("x"))
	_, scanErr := s.Scan(t.Context(), recordstore.ID{}, 1)
	_, posErr := s.Position(t.Context())
	for name, err := range map[string]error{"Load": loadErr, "Swap": swapErr, "Scan": scanErr, "Position": posErr, "Close": s.Close()} {
		if !errors.Is(err, recordstore.ErrClosed) {
			t.Errorf("%s after a failed commit: %v", name, err)
		}
	}
}

// check opens what is on the disk and holds it against the ledger.
func (l *ledger) check(t *testing.T, at string, fs vfs.FS) {
	t.Helper()
	s := open(t, "store", pebblestore.Options{Create: true, FS: fs})
	defer s.Close()
	if l.storeID != (recordstore.StoreID{}) && s.StoreID() != l.storeID {
		t.Errorf("%s: another store id", at)
	}
	var swaps uint64
	for n := range ids {
		data, v, err := s.Load(t.Context(), recID(n))
		if err != nil {
			t.Errorf("%s: record %d: %v", at, n, err)
			continue
		}
		if v != l.acked[n] && (l.maybe[n] == 0 || v != l.maybe[n]) {
			t.Errorf("%s: record %d has version %d; %d was acknowledged, %d is in doubt", at, n, v, l.acked[n], l.maybe[n])
		}
		if v != 0 && binary.BigEndian.Uint64(data) != uint64(v) {
			t.Errorf("%s: record %d has version %d and content %x", at, n, v, data)
		}
		swaps += uint64(v)
	}
	if p, err := s.Position(t.Context()); err != nil || p < swaps {
		t.Errorf("%s: position %d, %v; the records were swapped %d times", at, p, err, swaps)
	}
	if _, err := s.Swap(t.Context(), recordstore.ID{14: 1}, 0, []byte("goes on")); err != nil {
		t.Errorf("%s: the store does not go on: %v", at, err)
	}
}

// durable says whether an operation is one of those on which durability hangs.
func durable(k errorfs.OpKind) bool {
	switch k {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpRemove:
		return true
	}
	return false
}

// TestPowerCutAtEverySync: the power goes before each sync and rename, once with
// all that was not synced lost, once with a random part of it kept.
func TestPowerCutAtEverySync(t *testing.T) {
	type cut struct {
		fs  *vfs.MemFS
		was *ledger
		at  string
	}
	mem := vfs.NewCrashableMem()
	var l ledger
	var mu sync.Mutex
	var cuts []cut
	rng := rand.New(rand.NewPCG(1, 2))
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !durable(op.Kind) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		was := l.snapshot() // before the clone: what is acknowledged must be in it
		for _, kept := range []int{0, 50} {
			cuts = append(cuts, cut{mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: rng}), was, op.Path})
		}
		return nil
	}))
	if err := run(t, fs, &l, func(err error) { t.Errorf("fatal: %v", err) }); err != nil {
		t.Fatal(err)
	}
	if len(cuts) < 2*ids*rounds {
		t.Fatalf("only %d cuts for %d swaps: not every swap was synced", len(cuts), ids*rounds)
	}
	for _, c := range cuts {
		c.was.check(t, "power cut before syncing "+c.at, c.fs)
	}
}

// TestPowerCutUnderLoad: many swaps share a sync; the power goes at some of them.
func TestPowerCutUnderLoad(t *testing.T) {
	const workers, each = 16, 25
	mem := vfs.NewCrashableMem()
	var acked [workers]atomic.Uint64
	type cut struct {
		fs    *vfs.MemFS
		acked [workers]uint64
	}
	var mu sync.Mutex
	var cuts []cut
	rng := rand.New(rand.NewPCG(3, 4))
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if durable(op.Kind) && rng.IntN(8) == 0 {
			var c cut
			for i := range acked {
				c.acked[i] = acked[i].Load()
			}
			c.fs = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(2) * 50, RNG: rng})
			cuts = append(cuts, c)
		}
		return nil
	}))
	s := open(t, "store", pebblestore.Options{Create: true, FS: fs})
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for v := range recordstore.Version(each) {
				if _, err := s.Swap(t.Context(), recID(i), v, []byte{byte(v + 1)}); err != nil {
					t.Error(err)
					return
				}
				acked[i].Store(uint64(v) + 1)
			}
		})
	}
	wg.Wait()
	s.Close()
	if len(cuts) < 3 {
		t.Fatalf("only %d cuts", len(cuts))
	}
	for _, c := range cuts {
		s := open(t, "store", pebblestore.Options{Create: true, FS: c.fs})
		var sum uint64
		for i, want := range c.acked {
			data, v, err := s.Load(t.Context(), recID(i))
			if err != nil || uint64(v) < want || (v > 0 && data[0] != byte(v)) {
				t.Errorf("record %d after a power cut: version %d, %x, %v; %d was acknowledged", i, v, data, err, want)
			}
			sum += uint64(v)
		}
		if p, err := s.Position(t.Context()); err != nil || p < sum {
			t.Errorf("position %d, %v; the records were swapped %d times", p, err, sum)
		}
		s.Close()
	}
}

// TestEveryWriteFails: each operation that changes the disk fails in turn, and
// every one after it, as when a disk dies or is full. What was acknowledged is
// there after reopening; a swap in doubt is there or is not.
func TestEveryWriteFails(t *testing.T) {
	for name, errno := range map[string]error{"EIO": syscall.EIO, "disk full": syscall.ENOSPC} {
		for _, forGood := range []bool{true, false} {
			failAt := 0
			for done := false; !done; failAt++ {
				mem := vfs.NewCrashableMem()
				var l ledger
				var count, fatals atomic.Int64
				var failed atomic.Value
				fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
					if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || op.Kind == errorfs.OpFileClose || op.Kind == errorfs.OpLock {
						return nil
					}
					n := int(count.Add(1)) - 1
					if n == failAt || (forGood && n > failAt) {
						failed.CompareAndSwap(nil, op.Path)
						return errno
					}
					return nil
				}))
				err := run(t, fs, &l, func(error) { fatals.Add(1) })
				what, hit := failed.Load().(string)
				done = !hit
				if err == nil && l.acked != [ids]recordstore.Version{rounds, rounds, rounds} {
					t.Errorf("%s at %d (%s): %v, and what was done: %v", name, failAt, what, err, l.acked)
				}
				if errors.Is(err, recordstore.ErrUnknown) && fatals.Load() != 1 {
					t.Errorf("%s at %d (%s): %v, and Fatal was called %d times", name, failAt, what, err, fatals.Load())
				}
				at := name + " at " + what
				l.check(t, at+", then a power cut", mem.CrashClone(vfs.CrashCloneCfg{}))
				l.check(t, at+", then kill -9", mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(5, 6))}))
			}
			if failAt < ids*rounds {
				t.Errorf("%s: only %d operations were made to fail", name, failAt)
			}
		}
	}
}

// TestTableThatCannotBeWritten: the log still has room, but what Pebble writes in
// the background has not. The store fails, instead of trying for ever while its
// callers wait; and all that was acknowledged is there afterwards.
func TestTableThatCannotBeWritten(t *testing.T) {
	mem := vfs.NewCrashableMem()
	fatal := make(chan error, 2)
	begin := func(mem vfs.FS) (*pebblestore.Store, error) {
		var told atomic.Bool
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") && !told.Load() {
				return syscall.ENOSPC
			}
			return nil
		}))
		return pebblestore.Open("store", pebblestore.Options{Create: true, FS: fs, Log: slog.New(slog.DiscardHandler),
			Fatal: func(err error) { fatal <- err; told.Store(true) }})
	}
	s, err := begin(mem)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 2048)
	var acked recordstore.Version
	for acked < 100_000 {
		v, err := s.Swap(t.Context(), recID(0), acked, data)
		if err != nil {
			break
		}
		acked = v
	}
	select {
	case err := <-fatal:
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Fatal was told %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("after %d swaps nobody was told", acked)
	}
	checkDead(t, s)
	// Opening it while there is still no room fails in the same way.
	if s, err := begin(mem.CrashClone(vfs.CrashCloneCfg{})); !errors.Is(err, syscall.ENOSPC) || len(fatal) != 1 {
		t.Errorf("opened without room: %v, %v; Fatal was told %d times", s, err, len(fatal))
	}
	after := open(t, "store", pebblestore.Options{FS: mem.CrashClone(vfs.CrashCloneCfg{})})
	if _, v, err := after.Load(t.Context(), recID(0)); err != nil || v < acked || v > acked+1 {
		t.Errorf("version %d, %v; %d was acknowledged", v, err, acked)
	}
}

// TestLoadShowsOnlyWhatIsDurable: while a swap's sync has not ended, a load of
// the same record waits. (Pebble alone would show the record at once.)
func TestLoadShowsOnlyWhatIsDurable(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var armed atomic.Bool
	syncing, release := make(chan struct{}), make(chan struct{})
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if durable(op.Kind) && strings.HasSuffix(op.Path, ".log") && armed.CompareAndSwap(true, false) {
			close(syncing)
			<-release
		}
		return nil
	}))
	s := open(t, "store", pebblestore.Options{Create: true, FS: fs})
	defer s.Close()
	armed.Store(true)
	swapped := make(chan error, 1)
	go func() {
		_, err := s.Swap(t.Context(), recID(0), 0, []byte("charged"))
		swapped <- err
	}()
	select {
	case <-syncing:
	case err := <-swapped:
		close(release)
		t.Fatalf("the swap returned without a sync: %v", err)
	}
	// It waits for the sync, for which nothing but its own context ends it.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, v, err := s.Load(ctx, recID(0)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a load during the sync: version %d, %v; a power cut would undo it", v, err)
	}
	// A stale read is not held up, and shows what is there or what will be.
	if data, v, err := s.LoadStale(t.Context(), recID(0)); err != nil || v > 1 || (v == 1) != (string(data) == "charged") {
		t.Errorf("a stale load during the sync: %q, %d, %v", data, v, err)
	}
	// Another record is not held up.
	if _, v, err := s.Load(t.Context(), recordstore.ID{1}); v != 0 || err != nil {
		t.Errorf("another record: %d, %v", v, err)
	}
	close(release)
	if err := <-swapped; err != nil {
		t.Fatal(err)
	}
	if _, v, err := s.Load(t.Context(), recID(0)); v != 1 || err != nil {
		t.Errorf("after the sync: version %d, %v", v, err)
	}
}
