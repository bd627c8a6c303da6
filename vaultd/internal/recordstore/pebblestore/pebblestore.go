// Package pebblestore is the embedded record store: Pebble in a directory of one
// vaultd. It keeps recordstore's contract on one machine.
//
// Keys and values (integers are big-endian):
//
//	00                   → lp(format name) ‖ format version u8 ‖ store id 16
//	01 ‖ stripe u16      → swaps done so far under this stripe's lock, u64
//	02 ‖ record id 16    → version u64 ‖ data
//
// Every swap writes its record and its stripe's count in one batch, synced. The
// store's position is the sum of the counts.
package pebblestore

import (
	"context"
	"encoding/binary"
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

// stripes is how many locks the ids are spread over: at 64 swaps at a time, one
// in sixteen meets another on its lock.
const stripes = 1024

// Store implements recordstore.Store.
type Store struct {
	// static after construction
	db    *pebble.DB
	id    recordstore.StoreID
	log   *slog.Logger
	fatal func(error)

	stripes  [stripes]stripe
	position atomic.Uint64 // swaps that are durable

	failed  atomic.Bool // failure is set; for a look without the lock
	failMu  sync.Mutex
	failure error // guarded by failMu
	opened  bool  // guarded by failMu: Open has succeeded

	closing sync.RWMutex // held for reading during every call
	closed  bool         // guarded by closing
}

// stripe serialises all that happens to its ids. A swap holds it until its commit
// is on the disk: Pebble shows a batch to readers before it is synced.
type stripe struct {
	lock chan struct{} // holds one token while the stripe is free

	// guarded by lock
	swaps uint64
	seen  [4]seen // the last records that were read or swapped; the zero id: none
	next  uint8   // which of seen goes next
}

// seen is the version that a record has. It needs not be read again: nobody else
// writes to the directory, and each swap of this process notes what it made. So a
// swap that follows its load reads no record only to compare its version.
type seen struct {
	id      recordstore.ID
	version recordstore.Version
}

func (st *stripe) version(id recordstore.ID) (v recordstore.Version, known bool) {
	for _, s := range st.seen {
		if s.id == id {
			return s.version, true
		}
	}
	return 0, false
}

func (st *stripe) see(id recordstore.ID, v recordstore.Version) {
	for i := range st.seen {
		if st.seen[i].id == id {
			st.seen[i].version = v
			return
		}
	}
	st.seen[st.next] = seen{id, v}
	st.next = (st.next + 1) % uint8(len(st.seen))
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

// lockStripe waits for the stripe of an id. The id is a keyed hash, its first
// bytes are as even as any.
func (s *Store) lockStripe(ctx context.Context, id recordstore.ID) (*stripe, uint16, error) {
	n := binary.BigEndian.Uint16(id[:]) % stripes
	st := &s.stripes[n]
	select {
	case <-st.lock: // mostly; and cheaper than to wait for either
	default:
		select {
		case <-st.lock:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
	if s.failed.Load() { // while we waited
		st.unlock()
		return nil, 0, s.errFailed()
	}
	return st, n, nil
}

func (st *stripe) unlock() { st.lock <- struct{}{} }

// Load implements recordstore.Store. It waits for a swap of the same stripe, so
// that it shows nothing that a power cut could still undo.
func (s *Store) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	st, _, err := s.lockStripe(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	defer st.unlock()
	data, v, err := s.get(id)
	if err == nil && id != (recordstore.ID{}) {
		st.see(id, v)
	}
	return data, v, err
}

// LoadStale implements recordstore.Store. It is Load: this store has one copy.
func (s *Store) LoadStale(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	return s.Load(ctx, id)
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
	st, n, err := s.lockStripe(ctx, id)
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
	if err := s.commit(id, expect+1, data, n, st.swaps+1); err != nil {
		s.fail(err)
		return 0, fmt.Errorf("%w: %w", recordstore.ErrUnknown, err)
	}
	st.swaps++
	st.see(id, expect+1)
	s.position.Add(1)
	return expect + 1, nil
}

// errGaveUp stands for a commit that Pebble reported to its logger only.
var errGaveUp = errors.New("pebble gave up")

// commit writes the record and the count, and waits until both are on the disk.
func (s *Store) commit(id recordstore.ID, v recordstore.Version, data []byte, n uint16, swaps uint64) (err error) {
	defer func() { err = orPanic(err, recover()) }()
	b := s.db.NewBatchWithSize(len(data) + 128)
	record := b.SetDeferred(recordKeySize, versionSize+len(data))
	appendRecordKey(record.Key[:0], id)
	appendRecord(record.Value[:0], v, data)
	if err := record.Finish(); err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	count := b.SetDeferred(countKeySize, 8)
	appendCountKey(count.Key[:0], n)
	binary.BigEndian.PutUint64(count.Value, swaps)
	if err := count.Finish(); err != nil {
		return fmt.Errorf("writing count: %w", err)
	}
	// Sync is not an option of ours: a charge that is not on the disk is none.
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	// Pebble tells its logger of a failed commit and, when that returns, answers
	// that all is well.
	if s.failed.Load() {
		return errGaveUp
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
