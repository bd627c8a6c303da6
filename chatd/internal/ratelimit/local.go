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

// SpendAll implements Spender. It never fails.
func (s *Local) SpendAll(_ context.Context, steps []Step) ([]Decision, error) {
	out := make([]Decision, len(steps))
	for i, step := range steps {
		out[i] = s.spend(step)
	}
	return out, nil
}

// Spend takes one step. It never fails.
func (s *Local) Spend(_ context.Context, name string, l Limit, id string) (Decision, error) {
	return s.spend(Step{name, l, id}), nil
}

func (s *Local) spend(step Step) Decision {
	if step.Limit == Off {
		return Decision{Allowed: true}
	}
	now := s.clock.Now().UnixMicro()
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{step.Name, step.ID}
	tat, known := s.tats[k]
	if !known && len(s.tats) >= s.max {
		s.makeRoom(now)
	}
	next, wait := step.Limit.Spend(tat, now)
	if wait == 0 {
		s.tats[k] = next
	}
	return decide(step.Name, wait)
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
