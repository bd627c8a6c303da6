package faults

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
)

// Nothing was asked of any vault: what the operation needs is not there.
var (
	errNothing   = errors.New("nothing was asked")
	errNoSession = errNoSessionError{}
)

// errNoSessionError is an errNothing that opening a session helps against.
type errNoSessionError struct{}

func (errNoSessionError) Error() string        { return "no session is open" }
func (errNoSessionError) Is(target error) bool { return target == errNothing }

// devices is how many devices an account has; the first does most.
const devices = 4

// target is an account as the clients know it together: any of them may repeat
// or finish an attempt that another began, on any node.
type target struct {
	id uint64 // static

	mu       sync.Mutex // guards all below
	ops      int
	pending  int                 // of the ops: not answered yet
	doubts   int                 // operations that were never answered
	seen     Result              // the last answer that came
	attempts []Op                // charges that were sent; Charge is set when it was answered
	claims   []uint64            // that were made
	ke3      [1 + devices]uint64 // by device: the generation of its last KE3
}

func newTarget() *target { return &target{id: first.Add(1)} }

// maxDoubts is how many operations of an account may be pending or in doubt. One in
// doubt may have been done at any later time or never, so each multiplies what the
// checker has to try: with a dozen it no longer ends.
const maxDoubts = 6

// take begins an operation, unless too many may be in doubt then.
func (t *target) take() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending+t.doubts >= maxDoubts {
		return false
	}
	t.pending++
	t.ops++
	return true
}

// release ends what take began.
func (t *target) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending--
}

// doubt notes that an operation was not answered.
func (t *target) doubt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.doubts++
}

// spent says whether the account was used enough. Once half of what may be in doubt
// is, hardly a client still finds a place.
func (t *target) spent(ops int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ops >= ops || t.doubts > maxDoubts/2
}

// rightful says whether the people of an account know its password. The others
// bring it to its end.
func rightful(account uint64) bool { return account%2 == 0 }

// next decides what to do to an account.
func (t *target) next(rng *rand.Rand, number *atomic.Uint64) *Op {
	t.mu.Lock()
	defer t.mu.Unlock()
	op := &Op{Account: t.id, Device: 1, Generation: t.seen.Generation}
	if rng.IntN(4) == 0 {
		op.Device = uint8(2 + rng.IntN(devices-1))
	}
	dice := rng.IntN(100)
	dead := t.seen.State != record.Live
	if dead && dice >= 70 {
		return t.start(op, vaultmsg.PurposeRegister, number)
	}
	usedUp := t.seen.Charges-t.seen.Base == record.MaxEntries
	switch {
	case (usedUp || dead && dice >= 40) && len(t.attempts) > 0 && dice >= 20:
		return t.another(rng, dice)
	case dice < 6:
		op.Kind = Status
	case dice < 8:
		op.Kind = Delete
	case dice < 12:
		return t.start(op, vaultmsg.PurposeReplace, number)
	case dice < 14:
		op.KE3 = t.ke3[op.Device] != 0 && t.ke3[op.Device] == op.Generation
		return t.start(op, vaultmsg.PurposeChange, number)
	case dice < 18:
		op.Kind, op.Claim, op.What = Claim, number.Add(1), vaultmsg.ClaimReplace
		if op.Device = uint8(2 + rng.IntN(devices-1)); rng.IntN(2) == 0 {
			op.What = vaultmsg.ClaimDelete
		}
	case dice < 20 && len(t.claims) > 0:
		op.Kind, op.Claim = Cancel, t.claims[len(t.claims)-1-rng.IntN(min(len(t.claims), 3))]
	case dice < 50 || len(t.attempts) == 0:
		op.Kind, op.Attempt = Charge, number.Add(1)
		t.attempts = append(t.attempts, *op)
	default:
		return t.another(rng, dice)
	}
	return op
}

// start begins a registration.
func (t *target) start(op *Op, purpose vaultmsg.Purpose, number *atomic.Uint64) *Op {
	op.Kind, op.Purpose = RegisterStart, purpose
	op.Generation, op.Registration = t.seen.Generation+1, number.Add(1)
	return op
}

// another does something about one of the attempts that were begun last. Half of
// the accounts never see the right password, and come to their end.
func (t *target) another(rng *rand.Rand, dice int) *Op {
	recent := min(len(t.attempts), record.MaxEntries)
	old := t.attempts[len(t.attempts)-1-rng.IntN(recent)]
	op := &Op{Kind: Charge, Account: t.id, Device: old.Device, Attempt: old.Attempt, Charge: old.Charge, Generation: old.Generation}
	switch {
	case old.Charge == 0 || dice >= 50 && dice < 65: // no answer yet: nobody can have its verdict
		op.Charge = 0
		if rng.IntN(2) == 0 { // in a session that was just opened; else in an old one
			op.Told, op.ToldIn = t.seen.Base, t.seen.Generation
		}
	case rightful(t.id) && dice < 80, t.seen.State != record.Live:
		op.Kind = Restore
	default:
		op.Kind, op.Charge = Fail, 0
	}
	return op
}

// learn takes an answer in.
func (t *target) learn(op *Op, result Result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = result
	i := slices.IndexFunc(t.attempts, func(a Op) bool { return a.Attempt == op.Attempt })
	switch {
	case op.Kind == Restore && result.Status == frame.OK:
		t.ke3[op.Device] = op.Generation
	case op.Kind == RegisterStart && op.Purpose == vaultmsg.PurposeChange && result.Status == frame.OK:
		t.ke3[op.Device] = 0 // used once
	case op.Kind == Claim && result.Status == frame.OK:
		t.claims = append(t.claims, result.Claim)
	case op.Kind != Charge || i < 0:
	case result.Status == frame.OK:
		t.attempts[i].Charge, t.attempts[i].Generation = result.Charge, result.Generation
	default: // it was never begun
		t.attempts = slices.Delete(t.attempts, i, i+1)
	}
}
