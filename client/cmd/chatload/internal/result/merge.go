package result

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Merge joins the results of several generators that ran at the same time
// against the same target: counts and rates add up, histograms are added
// exactly. A point's quantiles cannot be added: the merged point has those of
// the worst generator.
func Merge(all ...*Result) (*Result, error) {
	if len(all) == 0 {
		return nil, fmt.Errorf("nothing to merge")
	}
	out := &Result{Version: Version, Scenario: all[0].Scenario, Started: all[0].Started, Settings: map[string]string{}}
	for i, r := range all {
		if r.Scenario != out.Scenario {
			return nil, fmt.Errorf("result %d is of scenario %s, the first of %s", i+1, r.Scenario, out.Scenario)
		}
		if r.Started.Before(out.Started) {
			out.Started = r.Started
		}
		out.Seconds = max(out.Seconds, r.Seconds)
		out.Interrupted = out.Interrupted || r.Interrupted
		out.Machines = append(out.Machines, r.Machines...)
		out.Servers = append(out.Servers, r.Servers...)
		for _, t := range r.Targets {
			if !slices.Contains(out.Targets, t) {
				out.Targets = append(out.Targets, t)
			}
		}
		for name, value := range r.Settings {
			if had, ok := out.Settings[name]; ok && !slices.Contains(strings.Split(had, " | "), value) {
				value = had + " | " + value
			} else if ok {
				value = had
			}
			out.Settings[name] = value
		}
		for _, w := range r.Warnings {
			out.Warn("%s", w)
		}
		for _, op := range r.Ops {
			if err := out.mergeOp(op); err != nil {
				return nil, fmt.Errorf("result %d: %w", i+1, err)
			}
		}
	}
	for _, r := range all {
		if r.end().Before(latest(all)) {
			out.Warn("these did not all run at the same time: rates are added up all the same")
		}
	}
	for _, op := range out.Ops {
		op.Schedule, op.Service = op.Schedule.Histogram.Summary(), op.Service.Histogram.Summary()
	}
	return out, nil
}

// end is when the run was over.
func (r *Result) end() time.Time {
	return r.Started.Add(time.Duration(r.Seconds * float64(time.Second)))
}

// latest is when the last of them began.
func latest(all []*Result) (at time.Time) {
	for _, r := range all {
		if r.Started.After(at) {
			at = r.Started
		}
	}
	return at
}

func (r *Result) mergeOp(op *Op) error {
	to := r.Op(op.Name)
	if to == nil {
		to = &Op{
			Name: op.Name, Interval: op.Interval, Outcomes: map[string]int64{}, Errors: map[string]int64{},
			Schedule: Latency{Histogram: NewHistogram()}, Service: Latency{Histogram: NewHistogram()},
		}
		r.Ops = append(r.Ops, to)
	}
	if math.Abs(to.Interval-op.Interval) > 1e-9 {
		return fmt.Errorf("%s: intervals of %g s and %g s", op.Name, to.Interval, op.Interval)
	}
	to.Offered += op.Offered
	to.Missed += op.Missed
	to.Done += op.Done
	to.Failed += op.Failed
	to.OfferedRate += op.OfferedRate
	to.AchievedRate += op.AchievedRate
	for code, n := range op.Outcomes {
		to.Outcomes[code] += n
	}
	for code, n := range op.Errors {
		to.Errors[code] += n
	}
	to.Schedule.Histogram.Add(op.Schedule.Histogram)
	to.Service.Histogram.Add(op.Service.Histogram)
	for i, p := range op.Series {
		if i == len(to.Series) {
			to.Series = append(to.Series, Point{})
		}
		s := &to.Series[i]
		s.Offered += p.Offered
		s.Done += p.Done
		s.Failed += p.Failed
		s.P50, s.P99, s.Max = max(s.P50, p.P50), max(s.P99, p.P99), max(s.Max, p.Max)
	}
	return nil
}
