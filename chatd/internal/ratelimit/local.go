package ratelimit

import (
	"context"
	"sync"

	"chatvault/chatd/internal/clock"
)

// maxLocal bounds the memory of a Local, whoever names how many addresses:
// about 100 bytes each.
const maxLocal = 1 << 17

// Local counts in this process.
type Local struct {
	clock clock.Clock
	max   int

	mu    sync.Mutex
	tats  map[key]int64 // µs
	swept int64         // µs, when what had lapsed was last removed
}

type key struct{ name, id string }

// NewLocal returns a Local without any count.
func NewLocal(c clock.Clock) *Local {
	return &Local{clock: c, max: maxLocal, tats: map[key]int64{}}
}

// Spend implements Spender. It never fails.
func (s *Local) Spend(_ context.Context, name string, l Limit, id string) (Decision, error) {
	if l == Off {
		return Decision{Allowed: true}, nil
	}
	now := s.clock.Now().UnixMicro()
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{name, id}
	tat, known := s.tats[k]
	if !known && len(s.tats) >= s.max {
		s.makeRoom(now)
	}
	next, wait := l.Spend(tat, now)
	if wait == 0 {
		s.tats[k] = next
	}
	return decide(wait), nil
}

// makeRoom removes the counts that have lapsed, at most once a second, and an
// arbitrary one if that was not enough: a flood of made-up identities makes
// the relay forget, not grow.
func (s *Local) makeRoom(now int64) {
	if now-s.swept >= 1_000_000 {
		s.swept = now
		for k, tat := range s.tats {
			if tat <= now {
				delete(s.tats, k)
			}
		}
	}
	for k := range s.tats {
		if len(s.tats) < s.max {
			return
		}
		delete(s.tats, k)
	}
}
