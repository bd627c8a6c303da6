package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// Fault is something that happens and is over: do makes it happen, undo ends it.
type Fault struct {
	Name     string
	Do, Undo func() error
	Lasts    [2]time.Duration // between
}

// Schedule makes faults happen one after the other, in an order and for times that
// the seed decides, with some peace in between, until enough have happened. When
// it returns, all are over.
func Schedule(ctx context.Context, seed uint64, n int, faults func(*rand.Rand) Fault) (told []string, err error) {
	rng := rand.New(rand.NewPCG(seed, 7))
	between := func(d [2]time.Duration) time.Duration { return d[0] + time.Duration(rng.Int64N(int64(d[1]-d[0])+1)) }
	for range n {
		wait(ctx, between([2]time.Duration{100 * time.Millisecond, 500 * time.Millisecond}))
		f := faults(rng)
		told = append(told, f.Name)
		if err := f.Do(); err != nil {
			return told, fmt.Errorf("%s: %w", f.Name, err)
		}
		wait(ctx, between(f.Lasts))
		if err := f.Undo(); err != nil {
			return told, fmt.Errorf("end of %s: %w", f.Name, err)
		}
	}
	return told, nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
