// Package goals is what the benchmarks that must reach something have in common:
// a row is a goal and what was measured for it, a report is all rows with the
// machine and the commit.
package goals

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Plan is how often is measured.
type Plan struct {
	Repetitions int       // in each round
	Rounds      int       // at most; more than one while a row's spread crosses its goal
	NoRepeats   time.Time // from then on there is no other round
}

// Row is a goal and what was measured for it.
type Row struct {
	Name        string       `json:"name"`
	Unit        string       `json:"unit"`     // of measured and goal
	Measured    float64      `json:"measured"` // of the medians of all repetitions, or of the worst one
	Goal        float64      `json:"goal"`
	AtLeast     bool         `json:"at_least,omitempty"` // the goal is a least value, else a greatest
	Each        bool         `json:"each,omitempty"`     // every repetition must reach the goal: the worst one is what was measured
	Sides       string       `json:"sides,omitempty"`    // a format for the medians of both sides, with two verbs
	Met         bool         `json:"met"`
	Note        string       `json:"note,omitempty"`           // what stands beside the spread
	Server      string       `json:"server_version,omitempty"` // of what both sides talk to
	Error       string       `json:"error,omitempty"`
	Repetitions []Repetition `json:"repetitions"`
}

// Repetition is one measurement, or two, by turns, that are compared.
type Repetition struct {
	Ours  float64            `json:"ours,omitempty"`
	Floor float64            `json:"floor,omitempty"`
	Value float64            `json:"value"`          // in the row's unit
	More  map[string]float64 `json:"more,omitempty"` // what else was seen
}

// Ratio is a repetition of two sides.
func Ratio(ours, floor float64) Repetition {
	return Repetition{Ours: ours, Floor: floor, Value: ours / floor}
}

// Measure measures rows together, and all of them again while the spread of one
// crosses its goal. once returns a repetition for each row.
func Measure(ctx context.Context, p Plan, progress io.Writer, rows []*Row, once func(ctx context.Context, i int) ([]Repetition, error)) {
	for i, round := 0, 0; round < p.Rounds; round++ {
		for range p.Repetitions {
			all, err := once(ctx, i)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				Fail(rows, err)
				return
			}
			for n, r := range rows {
				r.Repetitions = append(r.Repetitions, all[n])
				fmt.Fprintf(progress, "  %s: %.4g, %.4g: %.4g\n", r.Name, all[n].Ours, all[n].Floor, all[n].Value)
			}
			i++
		}
		crossed := false
		for _, r := range rows {
			r.judge()
			crossed = crossed || r.crossed()
		}
		if !crossed || time.Now().After(p.NoRepeats) {
			return
		}
	}
}

// Fail says that rows could not be measured.
func Fail(rows []*Row, err error) {
	for _, r := range rows {
		r.Error, r.Met = err.Error(), false
	}
}

// judge makes the row's value from its repetitions, and holds it against the goal:
// the ratio of the medians of both sides or, where there is one side, the median.
// What must never happen is not outvoted: there it is the worst repetition.
func (r *Row) judge() {
	if r.Each {
		r.Measured = r.worst()
		r.Met = r.reaches(r.Measured)
		return
	}
	ours, floor := r.Median(func(m Repetition) float64 { return m.Ours }), r.Median(func(m Repetition) float64 { return m.Floor })
	r.Measured = r.Median(func(m Repetition) float64 { return m.Value })
	if floor > 0 {
		r.Measured = ours / floor
	}
	r.Met = r.reaches(r.Measured)
}

func (r *Row) worst() float64 {
	var values []float64
	for _, m := range r.Repetitions {
		values = append(values, m.Value)
	}
	if r.AtLeast {
		return slices.Min(values)
	}
	return slices.Max(values)
}

func (r *Row) reaches(v float64) bool {
	if r.AtLeast {
		return v >= r.Goal
	}
	return v <= r.Goal
}

// crossed says whether some repetitions reach the goal and others do not, so that
// more of them may tell. Where each one must, none can.
func (r *Row) crossed() bool {
	if r.Each {
		return false
	}
	hit := func(m Repetition) bool { return r.reaches(m.Value) }
	miss := func(m Repetition) bool { return !hit(m) }
	return slices.ContainsFunc(r.Repetitions, hit) && slices.ContainsFunc(r.Repetitions, miss)
}

// Median is the median of something of all repetitions.
func (r *Row) Median(f func(Repetition) float64) float64 {
	var all []float64
	for _, m := range r.Repetitions {
		all = append(all, f(m))
	}
	return Median(all)
}

// Median of values; 0 of none.
func Median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n == 0 {
		return 0
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}

// String is the row's line: MET or MISSED, name, measured, goal. The words stand
// nowhere else in the output.
func (r *Row) String() string {
	verdict, sign := "MISSED", "<="
	if r.Met {
		verdict = "MET"
	}
	if r.AtLeast {
		sign = ">="
	}
	goal := strings.TrimSpace(fmt.Sprintf("goal %s %.4g %s", sign, r.Goal, r.Unit))
	if r.Error != "" {
		return fmt.Sprintf("%-6s  %-48s  not measured: %s  %s", verdict, r.Name, strings.ReplaceAll(r.Error, "\n", "; "), goal)
	}
	return fmt.Sprintf("%-6s  %-48s  %s (%s)  %s", verdict, r.Name, strings.TrimSpace(fmt.Sprintf("%.4g %s", r.Measured, r.Unit)), r.seen(), goal)
}

// seen is what stands behind the value.
func (r *Row) seen() string {
	var values []float64
	for _, m := range r.Repetitions {
		values = append(values, m.Value)
	}
	seen := fmt.Sprintf("%d repetitions, %.4g to %.4g", len(values), slices.Min(values), slices.Max(values))
	if r.Sides != "" {
		ours, floor := r.Median(func(m Repetition) float64 { return m.Ours }), r.Median(func(m Repetition) float64 { return m.Floor })
		seen = fmt.Sprintf(r.Sides, ours, floor) + ", " + seen
	}
	if r.Note != "" {
		seen = r.Note + ", " + seen
	}
	return seen
}
