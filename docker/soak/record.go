//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"chatvault/client"
)

// record is what happened, from all goroutines.
type record struct {
	mu      sync.Mutex
	ops     map[string]*tally
	defects []error
}

// tally is one kind of operation.
type tally struct {
	done  int
	retry map[string]int // tries without an outcome, by code
	slow  []time.Duration
}

func newRecord() *record { return &record{ops: map[string]*tally{}} }

func (r *record) op(name string) *tally {
	t := r.ops[name]
	if t == nil {
		t = &tally{retry: map[string]int{}}
		r.ops[name] = t
	}
	return t
}

// done notes an operation with its outcome. The error may be one, as a refusal
// of a wrong password is.
func (r *record) done(name string, took time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.op(name)
	if err != nil && verdictless(err) {
		t.retry["gave_up"]++
		return
	}
	t.done++
	t.slow = append(t.slow, took)
}

// interrupted notes a try that ended without an outcome.
func (r *record) interrupted(name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.op(name).retry[client.CodeName(err)]++
}

// defect notes what must not be.
func (r *record) defect(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.defects = append(r.defects, err)
}

func (r *record) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.defects...)
}

// total is how many operations had an outcome, how many tries had none, and how
// many defects there are.
func (r *record) total() (done, retries, defects int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.ops {
		done += t.done
		for _, n := range t.retry {
			retries += n
		}
	}
	return done, retries, len(r.defects)
}

// write writes a line for each kind of operation.
func (r *record) write(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(r.ops)) {
		t := r.ops[name]
		slices.SortFunc(t.slow, func(a, b time.Duration) int { return cmp.Compare(a, b) })
		fmt.Fprintf(w, "  %-18s %6d  p50 %6s  p99 %6s", name, t.done, quantile(t.slow, 0.5), quantile(t.slow, 0.99))
		if len(t.retry) > 0 {
			fmt.Fprintf(w, "  interrupted %v", t.retry)
		}
		fmt.Fprintln(w)
	}
}

// quantile of a sorted list.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))].Round(time.Millisecond)
}
