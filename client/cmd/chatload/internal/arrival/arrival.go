// Package arrival says when load is due. The times are fixed before the first
// operation starts: an open loop. A relay that stalls is asked as often as
// before, so that its stall shows in the latencies by schedule instead of
// slowing the question down.
package arrival

import (
	"math"
	"sort"
	"time"
)

// Schedule is a bounded list of arrivals in the order of their times.
type Schedule interface {
	// Count is how many there are.
	Count() int
	// At is when arrival i, 0 <= i < Count, is due, from the start.
	At(i int) time.Duration
	// Span is the time over which the schedule offers load.
	Span() time.Duration
}

// maxCount bounds every schedule, so that indices and memory stay sane.
const maxCount = 1 << 30

// Steady is Rate arrivals a second, evenly spaced, the first at once.
type Steady struct {
	Rate float64 // a second
	For  time.Duration
}

// Count implements Schedule.
func (s Steady) Count() int {
	if s.Rate <= 0 || s.For <= 0 {
		return 0
	}
	return bounded(math.Ceil(s.Rate*s.For.Seconds() - 1e-9))
}

// At implements Schedule.
func (s Steady) At(i int) time.Duration { return seconds(float64(i) / s.Rate) }

// Span implements Schedule.
func (s Steady) Span() time.Duration { return s.For }

// Ramp is a rate that grows, or falls, evenly from From to To a second.
type Ramp struct {
	From, To float64
	For      time.Duration
}

// Count implements Schedule: the area under the rate.
func (r Ramp) Count() int {
	if r.From < 0 || r.To < 0 || r.For <= 0 {
		return 0
	}
	return bounded(math.Floor((r.From+r.To)/2*r.For.Seconds() + 1e-9))
}

// At implements Schedule: when the area under the rate reaches i.
func (r Ramp) At(i int) time.Duration {
	n, span := float64(i), r.For.Seconds()
	slope := (r.To - r.From) / span
	// From·t + slope·t²/2 = n, in the form that is stable for small slopes.
	root := math.Sqrt(math.Max(0, r.From*r.From+2*slope*n))
	if d := r.From + root; d > 0 {
		return min(seconds(2*n/d), r.For)
	}
	return 0
}

// Span implements Schedule.
func (r Ramp) Span() time.Duration { return r.For }

// Bursts is Size arrivals at once, at the start and again after each Every.
type Bursts struct {
	Size  int
	Every time.Duration
	For   time.Duration
}

// Count implements Schedule.
func (b Bursts) Count() int {
	if b.Size <= 0 || b.Every <= 0 || b.For <= 0 {
		return 0
	}
	return bounded(float64(b.Size) * math.Ceil(float64(b.For)/float64(b.Every)))
}

// At implements Schedule.
func (b Bursts) At(i int) time.Duration { return time.Duration(i/b.Size) * b.Every }

// Span implements Schedule.
func (b Bursts) Span() time.Duration { return b.For }

// First cuts a schedule after Max arrivals.
type First struct {
	Schedule
	Max int
}

// Count implements Schedule.
func (f First) Count() int { return min(f.Schedule.Count(), f.Max) }

// Span implements Schedule: until just after the last arrival, when the
// schedule was cut.
func (f First) Span() time.Duration {
	if n := f.Count(); n < f.Schedule.Count() {
		return f.Schedule.At(n)
	}
	return f.Schedule.Span()
}

// Due is how many arrivals are due at t after the start.
func Due(s Schedule, t time.Duration) int {
	return sort.Search(s.Count(), func(i int) bool { return s.At(i) > t })
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func bounded(n float64) int { return int(min(max(n, 0), maxCount)) }
