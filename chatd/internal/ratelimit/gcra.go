// Package ratelimit says how often a thing may happen: named limits, counted
// by GCRA (the generic cell rate algorithm of ITU-T I.371, as a virtual
// schedule) in whole microseconds, in this process or in Redis.
//
// Limits fail open: when Redis cannot be asked, each relay counts for itself.
// They protect the relay and whoever is behind it from load. What protects a
// password from guessing is the vault's counter, which never fails open.
package ratelimit

import (
	"context"
	"fmt"
	"time"
)

// Limit allows Burst at once, and Count in each Period in the long run.
type Limit struct {
	Burst  int
	Count  int
	Period time.Duration
}

// Off allows everything.
var Off = Limit{}

// maxPeriod keeps every sum of times under 2^53 µs: what a Lua number holds
// without rounding.
const maxPeriod = 366 * 24 * time.Hour

// Check says what is wrong with a limit.
func (l Limit) Check() error {
	switch {
	case l == Off:
		return nil
	case l.Burst < 1 || l.Burst > 1_000_000:
		return fmt.Errorf("burst %d: want 1 to 1000000", l.Burst)
	case l.Count < 1:
		return fmt.Errorf("count %d: want 1 or more", l.Count)
	case l.Period < time.Millisecond || l.Period > maxPeriod:
		return fmt.Errorf("period %v: want 1ms to %v", l.Period, maxPeriod)
	case l.interval() < 1:
		return fmt.Errorf("%d in %v is faster than one a microsecond", l.Count, l.Period)
	case l.tolerance() > maxPeriod.Microseconds():
		return fmt.Errorf("a burst of %d takes longer than %v to come back", l.Burst, maxPeriod)
	}
	return nil
}

// String is the form that configuration files use: burst/count/period.
func (l Limit) String() string {
	if l == Off {
		return "off"
	}
	return fmt.Sprintf("%d/%d/%v", l.Burst, l.Count, l.Period)
}

// interval is GCRA's emission interval T, in µs.
func (l Limit) interval() int64 { return l.Period.Microseconds() / int64(l.Count) }

// tolerance is the time that a full burst takes to come back, in µs.
func (l Limit) tolerance() int64 { return l.interval() * int64(l.Burst) }

// Spend is one step of GCRA. tat is the theoretical arrival time that was
// stored, 0 if none; now is in µs of Unix time. When the step conforms, wait is
// 0 and next is to be stored; else wait says in how many µs it would.
func (l Limit) Spend(tat, now int64) (next, wait int64) {
	if l == Off {
		return tat, 0
	}
	// What a clock that was ahead has stored locks nobody out for longer than
	// one interval.
	tat = min(max(tat, now), now+l.tolerance())
	next = tat + l.interval()
	if wait = next - l.tolerance() - now; wait > 0 {
		return tat, wait
	}
	return next, 0
}

// Step asks for one of what a limit allows to id.
type Step struct {
	Name  string
	Limit Limit
	ID    string
}

// Decision answers whether something may happen now.
type Decision struct {
	Allowed bool
	// Retry says when to try again; 0 if Allowed.
	Retry time.Duration
	// Limit is the name of the limit that refused; empty if Allowed.
	Limit string
}

func decide(name string, waitMicros int64) Decision {
	if waitMicros <= 0 {
		return Decision{Allowed: true}
	}
	return Decision{Retry: time.Duration(waitMicros) * time.Microsecond, Limit: name}
}

// strictest joins what several limits say of one thing: it is allowed if all
// of them allow it, else when the last of them would.
func strictest(all []Decision) Decision {
	worst := Decision{Allowed: true}
	for _, d := range all {
		if !d.Allowed && (worst.Allowed || d.Retry > worst.Retry) {
			worst = d
		}
	}
	return worst
}

// Spender counts. Limits of different names never share a count.
type Spender interface {
	// SpendAll takes all steps or, when one of them is refused, none: else a
	// device that is over its own limit would use up its account's. It answers
	// each step as if it were alone. An error means that nobody knows, and that
	// any of them may have been spent.
	SpendAll(ctx context.Context, steps []Step) ([]Decision, error)
}
