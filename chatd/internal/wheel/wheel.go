// Package wheel is one coarse clock and one hashed timer wheel for all
// connections of a relay: what they wait for (pings, the end of a ticket, AUTH)
// needs no precision, and a timer of its own for each would cost more memory
// than all that an idle connection keeps.
package wheel

import (
	"sync"
	"sync/atomic"
	"time"

	"chatvault/chatd/internal/clock"
)

// Tick is how late an entry may be called, and how stale Now may be; a crowd that is
// due in one takes longer, see atOnce.
const Tick = 250 * time.Millisecond

// slots times Tick is one turn of the wheel: 64 s. What is due later stays in
// its slot for another turn.
const slots = 256

// atOnce is how long owners are called before everybody else has a breath to go on.
// What they start goes on then too: done in one go, a swarm of sockets that are cut
// held up the frames of others for 2 ms.
const (
	atOnce = 300 * time.Microsecond
	breath = 500 * time.Microsecond
)

// Owner is who has an Entry.
type Owner interface {
	// Due is called on the wheel's own goroutine, without any lock held, once
	// for each Set. It must not wait for anybody.
	Due()
}

// Entry is an owner's place in the wheel, a part of the owner: 40 bytes.
type Entry struct {
	// static after construction
	Owner Owner

	// guarded by Wheel.mu
	next, prev *Entry // nil: not in the wheel
	due        int64  // in ticks since the wheel was made
}

// Wheel calls owners when their entries are due.
type Wheel struct {
	// static after construction
	clock clock.Clock
	start time.Time

	now atomic.Int64 // Unix ns of the last tick

	mu      sync.Mutex // guards what follows
	slots   [slots]Entry
	firing  Entry // those of a slot that are due
	at      int64 // the last tick that was done
	timer   clock.Timer
	stopped bool
}

// New returns a wheel that turns until Stop.
func New(c clock.Clock) *Wheel {
	w := &Wheel{clock: c, start: c.Now()}
	w.now.Store(w.start.UnixNano())
	w.firing.next, w.firing.prev = &w.firing, &w.firing
	for i := range w.slots {
		s := &w.slots[i]
		s.next, s.prev = s, s
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = c.AfterFunc(Tick, w.turn)
	return w
}

// Stop ends the wheel: nobody is called any more.
func (w *Wheel) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}

// Now is the time of the last tick, in Unix ns: at most a Tick and the time of
// one turn's calls old, and read without a system call.
func (w *Wheel) Now() int64 { return w.now.Load() }

// Set makes the entry due after d, whether or not it was set before. It is
// called then, or up to one Tick later, never earlier.
func (w *Wheel) Set(e *Entry, d time.Duration) { w.SetAt(e, w.clock.Now().Add(max(d, 1))) }

// SetAt makes the entry due at a time. When that is over by now, it is called
// with the next tick.
func (w *Wheel) SetAt(e *Entry, at time.Time) {
	// Rounded up to the tick at or after the exact time.
	due := int64((at.Sub(w.start) + Tick - 1) / Tick)
	w.mu.Lock()
	defer w.mu.Unlock()
	unlink(e)
	e.due = max(due, w.at+1)
	link(e, &w.slots[e.due%slots])
}

// Clear takes the entry out: it is not called, unless its call has begun.
func (w *Wheel) Clear(e *Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	unlink(e)
}

func link(e, head *Entry) {
	e.next, e.prev = head, head.prev
	head.prev.next, head.prev = e, e
}

func unlink(e *Entry) {
	if e.next != nil {
		e.next.prev, e.prev.next = e.prev, e.next
		e.next, e.prev = nil, nil
	}
}

// turn does every tick that is due, and sets the timer for the next.
func (w *Wheel) turn() {
	now := w.clock.Now()
	w.now.Store(now.UnixNano())
	began := now
	for e := w.take(now); e != nil; e = w.take(now) {
		e.Owner.Due()
		if at := w.clock.Now(); at.Sub(began) >= atOnce {
			time.Sleep(breath)
			began = w.clock.Now()
			w.now.Store(began.UnixNano())
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.timer.Reset(Tick)
	}
}

// take removes and returns one entry that is due by now.
func (w *Wheel) take(now time.Time) *Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	to := int64(now.Sub(w.start) / Tick)
	// After a pause of a whole turn or more, each slot once is enough.
	for w.at = max(w.at, to-slots); w.firing.next == &w.firing && w.at < to; {
		w.at++
		head := &w.slots[w.at%slots]
		for e := head.next; e != head; {
			next := e.next
			if e.due <= to {
				unlink(e)
				link(e, &w.firing)
			}
			e = next
		}
	}
	e := w.firing.next
	if e == &w.firing || w.stopped {
		return nil
	}
	unlink(e)
	return e
}
