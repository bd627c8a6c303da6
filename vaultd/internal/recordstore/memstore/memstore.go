// Package memstore is a record store in memory: for tests and --insecure-dev. It
// keeps the contract except for one word, durable: all is gone with the process.
package memstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"slices"
	"sync"

	"chatvault/vaultd/internal/recordstore"
)

// Store implements recordstore.Store.
type Store struct {
	id recordstore.StoreID // static after construction

	mu       sync.Mutex // guards all below
	records  map[recordstore.ID]record
	position uint64
	closed   bool
}

type record struct {
	version recordstore.Version
	data    []byte // never written to, so a Load needs to copy only once
}

var _ recordstore.Store = (*Store)(nil)

// New returns an empty store under a fresh id.
func New() *Store {
	s := &Store{records: make(map[recordstore.ID]record)}
	rand.Read(s.id[:]) // never fails: crypto/rand ends the process instead
	return s
}

// enter locks the store, unless the call should not begin.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return recordstore.ErrClosed
	}
	return nil
}

// Load implements recordstore.Store.
func (s *Store) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.mu.Unlock()
	r := s.records[id]
	return bytes.Clone(r.data), r.version, nil
}

// LoadStale implements recordstore.Store. It is Load: nothing here is stale.
func (s *Store) LoadStale(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	return s.Load(ctx, id)
}

// Swap implements recordstore.Store.
func (s *Store) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	recordstore.CheckSwap(id, data)
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	if s.records[id].version != expect {
		return 0, recordstore.ErrConflict
	}
	s.records[id] = record{version: expect + 1, data: bytes.Clone(data)}
	s.position++
	return expect + 1, nil
}

// Scan implements recordstore.Store. It sorts all ids each time.
func (s *Store) Scan(ctx context.Context, after recordstore.ID, n int) ([]recordstore.ID, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	ids := make([]recordstore.ID, 0, len(s.records))
	for id := range s.records {
		if bytes.Compare(id[:], after[:]) > 0 {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b recordstore.ID) int { return bytes.Compare(a[:], b[:]) })
	return ids[:min(len(ids), recordstore.PageSize(n))], nil
}

// Position implements recordstore.Store.
func (s *Store) Position(ctx context.Context) (uint64, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	return s.position, nil
}

// StoreID implements recordstore.Store.
func (s *Store) StoreID() recordstore.StoreID { return s.id }

// Close implements recordstore.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
