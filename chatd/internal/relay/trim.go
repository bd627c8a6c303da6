package relay

import (
	"runtime"
	"runtime/debug"
	"time"

	"chatvault/chatd/internal/wheel"
)

// When many clients have come and gone quiet, what they needed while they were
// active (stacks, buffers, TLS handshakes) is free, but Go gives it back to the
// system only down to a tenth above its goal: of 15,000 connections with TLS that
// was 7 KB each. So it is told to, once, when the crowd has come to rest. That
// costs two garbage collections, which run beside everything else: what a
// sync.Pool holds is free after the second.
const (
	trimLook  = time.Second      // how often it looks
	trimCalm  = 2                // looks in a row at which hardly any had parked or resumed
	trimRest  = 30 * time.Second // at most once in
	trimLeast = 1000             // connections that were parked since, and a tenth of those before
)

// trimmer does that.
type trimmer struct {
	// static after construction
	relay *Relay
	wake  wheel.Entry
	free  func()

	// owned by the wheel
	parked  int64 // at the last look
	trimmed int64 // that were parked at the last trim, less those that left since
	calm    int   // looks in a row
	next    time.Time
}

func newTrimmer(r *Relay) *trimmer {
	t := &trimmer{relay: r, free: func() { go freeMemory() }}
	t.wake.Owner = t
	r.Wheel.Set(&t.wake, trimLook)
	return t
}

func freeMemory() {
	runtime.GC()
	debug.FreeOSMemory()
}

// Due implements wheel.Owner.
func (t *trimmer) Due() {
	before, now := t.parked, t.relay.Clock.Now()
	t.parked = t.relay.parked.Load()
	t.trimmed = min(t.trimmed, t.parked)
	if moved := max(t.parked-before, before-t.parked); moved > t.parked/100 {
		t.calm = 0
	} else {
		t.calm++
	}
	if t.parked-t.trimmed >= max(trimLeast, t.trimmed/10) && t.calm >= trimCalm && !now.Before(t.next) {
		t.trimmed, t.next = t.parked, now.Add(trimRest)
		t.free()
	}
	t.relay.Wheel.Set(&t.wake, trimLook)
}
