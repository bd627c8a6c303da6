// Package result is what a run of chatload leaves behind: numbers that can be
// written, read again, merged, compared and held against objectives.
package result

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Version is the version of the JSON form.
const Version = 1

// maxFile bounds what Read takes, in bytes.
const maxFile = 64 << 20

// ErrFormat says that the bytes are not a result of this version.
var ErrFormat = errors.New("not a chatload result of version 1")

// Result is one run, or several merged.
type Result struct {
	Version  int       `json:"version"`
	Scenario string    `json:"scenario"`
	Targets  []string  `json:"targets"`
	Started  time.Time `json:"started"`
	// Seconds from the first arrival to the end of the last operation.
	Seconds     float64           `json:"seconds"`
	Interrupted bool              `json:"interrupted,omitempty"`
	Settings    map[string]string `json:"settings,omitempty"`
	Machines    []Machine         `json:"machines"`
	Ops         []*Op             `json:"ops"`
	Servers     []Server          `json:"servers,omitempty"`
	Warnings    []string          `json:"warnings,omitempty"`
	Verdicts    []Verdict         `json:"slo,omitempty"`
}

// Machine is where a generator ran.
type Machine struct {
	Host     string `json:"host,omitempty"`
	CPU      string `json:"cpu,omitempty"`
	CPUs     int    `json:"cpus"`
	Platform string `json:"platform"`
	Version  string `json:"version"` // of chatload, with its commit
	// LagP99 and LagMax are how late the generator itself was in starting what
	// was due and had room, in ms.
	LagP99 float64 `json:"lag_p99_ms"`
	LagMax float64 `json:"lag_max_ms"`
	// Waits is how many arrivals found no room for another operation.
	Waits int64 `json:"waits,omitempty"`
	// CPUsUsed is how many CPUs the generator kept busy, on average; Busy how
	// much of the machine's CPU time anybody used, 0 to 1; 0: not known.
	CPUsUsed float64 `json:"cpus_used"`
	Busy     float64 `json:"machine_busy"`
}

// Server is a process of the other side, before and after. Negative numbers are
// not known.
type Server struct {
	Name      string  `json:"name"`
	RSSBefore int64   `json:"rss_before"` // bytes
	RSSAfter  int64   `json:"rss_after"`
	RSSMax    int64   `json:"rss_max"`
	CPU       float64 `json:"cpu_seconds"` // used in between

	DescriptorsBefore int64 `json:"descriptors_before"`
	DescriptorsAfter  int64 `json:"descriptors_after"`
	GoroutinesBefore  int64 `json:"goroutines_before"`
	GoroutinesAfter   int64 `json:"goroutines_after"`
	ConnectionsBefore int64 `json:"connections_before"`
	ConnectionsAfter  int64 `json:"connections_after"`
	ConnectionsMax    int64 `json:"connections_max"`
	// PerConnection is by how many bytes the memory had grown for each further
	// connection when most of them stood; 0 for fewer than 50.
	PerConnection int64 `json:"bytes_per_connection"`
	// Restarted: another process answered in the end. CPU and Events are its.
	Restarted bool `json:"restarted,omitempty"`
	// Events are the server's own counters that grew, by how much.
	Events map[string]float64 `json:"events,omitempty"`
	Series []ServerPoint      `json:"series,omitempty"`
}

// ServerPoint is a moment of a Server.
type ServerPoint struct {
	Seconds     float64 `json:"seconds"` // since the first sample
	RSS         int64   `json:"rss"`
	CPU         float64 `json:"cpus"` // used since the point before: 1 is one CPU
	Connections int64   `json:"connections"`
	Goroutines  int64   `json:"goroutines"`
}

// Op is one kind of operation.
type Op struct {
	Name string `json:"name"`
	// Offered arrivals were due; Missed of them were never started, because
	// those before did not end. Done have ended, Failed of them badly.
	Offered int64 `json:"offered"`
	Missed  int64 `json:"missed"`
	Done    int64 `json:"done"`
	Failed  int64 `json:"failed"`
	// Rates a second: of arrivals over their schedule, and of good ends until
	// the last one. Zero for what has no schedule.
	OfferedRate  float64 `json:"offered_rate"`
	AchievedRate float64 `json:"achieved_rate"`
	// Outcomes counts every end by its code, Errors the bad ones.
	Outcomes map[string]int64 `json:"outcomes"`
	Errors   map[string]int64 `json:"errors,omitempty"`
	// Latencies of the good ends: by schedule from when each was due, by
	// service from when it was started.
	Schedule Latency `json:"schedule"`
	Service  Latency `json:"service"`
	// Series has one point per Interval seconds.
	Interval float64 `json:"interval_seconds"`
	Series   []Point `json:"series"`
}

// Good is how many ended well.
func (o *Op) Good() int64 { return o.Done - o.Failed }

// Point is one interval of an Op, its latencies by schedule, in ms.
type Point struct {
	Offered int64   `json:"offered"`
	Done    int64   `json:"done"`
	Failed  int64   `json:"failed"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	Max     float64 `json:"max_ms"`
}

// Latency summarises a histogram, in ms, and holds it whole.
type Latency struct {
	Count     int64      `json:"count"`
	Mean      float64    `json:"mean_ms"`
	P50       float64    `json:"p50_ms"`
	P90       float64    `json:"p90_ms"`
	P99       float64    `json:"p99_ms"`
	P999      float64    `json:"p99_9_ms"`
	P9999     float64    `json:"p99_99_ms"`
	Max       float64    `json:"max_ms"`
	Histogram *Histogram `json:"histogram"` // HdrHistogram V2, base64, µs
}

// Op returns the operation of that name, or nil.
func (r *Result) Op(name string) *Op {
	for _, op := range r.Ops {
		if op.Name == name {
			return op
		}
	}
	return nil
}

// Warn adds a warning once.
func (r *Result) Warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); !slices.Contains(r.Warnings, w) {
		r.Warnings = append(r.Warnings, w)
	}
}

// Write writes the JSON form.
func (r *Result) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Read reads what Write wrote. Every error of the form wraps ErrFormat.
func Read(from io.Reader) (*Result, error) {
	b, err := io.ReadAll(io.LimitReader(from, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%w: over %d bytes", ErrFormat, maxFile)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	r := &Result{}
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return r, r.check()
}

// check makes sure that nobody who uses the result meets a nil.
func (r *Result) check() error {
	if r.Version != Version {
		return fmt.Errorf("%w: version %d", ErrFormat, r.Version)
	}
	seen := map[string]bool{}
	for _, op := range r.Ops {
		switch {
		case op == nil || op.Schedule.Histogram == nil || op.Service.Histogram == nil:
			return fmt.Errorf("%w: an operation without histograms", ErrFormat)
		case !validName(op.Name) || seen[op.Name]:
			return fmt.Errorf("%w: operation %q", ErrFormat, op.Name)
		case !(op.Interval > 0):
			return fmt.Errorf("%w: %s: interval %g", ErrFormat, op.Name, op.Interval)
		}
		seen[op.Name] = true
	}
	return nil
}

// validName: names become parts of file names and of objectives.
func validName(s string) bool {
	ok := func(c rune) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' }
	return s != "" && len(s) <= 32 && strings.IndexFunc(s, func(c rune) bool { return !ok(c) }) < 0
}
