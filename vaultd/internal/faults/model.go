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

	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/record"
)

// account is the specification: one account as it would be if everything
// happened one after the other. It is written from the design, not from package
// rules, and is comparable so that the checker can tell its states apart.
type account struct {
	state         record.State // 0: never registered
	generation    uint64
	charges, base uint64
	owner         uint8
	replaced      uint8 // by its owner, since the last registration over nothing or KE3
	registration  uint64
	n             int
	entries       [record.MaxEntries]entry
}

type entry struct {
	attempt, charge uint64
	open            bool
}

func (a *account) left() uint64 { return record.MaxEntries - (a.charges - a.base) }

// step does an operation, and says what it answers.
func (a account) step(op Op) (account, Result) {
	status, charge := frame.OK, uint64(0)
	switch op.Kind {
	case Status:
		a.settle()
	case Charge:
		status, charge = a.charge(op)
	case Restore:
		status = a.restore(op)
	case Fail:
		status = a.fail(op)
	case Register, Replace:
		status = a.register(op)
	case Delete:
		status = a.delete(op)
	}
	return a, Result{Status: status, Charge: charge, State: a.state, Generation: a.generation, Charges: a.charges, Base: a.base}
}

func (a *account) gone() frame.Status {
	if a.state == record.Destroyed {
		return frame.Destroyed
	}
	return frame.NotRegistered
}

// settle: used up, and every attempt has its verdict.
func (a *account) settle() bool {
	if a.state != record.Live || a.left() > 0 {
		return false
	}
	for _, e := range a.entries[:a.n] {
		if e.open {
			return false
		}
	}
	a.bury(record.Destroyed)
	return true
}

func (a *account) bury(state record.State) {
	a.state, a.replaced, a.n, a.entries = state, 0, 0, [record.MaxEntries]entry{}
}

func (a *account) charge(op Op) (frame.Status, uint64) {
	if a.state != record.Live {
		return a.gone(), 0
	}
	if a.settle() {
		return frame.Destroyed, 0
	}
	for _, e := range a.entries[:a.n] {
		if e.open && e.attempt == op.Attempt {
			return frame.OK, e.charge
		}
	}
	if a.left() == 0 {
		return frame.Locked, 0
	}
	if a.n == record.MaxEntries {
		a.makeRoom()
	}
	a.charges++
	a.entries[a.n] = entry{attempt: op.Attempt, charge: a.charges, open: true}
	a.n++
	return frame.OK, a.charges
}

// makeRoom: the oldest that a success has overtaken goes, closed ones first.
func (a *account) makeRoom() {
	drop := -1
	for i := a.n - 1; i >= 0; i-- {
		e := a.entries[i]
		if e.charge <= a.base && (drop < 0 || !e.open || a.entries[drop].open) {
			drop = i
		}
	}
	a.remove(func(i int) bool { return i == drop })
}

func (a *account) remove(gone func(i int) bool) {
	kept := [record.MaxEntries]entry{}
	n := 0
	for i, e := range a.entries[:a.n] {
		if !gone(i) {
			kept[n] = e
			n++
		}
	}
	a.entries, a.n = kept, n
}

func (a *account) restore(op Op) frame.Status {
	if a.state != record.Live {
		return a.gone()
	}
	if a.generation != op.Generation {
		return frame.Conflict
	}
	success := op.Charge
	for _, e := range a.entries[:a.n] {
		if e.attempt == op.Attempt {
			success = max(success, e.charge)
		}
	}
	a.base = max(a.base, success)
	a.remove(func(i int) bool { return a.entries[i].attempt == op.Attempt })
	a.owner, a.replaced = op.Device, 0
	return frame.OK
}

func (a *account) fail(op Op) frame.Status {
	if a.state != record.Live {
		return a.gone()
	}
	if a.generation != op.Generation {
		return frame.Conflict
	}
	for i := range a.entries[:a.n] {
		if a.entries[i].attempt == op.Attempt {
			a.entries[i].open = false
		}
	}
	if a.settle() {
		return frame.Destroyed
	}
	return frame.WrongPassword
}

func (a *account) register(op Op) frame.Status {
	if a.state != 0 && a.registration == op.Registration {
		return frame.OK
	}
	a.settle()
	replaced := uint8(0)
	switch live := a.state == record.Live; {
	case a.generation+1 != op.Generation, live != (op.Kind == Replace):
		return frame.Conflict
	case live && op.Device != a.owner:
		return frame.NotOwner
	case live && a.replaced == record.MaxReplacements:
		return frame.TooMany
	case live:
		replaced = a.replaced + 1
	}
	*a = account{state: record.Live, generation: op.Generation, owner: op.Device, replaced: replaced, registration: op.Registration}
	return frame.OK
}

func (a *account) delete(op Op) frame.Status {
	switch {
	case a.settle():
		return frame.Destroyed
	case a.state != record.Live:
		return a.gone()
	case a.generation != op.Generation:
		return frame.Conflict
	case a.owner != op.Device:
		return frame.NotOwner
	}
	a.bury(record.Deleted)
	return frame.OK
}

// model tells porcupine about one account. An operation without an answer may
// take effect whenever; one that never did takes its effect after everything
// else, where nobody sees it.
var model = porcupine.Model{
	Init: func() any { return account{} },
	Step: func(state, input, output any) (bool, any) {
		next, result := state.(account).step(input.(Op))
		answer, known := output.(Result)
		return !known || answer == result, next
	},
}

// History is what clients did and were told.
type History struct {
	start time.Time // static after construction
	last  atomic.Int64

	mu       sync.Mutex // guards all below
	accounts map[uint64][]porcupine.Operation
	done     int
	unknown  int
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
	return fmt.Sprintf("%d operations on %d accounts, %d more in doubt, longest time without an answer %s",
		h.done, len(h.accounts), h.unknown, h.outage.Round(time.Millisecond))
}
