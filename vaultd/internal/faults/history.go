package faults

import (
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
func (h *History) Check() (guilty int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, ops := range h.accounts {
		verdict := porcupine.CheckOperationsTimeout(model, ops, checkLimit)
		if verdict == porcupine.Ok {
			continue
		}
		if verdict == porcupine.Illegal {
			guilty++
		}
		if err == nil {
			err = fmt.Errorf("account %d: %s: %d operations:%s", id, verdict, len(ops), tell(ops))
		}
	}
	return guilty, err
}

// tell writes out a history for whoever has to find out what went wrong.
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
