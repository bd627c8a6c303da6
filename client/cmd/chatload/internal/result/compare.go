package result

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// Difference is one number of two results.
type Difference struct {
	Op, Metric    string
	Before, After float64
	// Worse is by how much After is worse, as a fraction of Before; negative
	// when it is better. Zero when Before is zero.
	Worse float64
}

// Compare lists the numbers of the operations that both results have.
func Compare(a, b *Result) []Difference {
	var out []Difference
	for _, op := range a.Ops {
		other := b.Op(op.Name)
		if other == nil {
			continue
		}
		add := func(metric string, before, after, sign float64) {
			d := Difference{Op: op.Name, Metric: metric, Before: before, After: after}
			if before != 0 {
				d.Worse = sign * (after - before) / before
			}
			out = append(out, d)
		}
		add("rate", op.AchievedRate, other.AchievedRate, -1)
		add("errors", float64(op.Failed), float64(other.Failed), 1)
		add("missed", float64(op.Missed), float64(other.Missed), 1)
		for _, l := range []struct {
			name string
			get  func(*Op) Latency
		}{{"", func(o *Op) Latency { return o.Schedule }}, {"service.", func(o *Op) Latency { return o.Service }}} {
			was, is := l.get(op), l.get(other)
			add(l.name+"p50", was.P50, is.P50, 1)
			add(l.name+"p99", was.P99, is.P99, 1)
			add(l.name+"p99.9", was.P999, is.P999, 1)
			add(l.name+"max", was.Max, is.Max, 1)
		}
	}
	return out
}

// OtherSettings lists the settings of the load that differ, as "rate 30, then 50".
func OtherSettings(a, b *Result) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(a.Settings)) {
		if is, ok := b.Settings[name]; ok && is != a.Settings[name] {
			out = append(out, fmt.Sprintf("%s %s, then %s", name, cmp.Or(a.Settings[name], "none"), cmp.Or(is, "none")))
		}
	}
	return out
}

// WriteDifferences writes them as a table for people. Latencies are in ms.
func WriteDifferences(w io.Writer, all []Difference) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "operation\tmetric\tbefore\tafter\tchange\t")
	for _, d := range all {
		change := ""
		if d.Before != 0 {
			change = fmt.Sprintf("%+.1f%%", 100*(d.After-d.Before)/d.Before)
		}
		fmt.Fprintf(t, "%s\t%s\t%.3f\t%.3f\t%s\t\n", d.Op, d.Metric, d.Before, d.After, change)
	}
	return t.Flush()
}
