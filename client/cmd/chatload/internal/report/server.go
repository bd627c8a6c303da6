package report

import (
	"maps"
	"math"
	"slices"
	"strconv"

	"chatvault/client/cmd/chatload/internal/result"
)

// serverView is one process of the other side.
type serverView struct {
	Name    string
	Plots   []plot
	Counted []counted
}

type counted struct {
	Name  string
	Value float64
}

func newServerView(s result.Server) serverView {
	v := serverView{Name: s.Name}
	for _, name := range slices.Sorted(maps.Keys(s.Events)) {
		v.Counted = append(v.Counted, counted{name, s.Events[name]})
	}
	if len(s.Series) < 2 {
		return v
	}
	for _, p := range []struct {
		title, class string
		of           func(result.ServerPoint) float64
	}{
		{"Memory (MiB)", "good", func(p result.ServerPoint) float64 { return float64(p.RSS) / (1 << 20) }},
		{"CPUs used", "failed", func(p result.ServerPoint) float64 { return p.CPU }},
		{"Connections", "offered", func(p result.ServerPoint) float64 { return float64(p.Connections) }},
		{"Goroutines", "offered", func(p result.ServerPoint) float64 { return float64(p.Goroutines) }},
	} {
		if plot, known := serverPlot(p.title, p.class, s.Series, p.of); known {
			v.Plots = append(v.Plots, plot)
		}
	}
	return v
}

// serverPlot draws a number by time. What is negative is not known.
func serverPlot(title, class string, series []result.ServerPoint, of func(result.ServerPoint) float64) (plot, bool) {
	c := curve{Name: "", Class: class}
	most, known := 0.0, false
	for _, p := range series {
		v := of(p)
		if v < 0 {
			v = math.NaN()
		} else {
			most, known = max(most, v), true
		}
		c.xs, c.ys = append(c.xs, p.Seconds), append(c.ys, v)
	}
	return draw(title, "seconds", linear(series[len(series)-1].Seconds), linear(most), []curve{c}), known
}

// number is for people; what is negative is not known.
func number(n int64) string {
	if n < 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}
