package faults

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// History is what clients did and were told.
type History struct {
	start time.Time // static after construction
	last  atomic.Int64

	mu       sync.Mutex // guards all below
	accounts map[uint64][]porcupine.Operation
	done     int
	unknown  int
	refused  int           // surely not done: no part of the history
	outage   time.Duration // the longest time without an answer
}

// NewHistory begins a history.
func NewHistory() *History {
	return &History{start: time.Now(), accounts: make(map[uint64][]porcupine.Operation)}
}

func (h *History) now() int64 { return int64(time.Since(h.start)) }

// never is the time of an answer that did not come.
const never = math.MaxInt64

// add notes an operation that was answered (result) or may have been done (nil).
func (h *History) add(client int, op Op, call int64, result *Result) {
	o := porcupine.Operation{ClientId: client, Input: op, Call: call, Return: never}
	h.mu.Lock()
	defer h.mu.Unlock()
	if result == nil {
		h.unknown++
	} else {
		o.Output, o.Return = *result, h.now()
		h.outage = max(h.outage, time.Duration(o.Return-h.last.Swap(o.Return)))
		h.done++
	}
	h.accounts[op.Account] = append(h.accounts[op.Account], o)
}

// refuse notes that an operation was not done.
func (h *History) refuse() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused++
}

// ids are the accounts that something was done to.
func (h *History) ids() []uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.accounts))
}

// checkLimit is how long the checker may take for one account. It takes
// milliseconds; an account that it cannot decide is reported as that.
const checkLimit = 20 * time.Second

// Check returns how many accounts have a history that no sequence of operations
// explains. The error shows the first of them, or one that could not be decided.
func (h *History) Check() (guilty int, err error) { return h.check(checkLimit) }

func (h *History) check(limit time.Duration) (guilty int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, ops := range h.accounts {
		verdict := porcupine.CheckOperationsTimeout(model, ops, limit)
		if verdict == porcupine.Ok {
			continue
		}
		if verdict == porcupine.Illegal {
			guilty++
		}
		if err == nil {
			err = fmt.Errorf("account %d: %s: %s", id, verdict, explain(ops, limit))
		}
	}
	return guilty, err
}

// explain tells how far a history can be explained, for whoever has to find out what
// went wrong: the account as it is after the longest part that can be, and the
// operations that come next and do not fit, or that may have been done.
func explain(ops []porcupine.Operation, limit time.Duration) string {
	_, info := porcupine.CheckOperationsVerbose(model, ops, limit)
	var longest []porcupine.Operation
	for _, parts := range info.PartialLinearizationsOperations() {
		for _, part := range parts {
			if len(part) > len(longest) {
				longest = part
			}
		}
	}
	state := account{}
	used := make(map[porcupine.Operation]bool)
	for _, o := range longest {
		state, _ = state.step(o.Input.(Op))
		used[o] = true
	}
	rest := slices.DeleteFunc(slices.Clone(ops), func(o porcupine.Operation) bool { return used[o] })
	slices.SortFunc(rest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	first := rest[0].Return
	rest = slices.DeleteFunc(rest, func(o porcupine.Operation) bool { return o.Call > first })
	done := longest[max(0, len(longest)-20):]
	return fmt.Sprintf("%d of %d operations, the last of them%s\nleave %+v\nwhere none of these fits:%s", len(longest), len(ops), tell(done), state, tell(rest))
}

// tell writes operations out.
func tell(ops []porcupine.Operation) (s string) {
	for _, o := range ops {
		s += fmt.Sprintf("\n%12d %12d  %+v → %+v", o.Call, o.Return, o.Input, o.Output)
	}
	return s
}

// String sums the history up.
func (h *History) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("%d accounts; operations: ok %d, unknown %d, refused %d; longest outage %s",
		len(h.accounts), h.done, h.unknown, h.refused, h.outage.Round(time.Millisecond))
}
