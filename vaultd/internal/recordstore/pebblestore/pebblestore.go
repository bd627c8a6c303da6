// Package pebblestore is the embedded record store: Pebble in a directory of one
// vaultd. It keeps recordstore's contract on one machine.
//
// Keys and values (integers are big-endian):
//
//	00                   → lp(format name) ‖ format version u8 ‖ store id 16
//	02 ‖ record id 16    → version u64 ‖ data
//
// (Format 1 had swap counts under 01, which nobody reads any more.)
//
// Every swap is one write, synced. The store's position is the sequence number that
// Pebble gave to it: one more with each write, kept in Pebble's log and manifest, so
// that it goes on after a crash where it was, or later. Opening writes the
// description again, to learn it, and so adds one.
package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"chatvault/vaultd/internal/recordstore"
)

// ErrNoStore says that the directory holds no record store, and that Open was not
// told to create one. A mistyped path or a disk that is not mounted must not pass
// for a store in which nobody is registered.
var ErrNoStore = errors.New("no record store in this directory")

// ErrFormat says that the directory holds something else than a record store of
// this version.
var ErrFormat = errors.New("not a record store of this version")

// Options of Open. The zero value is good.
type Options struct {
	// Create makes the store, and the directory (mode 0700), when there is none.
	// Without it that is ErrNoStore.
	Create bool

	// Fatal is called once, after a failed commit, or when Pebble gives up or fails
	// in the background: what is on the disk is in doubt, and only opening the
	// store afresh can tell.
	// Nil: log and end the process with status 1. If it returns, every call gets
	// ErrClosed, and Close leaves files and lock to the end of the process.
	Fatal func(error)

	// Log gets what Pebble has to say: its news at level debug, its errors at
	// level error. Nil: slog.Default().
	Log *slog.Logger

	// CacheSize bounds the block cache, in bytes. 0: 32 MiB.
	CacheSize int64

	// FS is the file system. Nil: the real one. Tests inject faults here.
	FS vfs.FS
}

const defaultCacheSize = 32 << 20

// Store implements recordstore.Store.
type Store struct {
	// static after construction
	db    *pebble.DB
	id    recordstore.StoreID
	log   *slog.Logger
	fatal func(error)

	stripes  [stripes]stripe
	position atomic.Uint64 // sequence number of the last durable write

	failed  atomic.Bool // failure is set; for a look without the lock
	failMu  sync.Mutex
	failure error // guarded by failMu
	opened  bool  // guarded by failMu: Open has succeeded

	closing sync.RWMutex // held for reading during every call
	closed  bool         // guarded by closing
}

var _ recordstore.Store = (*Store)(nil)

// Open opens the store in dir and locks the directory against other processes.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{log: o.Log, fatal: o.Fatal}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.fatal == nil {
		s.fatal = s.endProcess
	}
	for i := range s.stripes {
		s.stripes[i].lock = make(chan struct{}, 1)
		s.stripes[i].lock <- struct{}{}
	}
	db, err := openPebble(dir, pebbleOptions(o, logger{s.log, s.fail}, s.failInBackground))
	switch {
	case errors.Is(err, pebble.ErrDBDoesNotExist):
		return nil, fmt.Errorf("opening %s: %w", dir, ErrNoStore)
	case err != nil:
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	s.db = db
	if err := s.readMeta(o.Create); err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, errors.Join(err, s.Close()))
	}
	if err := s.endOpening(); err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	return s, nil
}

func (s *Store) endProcess(err error) {
	s.log.Error("record store failed, the process ends", "error", err)
	os.Exit(1)
}

// fail makes the store unusable and says why, the first time. What fails while
// the store is being opened is an error of Open and no more.
func (s *Store) fail(err error) { s.failAs(err, false) }

// failInBackground is fail for what Pebble tries again for ever, and in Open too:
// Open would never return.
func (s *Store) failInBackground(err error) {
	s.failAs(fmt.Errorf("in the background: %w", err), true)
}

func (s *Store) failAs(err error, always bool) {
	s.failMu.Lock()
	tell := (s.opened || always) && s.failure == nil
	if s.failure == nil {
		s.failure = err
		s.failed.Store(true)
	}
	s.failMu.Unlock()
	if tell {
		s.fatal(fmt.Errorf("record store: %w", err))
	}
}

func (s *Store) endOpening() error {
	s.failMu.Lock()
	defer s.failMu.Unlock()
	s.opened = true
	return s.failure
}

// enter begins a call; a nil error must be followed by leave.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.failed.Load() { // before the lock: a failed commit may hold it for good
		return s.errFailed()
	}
	s.closing.RLock()
	if s.closed {
		s.closing.RUnlock()
		return recordstore.ErrClosed
	}
	return nil
}

func (s *Store) leave() { s.closing.RUnlock() }

func (s *Store) errFailed() error {
	return fmt.Errorf("%w: a commit failed", recordstore.ErrClosed)
}

// Load implements recordstore.Store. It waits for a swap of the same stripe, so
// that it shows nothing that a power cut could still undo.
func (s *Store) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	st, err := s.lockStripe(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	defer st.unlock()
	return s.getSeen(st, id)
}

// LoadStale implements recordstore.Store. It does not wait for a swap of the same
// stripe, and may show what that is about to make durable. Whoever swaps on it
// waits then.
func (s *Store) LoadStale(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	if st := s.stripe(id); st.tryLock() {
		defer st.unlock()
		return s.getSeen(st, id)
	}
	return s.get(id)
}

// getSeen reads a record under the lock of its stripe, for the swap that may follow.
func (s *Store) getSeen(st *stripe, id recordstore.ID) ([]byte, recordstore.Version, error) {
	data, v, err := s.get(id)
	if err == nil && id != (recordstore.ID{}) {
		st.see(id, v)
	}
	return data, v, err
}

func (s *Store) get(id recordstore.ID) ([]byte, recordstore.Version, error) {
	value, closer, err := s.db.Get(recordKey(id))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, 0, nil
	} else if err != nil {
		return nil, 0, fmt.Errorf("reading record %s: %w", id, err)
	}
	defer closer.Close()
	return parseRecord(value)
}

// Swap implements recordstore.Store. Once its commit has begun, the context no
// longer matters.
func (s *Store) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	recordstore.CheckSwap(id, data)
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	st, err := s.lockStripe(ctx, id)
	if err != nil {
		return 0, err
	}
	defer st.unlock()
	v, known := st.version(id)
	if !known {
		if _, v, err = s.get(id); err != nil {
			return 0, err
		}
	}
	if v != expect {
		return 0, recordstore.ErrConflict
	}
	if err := s.commit(id, expect+1, data); err != nil {
		s.fail(err)
		return 0, fmt.Errorf("%w: %w", recordstore.ErrUnknown, err)
	}
	st.see(id, expect+1)
	return expect + 1, nil
}

// errGaveUp stands for a commit that Pebble reported to its logger only.
var errGaveUp = errors.New("pebble gave up")

// commit writes the record, and waits until it is on the disk.
func (s *Store) commit(id recordstore.ID, v recordstore.Version, data []byte) error {
	b := s.db.NewBatchWithSize(len(data) + 128)
	record := b.SetDeferred(recordKeySize, versionSize+len(data))
	appendRecordKey(record.Key[:0], id)
	appendRecord(record.Value[:0], v, data)
	if err := record.Finish(); err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	return s.commitBatch(b)
}

// commitBatch commits and ends a batch of one write, and keeps its sequence number.
func (s *Store) commitBatch(b *pebble.Batch) (err error) {
	defer func() { err = orPanic(err, recover()) }()
	// Sync is not an option of ours: a charge that is not on the disk is none.
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	// Pebble tells its logger of a failed commit and, when that returns, answers
	// that all is well.
	if s.failed.Load() {
		s.failMu.Lock()
		defer s.failMu.Unlock()
		return fmt.Errorf("%w: %w", errGaveUp, s.failure)
	}
	for at := uint64(b.SeqNum()); ; {
		last := s.position.Load()
		if last >= at || s.position.CompareAndSwap(last, at) {
			break
		}
	}
	b.Close() // only now: a failed batch may still be in use
	return nil
}

// Scan implements recordstore.Store.
func (s *Store) Scan(ctx context.Context, after recordstore.ID, n int) (ids []recordstore.ID, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	n = recordstore.PageSize(n)
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{
		LowerBound: append(recordKey(after), 0), // the least key above
		UpperBound: []byte{tagRecord + 1},
	})
	if err != nil {
		return nil, fmt.Errorf("scanning records: %w", err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			ids, err = nil, fmt.Errorf("scanning records: %w", cerr)
		}
	}()
	ids = make([]recordstore.ID, 0, min(n, 256))
	for ok := it.First(); ok && len(ids) < n; ok = it.Next() {
		id, err := parseRecordKey(it.Key())
		if err != nil {
			return nil, fmt.Errorf("scanning records: %w", err)
		}
		ids = append(ids, id)
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("scanning records: %w", err)
	}
	return ids, ctx.Err()
}

// Position implements recordstore.Store.
func (s *Store) Position(ctx context.Context) (uint64, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	return s.position.Load(), nil
}

// StoreID implements recordstore.Store.
func (s *Store) StoreID() recordstore.StoreID { return s.id }

// Close implements recordstore.Store. A second Close does nothing.
func (s *Store) Close() error {
	if s.failed.Load() {
		return s.errFailed()
	}
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing record store: %w", err)
	}
	return nil
}
