package faults

import (
	"sync"
	"sync/atomic"
	"time"
)

// Clock is the time of all machines of a run. It stands still while anything is
// done, and jumps in between: so each operation has one time, which the model is
// told.
type Clock struct {
	gate sync.RWMutex // held for reading during every operation
	now  atomic.Int64 // Unix seconds
}

// NewClock is a clock that shows a time of day.
func NewClock() *Clock {
	c := &Clock{}
	c.now.Store(1_800_000_000)
	return c
}

// Now is the time.
func (c *Clock) Now() time.Time { return time.Unix(c.now.Load(), 0) }

// hold has the clock stand still until release.
func (c *Clock) hold() (now uint64, release func()) {
	c.gate.RLock()
	return uint64(c.now.Load()), c.gate.RUnlock
}

// Jump waits until nothing is done, and lets time pass.
func (c *Clock) Jump(d time.Duration) {
	c.gate.Lock()
	defer c.gate.Unlock()
	c.now.Add(int64(d / time.Second))
}

// leaps are how far a clock jumps: past a wait, past the life of what a session
// remembers, past a day, past the time that a claim takes to ripen, past that in
// which it may be used.
var leaps = [...]time.Duration{
	2 * time.Minute, 2 * time.Minute, 11 * time.Minute, 61 * time.Minute, 6 * time.Hour, 25 * time.Hour, 73 * time.Hour, 8 * 24 * time.Hour,
}
