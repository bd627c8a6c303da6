// Package report makes one self-contained HTML page of a result: no script, and
// nothing that a browser would fetch.
package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"chatvault/client/cmd/chatload/internal/result"
)

//go:embed report.html
var page string

var tmpl = template.Must(template.New("report").Funcs(template.FuncMap{
	"ms": ms, "bytes": size, "number": number, "kib": func(n int64) float64 { return float64(n) / 1024 }, "rate": func(v float64) string { return fmt.Sprintf("%.4g/s", v) },
	"when": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
}).Parse(page))

// Write writes the page.
func Write(w io.Writer, r *result.Result) error {
	v := view{Result: r, Keys: slices.Sorted(maps.Keys(r.Settings))}
	for _, op := range r.Ops {
		v.Sections = append(v.Sections, newSection(op))
	}
	for _, s := range r.Servers {
		if len(s.Series) > 1 || len(s.Events) > 0 {
			v.ServerViews = append(v.ServerViews, newServerView(s))
		}
	}
	return tmpl.Execute(w, v)
}

// view is what the template sees.
type view struct {
	*result.Result
	Keys        []string
	Sections    []section
	ServerViews []serverView
}

// section is one operation.
type section struct {
	*result.Op
	Codes []code
	Plots []plot
}

type code struct {
	Name  string
	Count int64
	Bad   bool
}

func newSection(op *result.Op) section {
	s := section{Op: op}
	for _, name := range slices.Sorted(maps.Keys(op.Outcomes)) {
		s.Codes = append(s.Codes, code{name, op.Outcomes[name], op.Errors[name] > 0})
	}
	s.Plots = append(s.Plots, ratePlot(op))
	if op.Schedule.Count > 0 {
		s.Plots = append(s.Plots, timePlot(op), percentilePlot(op))
	}
	return s
}

// ratePlot is what was offered and what came of it, by time.
func ratePlot(op *result.Op) plot {
	n := len(op.Series)
	offered, done, failed := make([]float64, n), make([]float64, n), make([]float64, n)
	most := 0.0
	for i, p := range op.Series {
		offered[i], done[i], failed[i] = float64(p.Offered)/op.Interval, float64(p.Done-p.Failed)/op.Interval, float64(p.Failed)/op.Interval
		most = max(most, offered[i], done[i], failed[i])
	}
	return draw("Rate (a second)", "seconds", linear(float64(n)*op.Interval), linear(most), []curve{
		steps("offered", "offered", op.Interval, offered), steps("good", "good", op.Interval, done), steps("failed", "failed", op.Interval, failed),
	})
}

// timePlot is latency by schedule, by time.
func timePlot(op *result.Op) plot {
	n := len(op.Series)
	p50, p99, most := make([]float64, n), make([]float64, n), make([]float64, n)
	var all []float64
	for i, p := range op.Series {
		p50[i], p99[i], most[i] = log10(p.P50), log10(p.P99), log10(p.Max)
		all = append(all, p.P50, p.Max)
	}
	return draw("Latency by schedule (ms)", "seconds", linear(float64(n)*op.Interval), logarithmic(all), []curve{
		steps("p50", "good", op.Interval, p50), steps("p99", "offered", op.Interval, p99), steps("max", "failed", op.Interval, most),
	})
}

// nines are the percentiles of the axis, which is logarithmic in what is left
// to 100.
var nines = []float64{0, 50, 90, 99, 99.9, 99.99, 99.999}

func nine(p float64) float64 { return -math.Log10(1 - min(p, 99.999)/100) }

// percentilePlot is latency by percentile, by schedule and by service.
func percentilePlot(op *result.Op) plot {
	x := axis{high: nine(99.999), text: func(v float64) string {
		return fmt.Sprintf("%.7g%%", 100*(1-math.Pow(10, -v)))
	}}
	for _, p := range nines {
		x.ticks = append(x.ticks, nine(p))
	}
	var curves []curve
	var all []float64
	for _, c := range []struct {
		name, class string
		h           *result.Histogram
	}{{"by schedule", "offered", op.Schedule.Histogram}, {"by service", "good", op.Service.Histogram}} {
		k := curve{Name: c.name, Class: c.class}
		for at := 0.0; at <= x.high; at += x.high / 200 {
			v := c.h.Quantile(100 * (1 - math.Pow(10, -at)))
			k.xs, k.ys = append(k.xs, at), append(k.ys, log10(v))
			all = append(all, v)
		}
		curves = append(curves, k)
	}
	return draw("Latency by percentile (ms)", "percentile", x, logarithmic(all), curves)
}

func ms(v float64) string {
	switch {
	case v >= 10_000:
		return fmt.Sprintf("%.1f s", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f ms", v)
	case v >= 1:
		return fmt.Sprintf("%.1f ms", v)
	}
	return fmt.Sprintf("%.0f µs", v*1000)
}

func size(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
