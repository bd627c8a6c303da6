package ratelimit

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"

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
	nexts := make([]int64, 0, 4) // on the stack: nobody asks for more
	now := s.clock.Now().UnixMicro()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, step := range steps {
		next, wait := step.Limit.Spend(s.tats[key{step.Name, step.ID}], now)
		nexts, out[i] = append(nexts, next), decide(step.Name, wait)
	}
	if !strictest(out).Allowed {
		return out, nil
	}
	for i, step := range steps {
		s.put(step, nexts[i], now)
	}
	return out, nil
}

// Spend takes one step. It never fails.
func (s *Local) Spend(_ context.Context, name string, l Limit, id string) (Decision, error) {
	now := s.clock.Now().UnixMicro()
	s.mu.Lock()
	defer s.mu.Unlock()
	next, wait := l.Spend(s.tats[key{name, id}], now)
	if wait == 0 {
		s.put(Step{name, l, id}, next, now)
	}
	return decide(name, wait), nil
}

// put stores what a step has made of a count.
func (s *Local) put(step Step, tat, now int64) {
	if step.Limit == Off {
		return
	}
	k := key{step.Name, step.ID}
	if _, known := s.tats[k]; !known && len(s.tats) >= s.max {
		s.makeRoom(now)
	}
	s.tats[k] = tat
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

// Beside counts in this process, for a relay whose Redis no other relay asks: a
// script for each limit would say the same, at many times the cost. What goes
// along goes to that Redis.
type Beside struct {
	*Local
	client Pipeliner
}

// NewBeside returns a Beside.
func NewBeside(client Pipeliner, local *Local) *Beside { return &Beside{local, client} }

// SpendAlong does what SpendAll does, and makes a round trip for along, if that is
// not nil. It never fails: what went along has its own answers.
func (s *Beside) SpendAlong(ctx context.Context, along Along, steps []Step) ([]Decision, error) {
	if along != nil {
		_, _ = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			along(ctx, p)
			return nil
		})
	}
	return s.SpendAll(ctx, steps)
}
