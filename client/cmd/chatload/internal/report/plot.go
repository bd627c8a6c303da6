package report

import (
	"fmt"
	"math"
	"strings"
)

// The plots' sizes, in SVG units.
const (
	plotWidth, plotHeight = 640.0, 220.0
	marginLeft            = 56.0
	marginRight           = 28.0
	marginTop             = 10.0
	marginBottom          = 30.0
)

// curve is a line of a plot. Where y is NaN it is interrupted.
type curve struct {
	Name, Class string
	xs, ys      []float64
}

// steps is a curve of intervals: each value stands from its x for a width.
func steps(name, class string, width float64, values []float64) curve {
	c := curve{Name: name, Class: class}
	for i, v := range values {
		c.xs = append(c.xs, float64(i)*width, float64(i+1)*width)
		c.ys = append(c.ys, v, v)
	}
	return c
}

// axis maps numbers to positions.
type axis struct {
	low, high float64
	ticks     []float64
	text      func(float64) string
}

func (a axis) part(v float64) float64 {
	if a.high <= a.low {
		return 0
	}
	return min(max((v-a.low)/(a.high-a.low), 0), 1)
}

// plot is what the template draws.
type plot struct {
	Title         string
	Width, Height float64
	Left, Right   float64
	Top, Bottom   float64
	XTicks        []tick
	YTicks        []tick
	Lines         []line
	XLabel        string
}

type tick struct {
	At   float64
	Text string
}

// line has the points of each piece, as SVG wants them.
type line struct {
	Name, Class string
	Pieces      []string
}

func draw(title, xLabel string, x, y axis, curves []curve) plot {
	p := plot{
		Title: title, XLabel: xLabel, Width: plotWidth, Height: plotHeight,
		Left: marginLeft, Right: plotWidth - marginRight, Top: marginTop, Bottom: plotHeight - marginBottom,
	}
	px := func(v float64) float64 { return round(p.Left + x.part(v)*(p.Right-p.Left)) }
	py := func(v float64) float64 { return round(p.Bottom - y.part(v)*(p.Bottom-p.Top)) }
	for _, t := range x.ticks {
		p.XTicks = append(p.XTicks, tick{px(t), x.text(t)})
	}
	for _, t := range y.ticks {
		p.YTicks = append(p.YTicks, tick{py(t), y.text(t)})
	}
	for _, c := range curves {
		l := line{Name: c.Name, Class: c.Class}
		var piece []string
		for i := range c.xs {
			if math.IsNaN(c.ys[i]) {
				l.add(piece)
				piece = nil
				continue
			}
			piece = append(piece, fmt.Sprintf("%g,%g", px(c.xs[i]), py(c.ys[i])))
		}
		l.add(piece)
		p.Lines = append(p.Lines, l)
	}
	return p
}

func (l *line) add(points []string) {
	if len(points) > 0 {
		l.Pieces = append(l.Pieces, strings.Join(points, " "))
	}
}

func round(v float64) float64 { return math.Round(v*10) / 10 }

// linear is an axis from 0 to at least high, with round ticks.
func linear(high float64) axis {
	if !(high > 0) {
		high = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(high)))
	for _, f := range []float64{0.2, 0.5, 1, 2} {
		if high/(step*f) <= 6 {
			step *= f
			break
		}
	}
	a := axis{high: step * math.Ceil(high/step-1e-9), text: short}
	for v := 0.0; v <= a.high+step/2; v += step {
		a.ticks = append(a.ticks, v)
	}
	return a
}

// logarithmic is an axis of decades around the positive values; positions are
// the values' logarithms.
func logarithmic(values []float64) axis {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if v > 0 {
			low, high = min(low, math.Log10(v)), max(high, math.Log10(v))
		}
	}
	if high < low {
		low, high = 0, 1
	}
	a := axis{low: math.Floor(low), high: math.Ceil(high), text: func(v float64) string { return short(math.Pow(10, v)) }}
	if a.high == a.low {
		a.high++
	}
	for v := a.low; v <= a.high; v++ {
		a.ticks = append(a.ticks, v)
	}
	return a
}

// log10 is NaN for what has no place on a logarithmic axis.
func log10(v float64) float64 {
	if v > 0 {
		return math.Log10(v)
	}
	return math.NaN()
}

// short is a number for an axis.
func short(v float64) string {
	if v >= 1e6 {
		return fmt.Sprintf("%.3gM", v/1e6)
	}
	if v >= 1e4 {
		return fmt.Sprintf("%.3gk", v/1e3)
	}
	return fmt.Sprintf("%.4g", v)
}
