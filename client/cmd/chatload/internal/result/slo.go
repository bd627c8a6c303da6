package result

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ErrSLO is wrapped by every error of ParseSLO.
var ErrSLO = errors.New(`want OPERATION.[service.]METRIC<VALUE, as "recover.p99<800ms", "echo.service.p99.9<=5ms", "register.errors<1%" or "connect.rate>=90"`)

// SLO is an objective: what a number of an operation must be.
//
//	metric                               value
//	p50, p99.9, … (0 < p < 100), mean, max   a duration; by schedule, or with "service." by service
//	errors, missed                       a number, or a percentage of what was offered
//	rate                                 a number: achieved a second
//	count                                a number: good ends
type SLO struct {
	op, metric, compare, value string
	service                    bool
	limit                      float64 // in ms, a number, or a fraction
	unit                       unit
}

type unit uint8

const (
	number unit = iota
	milliseconds
	fraction
)

var comparators = []string{"<=", ">=", "<", ">"} // the longer first

// ParseSLO reads an objective in its one spelling, without spaces. Every error
// wraps ErrSLO.
func ParseSLO(text string) (SLO, error) {
	var s SLO
	at := strings.IndexAny(text, "<>")
	if at < 0 {
		return s, fmt.Errorf("%w: %q has no comparison", ErrSLO, text)
	}
	for _, c := range comparators {
		if strings.HasPrefix(text[at:], c) {
			s.compare = c
			break
		}
	}
	s.value = text[at+len(s.compare):]
	var found bool
	s.op, s.metric, found = strings.Cut(text[:at], ".")
	if !found || !validName(s.op) {
		return s, fmt.Errorf("%w: %q names no operation", ErrSLO, text)
	}
	s.metric, s.service = strings.CutPrefix(s.metric, "service.")
	if err := s.parseValue(); err != nil {
		return s, fmt.Errorf("%w: %q: %w", ErrSLO, text, err)
	}
	return s, nil
}

func (s *SLO) parseValue() (err error) {
	_, isQuantile := s.quantile()
	switch {
	case isQuantile || s.metric == "mean" || s.metric == "max":
		var d time.Duration
		d, err = time.ParseDuration(s.value)
		s.limit, s.unit = float64(d)/float64(time.Millisecond), milliseconds
	case s.service:
		return errors.New("only latencies are by service")
	case s.metric == "errors" || s.metric == "missed":
		if percent, ok := strings.CutSuffix(s.value, "%"); ok {
			s.limit, err = strconv.ParseFloat(percent, 64)
			s.limit, s.unit = s.limit/100, fraction
			break
		}
		s.limit, err = strconv.ParseFloat(s.value, 64)
	case s.metric == "rate" || s.metric == "count":
		s.limit, err = strconv.ParseFloat(s.value, 64)
	default:
		return fmt.Errorf("no metric %q", s.metric)
	}
	if err == nil && (math.IsNaN(s.limit) || math.IsInf(s.limit, 0) || s.limit < 0) {
		err = errors.New("the value must be a number, not negative")
	}
	return err
}

// quantile is the percentile that the metric names.
func (s *SLO) quantile() (float64, bool) {
	digits, ok := strings.CutPrefix(s.metric, "p")
	if !ok || strings.Trim(digits, "0123456789.") != "" {
		return 0, false
	}
	p, err := strconv.ParseFloat(digits, 64)
	return p, err == nil && p > 0 && p < 100
}

// Op is the name of the operation that it is about.
func (s SLO) Op() string { return s.op }

// String is the text that ParseSLO read.
func (s SLO) String() string {
	basis := ""
	if s.service {
		basis = "service."
	}
	return s.op + "." + basis + s.metric + s.compare + s.value
}

// Verdict is an objective held against a result.
type Verdict struct {
	SLO  string `json:"slo"`
	Was  string `json:"was"`
	Kept bool   `json:"kept"`
}

// Judge holds the objective against a result. What was not measured is not
// kept: an objective on an operation that never ended well must not pass.
func (s SLO) Judge(r *Result) Verdict {
	v := Verdict{SLO: s.String(), Was: "not measured"}
	op := r.Op(s.op)
	if op == nil {
		return v
	}
	was, measured := s.measure(op)
	if !measured {
		return v
	}
	switch s.compare {
	case "<":
		v.Kept = was < s.limit
	case "<=":
		v.Kept = was <= s.limit
	case ">":
		v.Kept = was > s.limit
	case ">=":
		v.Kept = was >= s.limit
	}
	switch s.unit {
	case milliseconds:
		v.Was = millis(was)
	case fraction:
		v.Was = fmt.Sprintf("%.3g%%", was*100)
	default:
		v.Was = fmt.Sprintf("%.6g", was)
	}
	return v
}

// millis has three digits, or all before the point.
func millis(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0fms", v)
	}
	return fmt.Sprintf("%.3gms", v)
}

func (s SLO) measure(op *Op) (was float64, measured bool) {
	h := op.Schedule.Histogram
	if s.service {
		h = op.Service.Histogram
	}
	if p, ok := s.quantile(); ok {
		return h.Quantile(p), h.Count() > 0
	}
	part := func(n int64) (float64, bool) {
		if s.unit != fraction {
			return float64(n), true
		}
		return float64(n) / float64(max(op.Offered, 1)), op.Offered > 0
	}
	switch s.metric {
	case "mean":
		return h.Mean(), h.Count() > 0
	case "max":
		return h.Max(), h.Count() > 0
	case "errors":
		return part(op.Failed)
	case "missed":
		return part(op.Missed)
	case "rate":
		return op.AchievedRate, op.Done > 0
	}
	return float64(op.Good()), true // count
}
