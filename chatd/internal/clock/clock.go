// Package clock is time as the relay sees it, so that a test can move it.
package clock

import "time"

// Clock tells the time and wakes its caller.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f in its own goroutine after d.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is what AfterFunc returns.
type Timer interface {
	// Stop keeps f from being called; it reports false when that was too late.
	Stop() bool
	// Reset makes f be called after d, once more if it has been called.
	Reset(d time.Duration) bool
}

// System is the clock of the machine.
type System struct{}

// Now implements Clock.
func (System) Now() time.Time { return time.Now() }

// AfterFunc implements Clock.
func (System) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }

// After returns a channel that is closed after d, and a function that releases
// its timer.
func After(c Clock, d time.Duration) (<-chan struct{}, func()) {
	done := make(chan struct{})
	t := c.AfterFunc(d, func() { close(done) })
	return done, func() { t.Stop() }
}
