package vault

import (
	"sync"
	"time"
)

// hourly caps how often something happens on this node: at most max at once, and
// max an hour in the long run (within one hour that begins full: twice that).
// chatd's limits do not bind a corrupted chatd, so that what burns attempts or
// destroys keys wholesale is slowed down here. A nil hourly caps nothing.
type hourly struct {
	max float64

	mu   sync.Mutex // guards all below
	left float64
	at   time.Time // when left was reckoned
}

// newHourly makes a full cap; 0 means none.
func newHourly(max int) *hourly {
	if max == 0 {
		return nil
	}
	return &hourly{max: float64(max), left: float64(max)}
}

// take takes one, or says when there will be one.
func (h *hourly) take(now time.Time) (until time.Time, ok bool) {
	if h == nil {
		return time.Time{}, true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if passed := now.Sub(h.at); h.at.IsZero() || passed > 0 {
		h.left = min(h.max, h.left+h.max*passed.Hours())
		h.at = now
	}
	if h.left < 1 {
		wait := time.Duration((1 - h.left) / h.max * float64(time.Hour))
		return now.Add(wait).Add(time.Second), false // whole seconds go on the wire
	}
	h.left--
	return time.Time{}, true
}

// give puts one back that came to nothing.
func (h *hourly) give() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = min(h.max, h.left+1)
}
