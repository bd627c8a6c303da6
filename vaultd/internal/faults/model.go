package faults

import (
	"github.com/anishathalye/porcupine"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
)

// The times of the design, in seconds.
const (
	hour         = 3600
	destroyAfter = 24 * hour
	replaceDelay = 72 * hour
	claimWindow  = 7 * 24 * hour
	replaceEvery = 24 * hour // record.MaxReplacements by the owner, in that time
)

// waits is how long other devices than the owner's wait after their sixth, seventh,
// … tenth failure in a row.
var waits = [...]uint64{60, 600, hour, 6 * hour, 24 * hour}

// account is the specification: one account as it would be if everything
// happened one after the other. It is written from the design, not from package
// rules, and is comparable so that the checker can tell its states apart.
type account struct {
	state         record.State // 0: never registered
	generation    uint64
	charges, base uint64
	notBefore     uint64
	owner         uint8
	registration  uint64
	replaced      [record.MaxReplacements]uint64 // when by its owner, the last first
	entries       [record.MaxEntries]entry
	n             int // of the entries
	claims        [record.MaxClaims]claim
	claimed       int // of the claims
}

type entry struct {
	attempt, charge, time uint64
	open                  bool
	stranger              bool // not by the owner's device
	device, misses        uint8
	missed                uint64
}

type claim struct {
	id, made uint64
	device   uint8
	what     vaultmsg.ClaimKind
}

func (c claim) ripens() uint64 { return c.made + replaceDelay }
func (c claim) lapses() uint64 { return c.ripens() + claimWindow }

func (a *account) left() uint64 { return record.MaxEntries - (a.charges - a.base) }

// answer is what a step says, beside the record that it leaves.
type answer struct {
	status        frame.Status
	until         uint64
	charge, claim uint64
}

func say(s frame.Status) answer { return answer{status: s} }

// step does an operation, and says what it answers.
func (a account) step(op Op) (account, Result) {
	var said answer
	switch op.Kind {
	case Status:
		a.settle(op.Now)
	case Charge:
		said = a.charge(op)
	case Restore:
		said = a.restore(op)
	case Fail:
		said = a.fail(op)
	case RegisterStart:
		said, _ = a.mayRegister(op)
	case RegisterFinish:
		said = a.register(op)
	case Delete:
		said = a.delete(op)
	case Claim:
		said = a.claim(op)
	case Cancel:
		said = a.cancel(op)
	}
	result := Result{Status: said.status, Until: said.until, Charge: said.charge, Claim: said.claim,
		State: a.state, Generation: a.generation, Charges: a.charges, Base: a.base}
	if a.state == record.Live {
		result.Left = uint8(a.left())
	}
	return a, result
}

func (a *account) gone() answer {
	if a.state == record.Destroyed {
		return say(frame.Destroyed)
	}
	return say(frame.NotRegistered)
}

// settle: used up, and every attempt has its verdict or had a day for it.
func (a *account) settle(now uint64) bool {
	if a.state != record.Live || a.left() > 0 {
		return false
	}
	for _, e := range a.entries[:a.n] {
		if e.open && now < e.time+destroyAfter {
			return false
		}
	}
	a.bury(record.Destroyed)
	return true
}

// bury keeps the numbers, so that the next registration is not taken for the last.
func (a *account) bury(state record.State) {
	*a = account{state: state, generation: a.generation, charges: a.charges, base: a.base, owner: a.owner, registration: a.registration, replaced: a.replaced}
}

func (a *account) charge(op Op) answer {
	if a.state != record.Live {
		return a.gone()
	}
	if a.settle(op.Now) {
		return say(frame.Destroyed)
	}
	for _, e := range a.entries[:a.n] {
		anew := op.ToldIn == a.generation && e.charge <= op.Told // a verdict that the session knew of
		if e.attempt == op.Attempt && e.misses < record.MaxMisses && (e.open || !anew) {
			return answer{charge: e.charge}
		}
	}
	stranger := op.Device != a.owner
	switch {
	case a.left() == 0:
		a.miss(op)
		return say(frame.Locked)
	case stranger && op.Now < a.notBefore:
		a.miss(op)
		return answer{status: frame.Paced, until: a.notBefore}
	}
	for i := a.n - 1; i >= 0; i-- {
		if e := a.entries[i]; e.attempt == op.Attempt && e.charge <= a.base {
			a.remove(i)
		}
	}
	if a.n == record.MaxEntries {
		a.makeRoom()
	}
	a.charges++
	a.entries[a.n] = entry{attempt: op.Attempt, charge: a.charges, time: op.Now, open: true, stranger: stranger, device: op.Device}
	a.n++
	if failures := a.strangers(); stranger && failures >= 6 {
		a.notBefore = op.Now + waits[min(failures-6, len(waits)-1)]
	}
	return answer{charge: a.charges}
}

// miss: the device was refused, which tells something of each of its attempts; but not
// if it was told the same just before.
func (a *account) miss(op Op) {
	for i := range a.entries[:a.n] {
		if e := &a.entries[i]; e.device == op.Device && e.misses < record.MaxMisses && e.missed != op.Attempt {
			e.missed = op.Attempt
			e.misses++
			e.open = e.open && e.misses < record.MaxMisses
		}
	}
}

// strangers counts what was charged to other devices since the last success.
func (a *account) strangers() (n int) {
	for _, e := range a.entries[:a.n] {
		if e.stranger && e.charge > a.base {
			n++
		}
	}
	return n
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
	a.remove(drop)
}

func (a *account) remove(i int) {
	copy(a.entries[i:], a.entries[i+1:])
	a.n--
	a.entries[a.n] = entry{}
}

func (a *account) restore(op Op) answer {
	if a.state != record.Live {
		return a.gone()
	}
	if a.generation != op.Generation {
		return say(frame.Conflict)
	}
	success := op.Charge
	for i := range a.entries[:a.n] {
		if e := &a.entries[i]; e.attempt == op.Attempt {
			e.open = false
			success = max(success, e.charge)
		}
	}
	if a.base = max(a.base, success); a.strangers() < 6 {
		a.notBefore = 0
	}
	a.owner = op.Device
	a.replaced = [record.MaxReplacements]uint64{}
	a.claims, a.claimed = [record.MaxClaims]claim{}, 0
	return say(frame.OK)
}

func (a *account) fail(op Op) answer {
	if a.state != record.Live {
		return a.gone()
	}
	if a.generation != op.Generation {
		return say(frame.Conflict)
	}
	for i := range a.entries[:a.n] {
		if a.entries[i].attempt == op.Attempt {
			a.entries[i].open = false
		}
	}
	if a.settle(op.Now) {
		return say(frame.Destroyed)
	}
	return say(frame.WrongPassword)
}

// mayRegister says whether a device may register; owner: because it owns the
// record.
func (a *account) mayRegister(op Op) (said answer, owner bool) {
	a.settle(op.Now)
	live := a.state == record.Live
	switch {
	case a.generation+1 != op.Generation, live == (op.Purpose == vaultmsg.PurposeRegister):
		return say(frame.Conflict), false
	case !live:
		if until := a.replacedUntil(op.Now); a.state == record.Deleted && until != 0 {
			return answer{status: frame.TooMany, until: until}, false
		}
		return say(frame.OK), false
	case op.Purpose == vaultmsg.PurposeReplace:
		return a.mayReplace(op, vaultmsg.ClaimReplace)
	case !op.KE3:
		return say(frame.NotAuthorised), false
	case op.Device != a.owner:
		return say(frame.Conflict), false // another device's KE3 came later
	}
	return say(frame.OK), false
}

// mayReplace: the owner may, and who has a ripe claim.
func (a *account) mayReplace(op Op, what vaultmsg.ClaimKind) (said answer, owner bool) {
	if op.Device == a.owner {
		if until := a.replacedUntil(op.Now); what == vaultmsg.ClaimReplace && until != 0 {
			return answer{status: frame.TooMany, until: until}, false
		}
		return say(frame.OK), true
	}
	for _, c := range a.claims[:a.claimed] {
		switch {
		case c.device != op.Device || c.what != what || op.Now >= c.lapses():
		case op.Now < c.ripens():
			return answer{status: frame.Pending, until: c.ripens()}, false
		default:
			return say(frame.OK), false
		}
	}
	return say(frame.NotOwner), false
}

// replacedUntil says when an account that was replaced too often may be again; 0: now.
func (a *account) replacedUntil(now uint64) uint64 {
	third := a.replaced[record.MaxReplacements-1]
	if third == 0 || now >= third+replaceEvery {
		return 0
	}
	return third + replaceEvery
}

func (a *account) register(op Op) answer {
	if a.state != 0 && a.registration == op.Registration {
		return say(frame.OK)
	}
	said, owner := a.mayRegister(op)
	if said.status != frame.OK {
		return said
	}
	next := account{state: record.Live, generation: op.Generation, owner: op.Device, registration: op.Registration}
	switch {
	case a.state == record.Destroyed:
		next.replaced = a.replaced
	case owner, a.state == record.Deleted: // deleting and registering is replacing
		next.replaced[0] = op.Now
		copy(next.replaced[1:], a.replaced[:])
	}
	*a = next
	return said
}

func (a *account) delete(op Op) answer {
	switch {
	case a.settle(op.Now):
		return say(frame.Destroyed)
	case a.state != record.Live:
		return a.gone()
	case a.generation != op.Generation:
		return say(frame.Conflict)
	}
	said, _ := a.mayReplace(op, vaultmsg.ClaimDelete)
	if said.status == frame.OK {
		a.bury(record.Deleted)
	}
	return said
}

func (a *account) claim(op Op) answer {
	switch {
	case a.settle(op.Now):
		return say(frame.Destroyed)
	case a.state != record.Live:
		return a.gone()
	case a.generation != op.Generation, op.Device == a.owner:
		return say(frame.Conflict)
	}
	valid := *a
	valid.unclaim(func(c claim) bool { return op.Now >= c.lapses() })
	for _, c := range valid.claims[:valid.claimed] {
		if c.device == op.Device && c.what == op.What {
			return answer{claim: c.id}
		}
	}
	if valid.claimed == record.MaxClaims {
		return say(frame.TooMany)
	}
	*a = valid
	a.claims[a.claimed] = claim{id: op.Claim, made: op.Now, device: op.Device, what: op.What}
	a.claimed++
	return answer{claim: op.Claim}
}

func (a *account) cancel(op Op) answer {
	switch {
	case a.settle(op.Now):
		return say(frame.Destroyed)
	case a.state != record.Live:
		return a.gone()
	}
	before := a.claimed
	if a.unclaim(func(c claim) bool { return c.id == op.Claim }); a.claimed == before {
		return say(frame.NoClaim)
	}
	return say(frame.OK)
}

func (a *account) unclaim(gone func(claim) bool) {
	kept := [record.MaxClaims]claim{}
	n := 0
	for _, c := range a.claims[:a.claimed] {
		if !gone(c) {
			kept[n] = c
			n++
		}
	}
	a.claims, a.claimed = kept, n
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
