package faults

import (
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/memstore"
	"chatvault/vaultd/internal/rules"
)

// distant is a store behind a network: some calls take time each way, so that
// clients meet in the middle.
type distant struct{ recordstore.Store }

func (distant) travel() {
	if rand.IntN(4) == 0 {
		time.Sleep(rand.N(200 * time.Microsecond))
	}
}

func (s distant) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	s.travel()
	defer s.travel()
	return s.Store.Load(ctx, id)
}

func (s distant) LoadStale(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	s.travel()
	return s.Store.LoadStale(ctx, id)
}

func (s distant) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	s.travel()
	defer s.travel()
	return s.Store.Swap(ctx, id, expect, data)
}

// doubtful is a store that mostly does not answer: a swap was done, or not.
type doubtful struct{ recordstore.Store }

func (s doubtful) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	dice := rand.IntN(3)
	if dice == 0 {
		return 0, recordstore.ErrUnknown
	}
	v, err := s.Store.Swap(ctx, id, expect, data)
	if dice == 1 && err == nil {
		return 0, recordstore.ErrUnknown
	}
	return v, err
}

// blind is a broken store: it swaps without comparing.
type blind struct{ recordstore.Store }

func (s blind) Swap(ctx context.Context, id recordstore.ID, _ recordstore.Version, data []byte) (recordstore.Version, error) {
	for {
		_, version, err := s.Store.Load(ctx, id)
		if err != nil {
			return 0, err
		}
		if v, err := s.Store.Swap(ctx, id, version, data); err == nil {
			return v, nil
		}
	}
}

// stale is a store that now and then answers from a replica that lags behind by
// one record: a LoadStale, as it may, or broken also a Load.
type stale struct {
	recordstore.Store
	broken bool
	mu     sync.Mutex // guards before
	before map[recordstore.ID]loaded
}

type loaded struct {
	data    []byte
	version recordstore.Version
}

func newStale(s recordstore.Store, broken bool) *stale {
	return &stale{Store: s, broken: broken, before: make(map[recordstore.ID]loaded)}
}

func (s *stale) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	if s.broken {
		return s.LoadStale(ctx, id)
	}
	return s.Store.Load(ctx, id)
}

func (s *stale) LoadStale(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	s.mu.Lock()
	old, known := s.before[id]
	s.mu.Unlock()
	if known && rand.IntN(4) == 0 {
		return old.data, old.version, nil
	}
	return s.Store.Load(ctx, id)
}

func (s *stale) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	replaced, version, err := s.Store.Load(ctx, id)
	if err != nil {
		return 0, err
	}
	v, err := s.Store.Swap(ctx, id, expect, data)
	if err == nil && version == expect {
		s.mu.Lock()
		s.before[id] = loaded{replaced, version}
		s.mu.Unlock()
	}
	return v, err
}

// early is a broken store: it acknowledges what is only in memory. lose is the
// kill -9 that shows it.
type early struct {
	recordstore.Store
	mu      sync.Mutex // guards all below
	records map[recordstore.ID]loaded
	durable map[recordstore.ID]loaded
	swaps   int
}

func newEarly() *early {
	return &early{Store: memstore.New(), records: make(map[recordstore.ID]loaded), durable: make(map[recordstore.ID]loaded)}
}

func (s *early) Load(_ context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[id]
	return r.data, r.version, nil
}

func (s *early) LoadStale(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	return s.Load(ctx, id)
}

// Swap makes durable what there is at every eighth swap only, and at those the
// process is killed now and then before the next.
func (s *early) Swap(_ context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[id].version != expect {
		return 0, recordstore.ErrConflict
	}
	s.records[id] = loaded{data, expect + 1}
	switch s.swaps++; {
	case s.swaps%8 == 0:
		s.durable = maps.Clone(s.records)
	case s.swaps%100 == 45:
		s.records = maps.Clone(s.durable)
	}
	return expect + 1, nil
}

// careless are broken rules: a charge does not ask whether the record is a
// tombstone.
func careless() Rules {
	r := Vault()
	r.Charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		if r == nil || r.State == record.Live {
			return rules.Charge(r, a, now, p)
		}
		r.State = record.Live
		charge, v := rules.Charge(r, a, now, p)
		if v.Status == frame.Destroyed { // it was settled once more
			return 0, rules.Verdict{Status: frame.Destroyed}
		}
		return charge, v
	}
	return r
}

// cancelling are broken rules: a new attempt takes the place of an open one, as
// if that had not been evaluated.
func cancelling() Rules {
	r := Vault()
	r.Charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		if r == nil || len(r.Entries) == 0 {
			return rules.Charge(r, a, now, p)
		}
		last := &r.Entries[len(r.Entries)-1]
		if !last.Open || last.Attempt == a.ID || r.State != record.Live {
			return rules.Charge(r, a, now, p)
		}
		last.Attempt = a.ID
		return last.Charge, rules.Verdict{Status: frame.OK, Write: true}
	}
	return r
}

// generous are broken rules: a success gives all ten attempts back, those that
// were charged after it too.
func generous() Rules {
	r := Vault()
	r.Restore = func(r *record.Record, a rules.Attempt, generation, charge uint64, now time.Time) rules.Verdict {
		v := rules.Restore(r, a, generation, charge, now)
		if v.Status == frame.OK {
			r.Base = r.Charges
		}
		return v
	}
	return r
}
