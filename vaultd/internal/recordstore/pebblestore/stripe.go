package pebblestore

import (
	"context"
	"encoding/binary"

	"chatvault/vaultd/internal/recordstore"
)

// stripes is how many locks the ids are spread over: at 64 swaps at a time, one
// in 128 meets another on its lock, and waits for its sync. They take 1.5 MB.
const stripes = 8192

// stripe serialises all that happens to its ids. A swap holds it until its commit
// is on the disk: Pebble shows a batch to readers before it is synced.
type stripe struct {
	lock chan struct{} // holds one token while the stripe is free

	// guarded by lock
	seen [2]seen // the last records that were read or swapped; the zero id: none
	next uint8   // which of seen goes next
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

// stripe is the stripe of an id, which is a keyed hash: its first bytes are as even
// as any.
func (s *Store) stripe(id recordstore.ID) *stripe {
	return &s.stripes[binary.BigEndian.Uint16(id[:])%stripes]
}

// lockStripe waits for the stripe of an id.
func (s *Store) lockStripe(ctx context.Context, id recordstore.ID) (*stripe, error) {
	st := s.stripe(id)
	if !st.tryLock() { // cheaper than to wait for either
		select {
		case <-st.lock:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if s.failed.Load() { // while we waited
		st.unlock()
		return nil, s.errFailed()
	}
	return st, nil
}

func (st *stripe) tryLock() bool {
	select {
	case <-st.lock:
		return true
	default:
		return false
	}
}

func (st *stripe) unlock() { st.lock <- struct{}{} }
