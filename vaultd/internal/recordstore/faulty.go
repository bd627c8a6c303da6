package recordstore

import (
	"context"
	"errors"
	"sync"
)

// Fault is what becomes of a call that Faulty was told to fail.
type Fault int

const (
	// NotDone: the call does nothing and returns ErrInjected.
	NotDone Fault = iota + 1
	// Done: a Swap is done, but returns ErrUnknown; a call that only reads is
	// done in vain and returns ErrInjected.
	Done
	// NotDoneUnknown: a Swap is not done and returns ErrUnknown, as when a
	// cluster lost the request on its way; a call that only reads is as NotDone.
	NotDoneUnknown
)

// ErrInjected is a failure that Faulty was told to make.
var ErrInjected = errors.New("injected failure of the record store")

// Faulty is a Store that fails on demand, for tests that make every step of a
// flow fail in every way. Load, LoadStale, Swap, Scan and Position count as calls.
type Faulty struct {
	Store

	mu     sync.Mutex // guards all below
	calls  int
	faults map[int]Fault
}

// NewFaulty wraps a store; nothing fails until FailAt.
func NewFaulty(s Store) *Faulty { return &Faulty{Store: s, faults: make(map[int]Fault)} }

// FailAt makes call n fail, counted from 1 from now on. It may be called for
// several n; Reset forgets them.
func (f *Faulty) FailAt(n int, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[f.calls+n] = fault
}

// Reset forgets all faults that are still to come and begins to count anew.
func (f *Faulty) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = 0
	clear(f.faults)
}

// Calls says how many calls there were since the beginning or the last Reset: how
// many steps a flow has that can fail.
func (f *Faulty) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func (f *Faulty) next() Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	return f.faults[f.calls]
}

// Load implements Store.
func (f *Faulty) Load(ctx context.Context, id ID) ([]byte, Version, error) {
	if f.next() != 0 {
		return nil, 0, ErrInjected
	}
	return f.Store.Load(ctx, id)
}

// LoadStale implements Store.
func (f *Faulty) LoadStale(ctx context.Context, id ID) ([]byte, Version, error) {
	if f.next() != 0 {
		return nil, 0, ErrInjected
	}
	return f.Store.LoadStale(ctx, id)
}

// Swap implements Store.
func (f *Faulty) Swap(ctx context.Context, id ID, expect Version, data []byte) (Version, error) {
	switch f.next() {
	case NotDone:
		return 0, ErrInjected
	case NotDoneUnknown:
		return 0, ErrUnknown
	case Done:
		if _, err := f.Store.Swap(ctx, id, expect, data); err != nil {
			return 0, err // a conflict is a conflict: nothing was done to be in doubt of
		}
		return 0, ErrUnknown
	}
	return f.Store.Swap(ctx, id, expect, data)
}

// Scan implements Store.
func (f *Faulty) Scan(ctx context.Context, after ID, n int) ([]ID, error) {
	if f.next() != 0 {
		return nil, ErrInjected
	}
	return f.Store.Scan(ctx, after, n)
}

// Position implements Store.
func (f *Faulty) Position(ctx context.Context) (uint64, error) {
	if f.next() != 0 {
		return 0, ErrInjected
	}
	return f.Store.Position(ctx)
}
