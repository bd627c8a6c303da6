package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"chatvault/vaultd/internal/recordstore"
)

// plan is how much is measured.
type plan struct {
	quick       bool
	repetitions int           // in each round
	rounds      int           // at most; more than one while a row's spread crosses its goal
	length      time.Duration // of one side of a repetition
	accounts    int           // charged on each engine
	followed    int           // charges of a repetition through a follower
	records     int           // in the directory that is measured
	noRepeats   time.Time     // from then on nothing is repeated: make bench-store has 20 minutes
}

func fullPlan() plan {
	return plan{repetitions: 5, rounds: 3, length: 3 * time.Second, accounts: 4096, followed: 20,
		records: 1_000_000, noRepeats: time.Now().Add(11 * time.Minute)}
}

func quickPlan() plan {
	return plan{quick: true, repetitions: 2, rounds: 1, length: 300 * time.Millisecond, accounts: 512, followed: 3,
		records: 20_000, noRepeats: time.Now()}
}

// row is a goal and what was measured for it.
type row struct {
	Name        string       `json:"name"`
	Unit        string       `json:"unit"`     // of measured and goal
	Measured    float64      `json:"measured"` // of the medians of all repetitions
	Goal        float64      `json:"goal"`
	AtLeast     bool         `json:"at_least"` // the goal is a least value, else a greatest
	Met         bool         `json:"met"`
	Detail      string       `json:"detail"`
	Server      string       `json:"server_version,omitempty"`
	Error       string       `json:"error,omitempty"`
	Repetitions []repetition `json:"repetitions"`
}

// repetition is one measurement, or two of which the one follows the other.
type repetition struct {
	Ours  float64 `json:"ours"`
	Floor float64 `json:"floor,omitempty"`
	Value float64 `json:"value"` // in the row's unit
}

// repeat measures a row, and again while its spread crosses its goal. The value of
// a row is made from the medians of both sides.
func (r *row) repeat(ctx context.Context, p plan, once func(ctx context.Context, i int) (repetition, error)) {
	for range p.rounds {
		for range p.repetitions {
			m, err := once(ctx, len(r.Repetitions))
			if err != nil {
				r.Error, r.Met = err.Error(), false
				return
			}
			r.Repetitions = append(r.Repetitions, m)
			fmt.Fprintf(os.Stderr, "  %s: %.3g, %.3g: %.3f\n", r.Name, m.Ours, m.Floor, m.Value)
		}
		r.judge()
		if !r.crossed() || time.Now().After(p.noRepeats) {
			return
		}
	}
}

// judge makes the row's value from its repetitions, and holds it against the goal.
func (r *row) judge() {
	ours, floor := r.medianOf(func(m repetition) float64 { return m.Ours }), r.medianOf(func(m repetition) float64 { return m.Floor })
	r.Measured = r.medianOf(func(m repetition) float64 { return m.Value })
	if floor > 0 {
		r.Measured = ours / floor
		r.Detail = fmt.Sprintf("ours %.0f/s, floor %.0f/s", ours, floor)
	}
	r.Met = r.reaches(r.Measured)
}

func (r *row) reaches(v float64) bool {
	if r.AtLeast {
		return v >= r.Goal
	}
	return v <= r.Goal
}

// crossed says whether some repetitions reach the goal and others do not.
func (r *row) crossed() bool {
	hit := func(m repetition) bool { return r.reaches(m.Value) }
	miss := func(m repetition) bool { return !hit(m) }
	return slices.ContainsFunc(r.Repetitions, hit) && slices.ContainsFunc(r.Repetitions, miss)
}

func (r *row) medianOf(f func(repetition) float64) float64 {
	var all []float64
	for _, m := range r.Repetitions {
		all = append(all, f(m))
	}
	return median(all)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n == 0 {
		return 0
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}

// String is the row's line: MET or MISSED, name, measured, goal.
func (r *row) String() string {
	verdict, sign := "MISSED", "<="
	if r.Met {
		verdict = "MET"
	}
	if r.AtLeast {
		sign = ">="
	}
	goal := fmt.Sprintf("goal %s %.4g %s", sign, r.Goal, r.Unit)
	if r.Error != "" {
		return fmt.Sprintf("%-6s  %-44s  not measured: %s  %s", verdict, r.Name, strings.ReplaceAll(r.Error, "\n", "; "), goal)
	}
	var values []float64
	for _, m := range r.Repetitions {
		values = append(values, m.Value)
	}
	spread := fmt.Sprintf("%d repetitions, %.3f to %.3f", len(values), slices.Min(values), slices.Max(values))
	if r.Detail != "" {
		spread = r.Detail + ", " + spread
	}
	return fmt.Sprintf("%-6s  %-44s  %.3f %s (%s)  %s", verdict, r.Name, r.Measured, r.Unit, spread, goal)
}

// sides are the two that are compared on one engine: our store layer, and the
// engine's client API alone.
type sides struct {
	ours, floor charges
	server      string // its version; empty for an embedded engine
	closers     []func() error
}

// charges is something that has accounts to be charged.
type charges interface {
	register(ctx context.Context, account int) error
	charge(ctx context.Context, account int) error
}

func (s *sides) onClose(f func() error) { s.closers = append(s.closers, f) }

func (s *sides) close() (err error) {
	for _, f := range slices.Backward(s.closers) {
		err = errors.Join(err, f())
	}
	return err
}

// fill registers the accounts on both sides.
func (s *sides) fill(ctx context.Context, store recordstore.Store, floor charges, accounts int) error {
	ours, err := newCharger(store)
	if err != nil {
		return err
	}
	s.ours, s.floor = ours, floor
	for _, side := range []charges{s.ours, s.floor} {
		if err := each(ctx, accounts, side.register); err != nil {
			return fmt.Errorf("registering accounts: %w", err)
		}
	}
	return nil
}

// engine starts something to store records in, and both sides over it. sides may be
// set beside an error: they are to be closed.
type engine struct {
	name  string
	start func(ctx context.Context, slow bool, accounts int) (*sides, error)
}

// chargeRow measures charges per second against the engine's floor.
func chargeRow(ctx context.Context, p plan, e engine, slow bool) *row {
	r := &row{Name: e.name + ", charges/s at 64 clients", Unit: "x floor", Goal: 0.7, AtLeast: true}
	if slow {
		r.Name += ", fsync +1 ms"
	}
	s, err := e.start(ctx, slow, p.accounts)
	if s != nil {
		defer s.close()
	}
	if err != nil {
		r.Error = err.Error()
		return r
	}
	r.Server = s.server
	for _, side := range []charges{s.ours, s.floor} { // to warm up
		if _, _, err := chargeFor(ctx, p.length/3, p.accounts, side.charge); err != nil {
			r.Error = err.Error()
			return r
		}
	}
	r.repeat(ctx, p, func(ctx context.Context, i int) (repetition, error) {
		return s.byTurns(ctx, p, i%2 == 1)
	})
	return r
}

// turns is how many pieces of time each side gets in a repetition.
const turns = 4

// byTurns measures both sides in short pieces of time: ours, floor, floor, ours, and so on,
// or the other way round. So whatever else the machine does meets both.
func (s *sides) byTurns(ctx context.Context, p plan, floorFirst bool) (m repetition, err error) {
	type sum struct {
		charges int64
		seconds float64
	}
	var ours, floor sum
	for n := range 2 * turns {
		side, of := s.ours, &ours
		if (n+1)/2%2 == 1 != floorFirst {
			side, of = s.floor, &floor
		}
		n, took, err := chargeFor(ctx, p.length/turns, p.accounts, side.charge)
		if err != nil {
			return m, err
		}
		of.charges += n
		of.seconds += took.Seconds()
	}
	m.Ours, m.Floor = float64(ours.charges)/ours.seconds, float64(floor.charges)/floor.seconds
	m.Value = m.Ours / m.Floor
	return m, nil
}
