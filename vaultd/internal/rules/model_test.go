package rules_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/rules"
)

// The model: one record in a compare-and-swap store, two vault nodes that load,
// decide and swap in steps of their own and may crash between any two, a relay
// that may drop or repeat anything, and two devices. honest holds the right
// password and keeps its blind, so that it has one element for ever; thief types
// wrong ones. Everything that can happen from a given start is explored, over the
// real rules; only OPAQUE is replaced by knowing who is who.
//
// A dropped message is one that is never acted upon, a repeated one is acted upon
// again: the explorer has no queue, since every step is possible at any time. It
// is harsher than the truth in one thing: what a session remembers between KE2 and
// KE3 lasts for ever here, and survives crashes.

const (
	honest = iota
	thief
)

const (
	tick = 12 * time.Hour // DestroyAfter is two of them

	// maxStates ends an exploration that would fill the machine.
	maxStates = 4_000_000
)

var deviceOf = [2]vaultmsg.Thumbprint{{0xa1}, {0xb2}}

// ruleset is the rules under exploration, to be replaced by wrong ones.
type ruleset struct {
	charge  func(*record.Record, rules.Attempt, time.Time, rules.Params) (uint64, rules.Verdict)
	restore func(*record.Record, rules.Attempt, uint64, uint64, time.Time) rules.Verdict
	fail    func(*record.Record, rules.Attempt, uint64, time.Time, rules.Params) rules.Verdict
	settle  func(*record.Record, time.Time, rules.Params) bool
	blind   bool // a store that swaps without comparing
}

func ours() ruleset {
	return ruleset{
		charge: rules.Charge, restore: rules.Restore, settle: rules.Settle,
		fail: func(r *record.Record, a rules.Attempt, g uint64, now time.Time, p rules.Params) rules.Verdict {
			return rules.Fail(r, a, g, vaultmsg.EventFailed, now, p)
		},
	}
}

// element names a blinded element: honest's is 0, thief's are 1, 2, ….
type element uint8

func (e element) attempt() rules.Attempt {
	device := deviceOf[thief]
	if e == 0 {
		device = deviceOf[honest]
	}
	return rules.Attempt{ID: [32]byte{byte(e) + 1}, Device: device}
}

// opKind is what a node is in the middle of.
type opKind uint8

const (
	opNone opKind = iota
	opCharge
	opRestore
	opFail
)

// node is what a vault node is in the middle of: between having decided and
// swapping. A crash clears it.
type node struct {
	op      opKind
	element element
	ok      bool // the rule said yes
	charge  uint8
	loaded  ref // the record that was decided on
	decided ref // the record to be swapped for it
}

// before is any total order.
func (n node) before(o node) bool {
	return slices.Compare(n.key(), o.key()) < 0
}

func (n node) key() []int {
	ok := 0
	if n.ok {
		ok = 1
	}
	return []int{int(n.op), int(n.element), ok, int(n.charge), int(n.loaded), int(n.decided)}
}

// ref stands for an encoded record; the explorer keeps one copy of each. It also
// stands for the record's version: what is decided depends on the content alone,
// so a swap that compares contents does no more than one that compares versions.
type ref uint32

// universe is one state of everything.
type universe struct {
	record ref
	nodes  [2]node // in an order of the explorer's: they are alike
	now    uint8   // in ticks
	typed  uint8   // wrong passwords that thief has typed
	wrong  uint8   // charges for them: one that had its verdict is charged anew
	// What was evaluated: the charge of each element, by element; 0 for never.
	evaluated [8]uint8
	honest    uint32 // the charges at which honest's element was evaluated, a bit each
	success   uint8  // the highest charge that succeeded
}

func (u *universe) time() time.Time { return start.Add(time.Duration(u.now) * tick) }

// explorer walks all universes that can be reached from a start.
type explorer struct {
	rules  ruleset
	params rules.Params
	ticks  uint8  // how far time may go
	wrong  uint8  // how many wrong passwords thief may type
	slack  uint64 // how many charges there may be beyond those
	before uint8  // failures at the start
	guilty string // the first broken promise

	seen    map[universe]struct{}
	todo    []universe
	records []string // by ref
	refs    map[string]ref
}

// intern returns the ref of a record. History decides nothing: without it, fewer
// states are different.
func (e *explorer) intern(r *record.Record) ref {
	r.Events = nil
	b := string(r.Encode())
	if _, ok := e.refs[b]; !ok {
		e.refs[b] = ref(len(e.records))
		e.records = append(e.records, b)
	}
	return e.refs[b]
}

func (e *explorer) load(at ref) *record.Record {
	r, err := record.Decode([]byte(e.records[at]))
	if err != nil {
		panic(err)
	}
	return &r
}

func explore(rs ruleset, failures int, wrong, ticks uint8, slack uint64) *explorer {
	p := rules.Defaults()
	p.Pacing = false
	e := &explorer{rules: rs, params: p, ticks: ticks, wrong: wrong, slack: slack, before: uint8(failures),
		seen: map[universe]struct{}{}, records: []string{""}, refs: map[string]ref{}}
	r := live()
	r.Owner = vaultmsg.Thumbprint{0xcc} // the lost phone
	fill(r, failures, false)
	for i := range r.Entries {
		r.Entries[i].Attempt[31] = 0xff // elements of their own
	}
	e.visit(universe{record: e.intern(r)})
	for len(e.todo) > 0 && e.guilty == "" {
		if len(e.seen) > maxStates {
			panic(fmt.Sprintf("more than %d states", maxStates))
		}
		u := e.todo[len(e.todo)-1]
		e.todo = e.todo[:len(e.todo)-1]
		e.step(u)
	}
	return e
}

func (e *explorer) visit(u universe) {
	for i := range u.nodes {
		// A swap that has lost its race will fail whenever it comes: no state of
		// the record comes back.
		if n := &u.nodes[i]; n.op != opNone && n.loaded != u.record && !e.rules.blind {
			*n = node{}
		}
	}
	if u.nodes[1].before(u.nodes[0]) {
		u.nodes[0], u.nodes[1] = u.nodes[1], u.nodes[0]
	}
	if _, ok := e.seen[u]; ok {
		return
	}
	e.seen[u] = struct{}{}
	e.todo = append(e.todo, u)
}

// step visits every universe that can follow.
func (e *explorer) step(u universe) {
	if u.now < e.ticks {
		next := u
		next.now++
		e.visit(next)
	}
	r := e.load(u.record)
	if e.rules.settle(r, u.time(), e.params) { // the sweep
		next := u
		e.store(&next, r)
		e.visit(next)
	}
	for i := range u.nodes {
		e.stepNode(u, i)
	}
}

func (e *explorer) stepNode(u universe, i int) {
	n := u.nodes[i]
	if n.op != opNone {
		next := u // crash
		next.nodes[i] = node{}
		e.visit(next)
		e.finish(u, i)
		return
	}
	// Some more charges than it takes: honest ends with the first success whose
	// reply arrives, and thief has better things to do than to repeat itself.
	more := e.load(u.record).Charges < uint64(e.before)+uint64(e.wrong)+e.slack
	if more {
		e.begin(u, i, opCharge, 0, 0)
	}
	for w := element(1); uint8(w) <= u.typed; w++ {
		if more {
			e.begin(u, i, opCharge, w, 0) // repeated, or its reply was dropped
		}
		if u.evaluated[w] != 0 {
			e.begin(u, i, opFail, w, u.evaluated[w])
		}
	}
	if more && u.typed < e.wrong {
		next := u
		next.typed++
		e.begin(next, i, opCharge, element(next.typed), 0)
	}
	for charge := uint8(1); charge < 32; charge++ {
		if u.honest&(1<<charge) != 0 {
			e.begin(u, i, opRestore, 0, charge)
		}
	}
}

// begin loads and decides.
func (e *explorer) begin(u universe, i int, op opKind, el element, charge uint8) {
	r := e.load(u.record)
	n := &u.nodes[i]
	n.op, n.element, n.charge = op, el, charge
	var v rules.Verdict
	switch op {
	case opCharge:
		var c uint64
		c, v = e.rules.charge(r, el.attempt(), u.time(), e.params)
		n.charge = uint8(c)
	case opRestore:
		v = e.rules.restore(r, el.attempt(), 1, uint64(charge), u.time())
	case opFail:
		v = e.rules.fail(r, el.attempt(), 1, u.time(), e.params)
	}
	n.ok = v.Status == frame.OK
	switch {
	case v.Write:
		n.loaded, n.decided = u.record, e.intern(r)
		e.visit(u)
	case n.ok: // it goes on, without a write: nothing can come between
		e.follow(u, i)
	}
}

// finish swaps what was decided, and does what follows from it, or not: the swap
// may be reported failed though it was done.
func (e *explorer) finish(u universe, i int) {
	n := &u.nodes[i]
	if n.op == opCharge && n.ok && n.element != 0 {
		u.wrong++
	}
	if n.op == opRestore && n.ok {
		// The element that succeeded is right at whatever charge it was last.
		u.success = max(u.success, n.charge)
		for _, entry := range e.load(u.record).Entries {
			if entry.Attempt == element(0).attempt().ID {
				u.success = max(u.success, uint8(entry.Charge))
			}
		}
	}
	e.store(&u, e.load(n.decided))
	e.checkEvaluations(&u)
	unknown := u
	unknown.nodes[i] = node{}
	e.visit(unknown)
	e.follow(u, i)
}

// follow does what comes after the record is stored.
func (e *explorer) follow(u universe, i int) {
	n := u.nodes[i]
	u.nodes[i] = node{}
	if n.op == opCharge && n.ok {
		u.evaluated[n.element] = max(u.evaluated[n.element], n.charge)
		if n.element == 0 {
			u.honest |= 1 << n.charge
		}
		e.checkEvaluations(&u)
	}
	e.visit(u)
}

func (e *explorer) store(u *universe, r *record.Record) {
	was := e.load(u.record)
	u.record = e.intern(r)
	if was.State == record.Live && r.State == record.Destroyed {
		e.checkDestruction(u, was)
	}
}

// checkEvaluations is the first promise: in charge order, at most ten distinct
// elements after the last success.
func (e *explorer) checkEvaluations(u *universe) {
	n := 0
	if u.success == 0 {
		n = int(e.before)
	}
	for _, charge := range u.evaluated {
		if charge > u.success {
			n++
		}
	}
	if left := e.load(u.record).Left(); n+left > record.MaxEntries {
		e.guilty = fmt.Sprintf("%d distinct elements evaluated after charge %d, and %d attempts left", n, u.success, left)
	}
	if n > record.MaxEntries {
		e.guilty = fmt.Sprintf("%d distinct elements evaluated after charge %d", n, u.success)
	}
}

// checkDestruction is the second promise: a key is destroyed only by ten failures,
// and never while the right password is under way. honest's own attempt counts as
// a failure only when it was left open for a day.
func (e *explorer) checkDestruction(u *universe, was *record.Record) {
	failures := int(e.before) + int(u.wrong)
	for _, entry := range was.Entries {
		if entry.Attempt != element(0).attempt().ID {
			continue
		}
		if u.time().Before(time.Unix(int64(entry.Time), 0).Add(e.params.DestroyAfter)) {
			e.guilty = fmt.Sprintf("destroyed while the right password, charge %d, was under way", entry.Charge)
			return
		}
		failures++
	}
	if failures < record.MaxEntries {
		e.guilty = fmt.Sprintf("destroyed after %d failures", failures)
	}
}

func TestEveryReachableStateKeepsBothPromises(t *testing.T) {
	total := 0
	for _, c := range []struct {
		failures     int
		wrong, ticks uint8
	}{
		{0, 0, 3}, // nobody types a wrong password
		{8, 1, 2}, // two attempts left
		{8, 2, 0},
		{9, 1, 3}, // one
		{9, 2, 1},
		{10, 1, 2}, // none
	} {
		e := explore(ours(), c.failures, c.wrong, c.ticks, 2)
		t.Logf("%d failures before, %d wrong passwords, %d half-days: %d states", c.failures, c.wrong, c.ticks, len(e.seen))
		total += len(e.seen)
		if e.guilty != "" {
			t.Errorf("%+v: %s", c, e.guilty)
		}
	}
	t.Logf("%d states", total)
}

// TestWrongRulesAreFoundGuilty: rules that this project decided against, each of
// which the explorer has to catch.
func TestWrongRulesAreFoundGuilty(t *testing.T) {
	cancels := ours()
	cancels.charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		charge, v := rules.Charge(r, a, now, p)
		if v.Status == frame.OK && v.Write {
			// a new attempt cancels the open ones
			for i := range r.Entries {
				if r.Entries[i].Attempt != a.ID {
					r.Entries[i].Open = false
				}
			}
		}
		return charge, v
	}
	tenth := ours()
	tenth.charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		charge, v := rules.Charge(r, a, now, p)
		if v.Status == frame.OK && r.Left() == 0 {
			r.State = record.Destroyed // at the tenth charge, before its verdict
			v.Write = true
		}
		return charge, v
	}
	toTen := ours()
	toTen.restore = func(r *record.Record, a rules.Attempt, g, charge uint64, now time.Time) rules.Verdict {
		v := rules.Restore(r, a, g, charge, now)
		if v.Status == frame.OK {
			r.Base = r.Charges
		}
		return v
	}
	blind := ours()
	blind.blind = true
	ignoresTombstone := ours()
	ignoresTombstone.charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		if r.State == record.Destroyed {
			r.State, r.Charges = record.Live, r.Base
		}
		return rules.Charge(r, a, now, p)
	}
	recharges := ours()
	recharges.charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		if r.State == record.Live { // the same element is charged anew
			for i := range r.Entries {
				if r.Entries[i].Attempt == a.ID {
					r.Entries[i].Attempt[30] = byte(r.Charges)
				}
			}
		}
		return rules.Charge(r, a, now, p)
	}
	for name, c := range map[string]struct {
		rules        ruleset
		failures     int
		wrong, ticks uint8
		slack        uint64
	}{
		"a new attempt cancels an open one": {cancels, 8, 2, 1, 2},
		"tombstone at the tenth charge":     {tenth, 9, 0, 0, 2},
		"restore to ten":                    {toTen, 5, 2, 0, 2},
		"swap without compare":              {blind, 8, 3, 0, 2},
		"no tombstone check":                {ignoresTombstone, 9, 2, 0, 2},
		"the same element charged anew":     {recharges, 8, 0, 2, 2},
	} {
		e := explore(c.rules, c.failures, c.wrong, c.ticks, c.slack)
		if e.guilty == "" {
			t.Errorf("%s: found innocent in %d states", name, len(e.seen))
			continue
		}
		t.Logf("%s: %s (%d states)", name, e.guilty, len(e.seen))
	}
}
