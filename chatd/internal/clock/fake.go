package clock

import (
	"sync"
	"time"
)

// Fake is a clock that stands still until Advance.
type Fake struct {
	mu     sync.Mutex
	now    time.Time
	timers map[*fakeTimer]struct{}
}

// NewFake returns a clock that shows now.
func NewFake(now time.Time) *Fake {
	return &Fake{now: now, timers: map[*fakeTimer]struct{}{}}
}

// Now implements Clock.
func (f *Fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// AfterFunc implements Clock.
func (f *Fake) AfterFunc(d time.Duration, fn func()) Timer {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := &fakeTimer{clock: f, at: f.now.Add(d), fn: fn}
	f.timers[t] = struct{}{}
	return t
}

// Pending is how many timers are set.
func (f *Fake) Pending() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.timers)
}

// Advance moves the clock by d. It calls every function that falls due, in
// order of time, and returns when all of them have returned; timers that they
// set are called too if they fall due by then.
func (f *Fake) Advance(d time.Duration) {
	f.mu.Lock()
	end := f.now.Add(d)
	f.mu.Unlock()
	for {
		fn := f.next(end)
		if fn == nil {
			return
		}
		fn()
	}
}

// next takes the first timer due by end and moves the clock to it.
func (f *Fake) next(end time.Time) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	var first *fakeTimer
	for t := range f.timers {
		if !t.at.After(end) && (first == nil || t.at.Before(first.at)) {
			first = t
		}
	}
	if first == nil {
		if end.After(f.now) {
			f.now = end
		}
		return nil
	}
	delete(f.timers, first)
	if first.at.After(f.now) {
		f.now = first.at
	}
	return first.fn
}

type fakeTimer struct {
	clock *Fake
	fn    func()
	at    time.Time // guarded by clock.mu
}

func (t *fakeTimer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	_, pending := t.clock.timers[t]
	delete(t.clock.timers, t)
	return pending
}

func (t *fakeTimer) Reset(d time.Duration) bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	_, pending := t.clock.timers[t]
	t.at = t.clock.now.Add(d)
	t.clock.timers[t] = struct{}{}
	return pending
}
