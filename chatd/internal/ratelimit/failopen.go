package ratelimit

import (
	"context"
	"sync"
	"time"

	"chatvault/chatd/internal/clock"
)

const (
	// askFor is FailOpen.Wait where nothing else is set.
	askFor = 250 * time.Millisecond
	// restFor is how long it is not asked after it failed, so that a slow
	// Redis costs one caller a second its time, not every caller.
	restFor = time.Second
)

// FailOpen asks a shared Spender, and counts in this process when there is
// none or while it fails.
type FailOpen struct {
	shared Spender // nil: there is none
	local  *Local
	clock  clock.Clock
	change func(err error)
	// Wait bounds one question to the shared Spender, 250 ms from NewFailOpen.
	// It is set before the first one.
	Wait time.Duration

	mu     sync.Mutex
	failed bool
	restTo time.Time
}

// NewFailOpen returns a FailOpen. change is called with an error when shared
// begins to fail, and with nil when it answers again.
func NewFailOpen(shared Spender, local *Local, c clock.Clock, change func(error)) *FailOpen {
	return &FailOpen{shared: shared, local: local, clock: c, change: change, Wait: askFor}
}

// SpendAll takes all steps at once, and says what the strictest limit says. It
// waits for the shared Spender no longer than Wait.
func (f *FailOpen) SpendAll(ctx context.Context, steps ...Step) Decision {
	return f.SpendAlong(ctx, nil, steps...)
}

// SpendAlong does what SpendAll does, and lets along take part in the round
// trip. along is not called when there is none.
func (f *FailOpen) SpendAlong(ctx context.Context, along Along, steps ...Step) Decision {
	if f.shared != nil && !f.resting() {
		ctx, cancel := context.WithTimeout(ctx, f.Wait)
		all, err := f.ask(ctx, along, steps)
		cancel()
		f.note(err)
		if err == nil {
			return strictest(all)
		}
	}
	all, _ := f.local.SpendAll(ctx, steps)
	return strictest(all)
}

func (f *FailOpen) ask(ctx context.Context, along Along, steps []Step) ([]Decision, error) {
	if s, ok := f.shared.(accompanied); ok {
		return s.SpendAlong(ctx, along, steps)
	}
	return f.shared.SpendAll(ctx, steps)
}

// accompanied is a Spender that takes others along.
type accompanied interface {
	SpendAlong(ctx context.Context, along Along, steps []Step) ([]Decision, error)
}

// Failing says whether the shared Spender failed when it was last asked.
func (f *FailOpen) Failing() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

func (f *FailOpen) resting() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clock.Now().Before(f.restTo)
}

func (f *FailOpen) note(err error) {
	f.mu.Lock()
	changed := f.failed != (err != nil)
	f.failed = err != nil
	if err != nil {
		f.restTo = f.clock.Now().Add(restFor)
	}
	f.mu.Unlock()
	if changed {
		f.change(err)
	}
}
