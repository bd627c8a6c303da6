package metrics

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// askEvery is how often a part is asked whether it works.
	askEvery = 5 * time.Second
	// askFor is how long it may take to answer.
	askFor = 3 * time.Second
	// staleAfter is how old the last good answer may be. A call that hangs in a
	// PKCS#11 module cannot be cut short: then no answer comes at all.
	staleAfter = 15 * time.Second
)

// Health asks a part of the node, again and again, whether it works.
type Health struct {
	ask  func(context.Context) error
	good atomic.Int64 // Unix ns of the last good answer
}

// NewHealth returns a Health of a part that worked just now.
func NewHealth(ask func(context.Context) error) *Health {
	h := &Health{ask: ask}
	h.good.Store(time.Now().UnixNano())
	return h
}

// Run asks until ctx ends. A part that has failed is not good again before it
// has answered.
func (h *Health) Run(ctx context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		h.check(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (h *Health) check(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	if h.ask(ctx) == nil {
		h.good.Store(time.Now().UnixNano())
	} else {
		h.good.Store(0)
	}
}

// Good says whether the part worked when it was last asked, and whether that was
// not long ago.
func (h *Health) Good() bool {
	return time.Since(time.Unix(0, h.good.Load())) < staleAfter
}
