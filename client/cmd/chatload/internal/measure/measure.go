// Package measure counts what happens during a run, from many goroutines.
package measure

import (
	"slices"
	"strings"
	"sync"
	"time"

	"chatvault/client/cmd/chatload/internal/result"
)

// maxPoints bounds a series; longer runs get longer intervals.
const maxPoints = 600

// maxCodes bounds the codes that one operation tells apart: they come from the
// other side too. The rest is counted as "other".
const maxCodes = 64

// Outcome is how an operation ended. Code is a word of a closed set.
type Outcome struct {
	Code    string
	Failed  bool
	Untimed bool // a good end whose duration means nothing
	// Began is when the other side could begin to serve it, if that was later
	// than its start: when it had waited here for something.
	Began time.Time
}

// Run is the measurements of one run.
type Run struct {
	start    time.Time
	interval time.Duration

	mu    sync.Mutex
	ops   []*Op
	lag   *result.Histogram
	held  int64 // connections that stand, for the live view
	waits int64 // arrivals that found no room
}

// New begins a run that is expected to take about as long as expected.
func New(start time.Time, expected time.Duration) *Run {
	interval := time.Second
	if expected < 20*time.Second {
		interval = 250 * time.Millisecond
	}
	for expected/interval >= maxPoints {
		interval *= 2
	}
	return &Run{start: start, interval: interval, lag: result.NewHistogram()}
}

// Start is when the run began.
func (r *Run) Start() time.Time { return r.start }

// Lag notes how late an operation was started that was due and had room.
func (r *Run) Lag(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lag.Record(d)
}

// Waited notes an arrival that found no room.
func (r *Run) Waited() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits++
}

// Waits is how many arrivals found no room.
func (r *Run) Waits() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waits
}

// Hold counts connections that stand.
func (r *Run) Hold(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held += n
}

// LagMillis is the generator's own lag: its 99th percentile and maximum.
func (r *Run) LagMillis() (p99, most float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lag.Quantile(99), r.lag.Max()
}

// Op returns the operation of that name, made when it is first asked for.
func (r *Run) Op(name string) *Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, op := range r.ops {
		if op.name == name {
			return op
		}
	}
	op := &Op{
		run: r, name: name, outcomes: map[string]int64{}, errors: map[string]int64{},
		schedule: result.NewHistogram(), service: result.NewHistogram(), current: result.NewHistogram(),
	}
	r.ops = append(r.ops, op)
	return op
}

// Op is the measurements of one kind of operation.
type Op struct {
	run  *Run // static
	name string

	mu                sync.Mutex
	offered, missed   int64
	done, failed      int64
	flying            int64
	span              time.Duration // over which load was offered
	first, last       time.Time     // due of the first, end of the last good one
	outcomes, errors  map[string]int64
	schedule, service *result.Histogram
	series            []result.Point
	current           *result.Histogram // of the interval that current is at
	at                int
}

// Span says over how long arrivals are offered.
func (o *Op) Span(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.span += d
}

// Begin notes an operation that was due, and is started now.
func (o *Op) Begin(due time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.offer(due, 1)
	o.flying++
}

// Miss notes arrivals that were due and will never be started.
func (o *Op) Miss(due time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.offer(due, 1)
	o.missed++
}

func (o *Op) offer(due time.Time, n int64) {
	o.offered += n
	if o.first.IsZero() || due.Before(o.first) {
		o.first = due
	}
	o.point(due).Offered += n
}

// End notes the end of an operation that Begin was called for.
func (o *Op) End(due, started, ended time.Time, out Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flying--
	o.done++
	code := o.code(out.Code)
	o.outcomes[code]++
	p := o.point(ended)
	p.Done++
	if out.Failed {
		o.failed++
		o.errors[code]++
		p.Failed++
		return
	}
	if ended.After(o.last) {
		o.last = ended
	}
	if out.Untimed {
		return
	}
	o.schedule.Record(ended.Sub(due))
	o.service.Record(ended.Sub(started))
	o.current.Record(ended.Sub(due))
}

func (o *Op) code(c string) string {
	if _, known := o.outcomes[c]; !known && len(o.outcomes) >= maxCodes {
		return "other"
	}
	return c
}

// point returns the interval of a time. Ends come in order of time, nearly: one
// that comes after its interval was closed counts for the interval's numbers,
// its latency for the next one's quantiles.
func (o *Op) point(t time.Time) *result.Point {
	i := int(max(t.Sub(o.run.start), 0) / o.run.interval)
	i = min(i, 4*maxPoints)
	for len(o.series) <= i {
		o.series = append(o.series, result.Point{})
	}
	if now := int(max(time.Since(o.run.start), 0) / o.run.interval); now > o.at {
		o.closeInterval()
		o.at = now
	}
	return &o.series[i]
}

func (o *Op) closeInterval() {
	if o.current.Count() > 0 && o.at < len(o.series) {
		p := &o.series[o.at]
		p.P50, p.P99, p.Max = o.current.Quantile(50), o.current.Quantile(99), o.current.Max()
		o.current.Reset()
	}
}

// Glance is one operation for the live view.
type Glance struct {
	Name            string
	Offered, Missed int64
	Done, Failed    int64
	Flying          int64
	P50, P99        float64 // ms, by schedule
}

// Glances returns all operations, in the order of their first use.
func (r *Run) Glances() (all []Glance, held int64) {
	r.mu.Lock()
	ops, held := slices.Clone(r.ops), r.held
	r.mu.Unlock()
	for _, o := range ops {
		o.mu.Lock()
		all = append(all, Glance{
			Name: o.name, Offered: o.offered, Missed: o.missed, Done: o.done, Failed: o.failed, Flying: o.flying,
			P50: o.schedule.Quantile(50), P99: o.schedule.Quantile(99),
		})
		o.mu.Unlock()
	}
	return all, held
}

// Results returns what was measured, by name, without what never happened. The
// run must be over.
func (r *Run) Results() []*result.Op {
	r.mu.Lock()
	ops := slices.Clone(r.ops)
	r.mu.Unlock()
	slices.SortFunc(ops, func(a, b *Op) int { return strings.Compare(a.name, b.name) })
	var out []*result.Op
	for _, o := range ops {
		if r := o.result(); r.Offered > 0 {
			out = append(out, r)
		}
	}
	return out
}

func (o *Op) result() *result.Op {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closeInterval()
	out := &result.Op{
		Name: o.name, Offered: o.offered, Missed: o.missed, Done: o.done, Failed: o.failed,
		Outcomes: o.outcomes, Errors: o.errors,
		Schedule: o.schedule.Summary(), Service: o.service.Summary(),
		Interval: o.run.interval.Seconds(), Series: o.series,
	}
	if o.span > 0 {
		out.OfferedRate = float64(o.offered) / o.span.Seconds()
		// Achieved over no less than the schedule: a burst that ends early was
		// not faster than what was asked for.
		took := max(o.last.Sub(o.first), o.span)
		out.AchievedRate = float64(o.done-o.failed) / took.Seconds()
	}
	return out
}
