package vault

import (
	"sync"
	"time"

	"chatvault/vaultd/internal/recordstore"
)

// maxShares is of how many accounts a node remembers what it charged in an hour:
// about 6 MiB, and more accounts than the fleet charges by default. Beyond, it
// forgets one for each that comes, and no account pays for another.
const maxShares = 1 << 17

// shares caps what one account takes of the fleet's permits. A recovery with the
// right password gives the account ten attempts again but no permit back; so without
// this one account on its owner device, which nothing else paces, could keep all
// others waiting for the next hour (A19). Each node counts for itself, in memory. A
// nil shares caps nothing.
type shares struct {
	// static after construction
	now func() time.Time
	max int

	mu      sync.Mutex // guards all below
	hour    uint64     // that the rest is of: its beginning, Unix seconds
	charged map[recordstore.ID]int
}

// newShares caps the charges of an account in an hour; 0 means no cap.
func newShares(now func() time.Time, max int) *shares {
	if max == 0 {
		return nil
	}
	return &shares{now: now, max: max, charged: make(map[recordstore.ID]int)}
}

// roll forgets the hour that is over. It is called with mu held.
func (s *shares) roll() {
	if h := hourOf(s.now()); h > s.hour {
		s.hour, s.charged = h, make(map[recordstore.ID]int)
	}
}

// take counts a charge, or returns errSpent and when there will be more. hour is
// for give.
func (s *shares) take(id recordstore.ID) (hour, until uint64, err error) {
	if s == nil {
		return 0, 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roll()
	n, known := s.charged[id]
	if n >= s.max {
		return 0, s.hour + permitHour, errSpent
	}
	if !known && len(s.charged) >= maxShares {
		for other := range s.charged { // in no order that anybody could choose
			delete(s.charged, other)
			break
		}
	}
	s.charged[id] = n + 1
	return s.hour, 0, nil
}

// give counts back a charge that came to nothing, unless its hour is over.
func (s *shares) give(id recordstore.ID, hour uint64) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.roll(); s.hour != hour {
		return
	}
	switch n := s.charged[id]; {
	case n > 1:
		s.charged[id] = n - 1
	case n == 1:
		delete(s.charged, id)
	}
}

// taken is what one charge took: of the node's permits, and of its account's share.
type taken struct {
	p     *permits
	hour  uint64
	kinds []permitKind

	s      *shares
	id     recordstore.ID
	shared uint64 // the share's hour
}

// take takes what charging an account takes, all of it or nothing: errNoPermit, or
// errSpent and when there will be more.
func (v *Vault) take(id recordstore.ID, kinds []permitKind) (t taken, until uint64, err error) {
	shared, until, err := v.shares.take(id)
	if err != nil {
		return taken{}, until, err
	}
	t, until, err = v.permits.take(kinds...)
	if err != nil {
		v.shares.give(id, shared)
		return taken{}, until, err
	}
	t.s, t.id, t.shared = v.shares, id, shared
	return t, 0, nil
}

// give puts back what came to nothing.
func (t *taken) give() {
	if t.p != nil {
		t.p.give(t.hour, t.kinds)
	}
	if t.s != nil {
		t.s.give(t.id, t.shared)
	}
	*t = taken{}
}
