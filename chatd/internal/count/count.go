// Package count counts what happens, under names from closed sets: never an
// identifier.
package count

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
)

// Set is a set of counters, all 0 at the start.
type Set struct {
	mu sync.Mutex
	n  map[string]int64
}

// Add counts one.
func (s *Set) Add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == nil {
		s.n = map[string]int64{}
	}
	s.n[name]++
}

// Get returns one counter.
func (s *Set) Get(name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n[name]
}

// All returns every counter that is not 0.
func (s *Set) All() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.n)
}

// LogValue lists the counters that are not 0, by name.
func (s *Set) LogValue() slog.Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	var attrs []slog.Attr
	for _, name := range slices.Sorted(maps.Keys(s.n)) {
		attrs = append(attrs, slog.Int64(name, s.n[name]))
	}
	return slog.GroupValue(attrs...)
}
