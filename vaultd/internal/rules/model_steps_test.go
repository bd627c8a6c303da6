package rules_test

import (
	"slices"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/rules"
)

// beginAny begins everything that anybody can ask a node for.
func (e *explorer) beginAny(u universe, i int) {
	r := &e.records[u.record]
	// Some more charges than it takes: honest ends with the first success whose
	// reply arrives, and thief has better things to do than to repeat itself.
	more := r.Generation == 1 && r.Charges < uint64(e.failures)+uint64(e.wrong)+e.slack
	charge := func(u universe, w element) {
		if !more {
			return
		}
		e.begin(u, i, node{op: opCharge, element: w}) // in a session from before any success
		if slices.ContainsFunc(r.Entries, func(entry record.Entry) bool {
			return entry.Attempt == e.attempt(w).ID && entry.Charge <= r.Base
		}) {
			e.begin(u, i, node{op: opCharge, element: w, told: uint8(r.Base)}) // or told of the last
		}
	}
	charge(u, 0)
	for w := element(1); uint8(w) <= u.typed; w++ {
		charge(u, w) // repeated, delayed, or its reply was dropped
		if u.evaluated[w] != 0 {
			e.begin(u, i, node{op: opFail, element: w, charge: u.evaluated[w]})
		}
	}
	if more && u.typed < e.wrong {
		next := u
		next.typed++
		charge(next, element(next.typed))
	}
	for charge := uint8(1); charge < 32; charge++ {
		if u.honest&(1<<charge) != 0 {
			e.begin(u, i, node{op: opRestore, charge: charge})
		}
	}
	e.beginTurns(u, i, r)
}

// beginTurns begins what ends a record's life, or announces it.
func (e *explorer) beginTurns(u universe, i int, r *record.Record) {
	for _, c := range e.claims {
		by := node{device: c.device, what: c.what}
		if r.Generation == 1 {
			e.begin(u, i, by.as(opClaim))
			e.begin(u, i, by.as(opCancel))
		}
		if c.what == vaultmsg.ClaimDelete {
			e.begin(u, i, by.as(opDelete))
		} else if r.Generation == 1 {
			e.begin(u, i, by.as(opReplace))
		}
	}
	if e.lost {
		e.begin(u, i, node{op: opReplace, device: lost})
		e.begin(u, i, node{op: opChange, device: lost}) // it had a KE3 before, in a session kept alive
		e.begin(u, i, node{op: opDelete, device: lost, what: vaultmsg.ClaimDelete})
	}
	if e.change && u.success != 0 {
		e.begin(u, i, node{op: opChange, device: honest})
		e.begin(u, i, node{op: opDelete, device: honest, what: vaultmsg.ClaimDelete})
	}
	if e.register && r.State != record.Live && r.Generation == 1 {
		e.begin(u, i, node{op: opRegister, device: thief})
	}
}

func (n node) as(op opKind) node { n.op = op; return n }

// begin loads and decides.
func (e *explorer) begin(u universe, i int, n node) {
	r := e.load(u.record)
	n.at = u.now
	v := e.decide(r, &n, &u)
	n.ok = v.Status == frame.OK
	if (n.op == opRestore || n.op == opFail) && r.Generation != 1 && v.Write {
		e.guilty = "a verdict changed the record of another generation"
	}
	if charged := r.Charges != e.records[u.record].Charges; v.Status == frame.Paced && (charged || deviceOf[u.owner] == e.attempt(n.element).Device) {
		e.guilty = "the owner was paced, or pacing cost a charge"
	}
	u.nodes[i] = n
	switch {
	case v.Write:
		u.nodes[i].loaded, u.nodes[i].decided = u.record, e.intern(r)
		e.visit(u)
	case n.ok: // it goes on, without a write: nothing can come between
		e.follow(u, i)
	case n.op == opCharge:
		u.nodes[i] = node{}
		e.checkTold(&u, n)
		e.visit(u)
	}
}

func (e *explorer) decide(r *record.Record, n *node, u *universe) (v rules.Verdict) {
	now, a, by := u.time(), e.attempt(n.element), deviceOf[n.device]
	switch n.op {
	case opCharge:
		var c uint64
		a.Told = uint64(n.told)
		c, v = e.rules.charge(r, a, now, e.params)
		n.charge = uint8(c)
	case opRestore:
		v = e.rules.restore(r, a, 1, uint64(n.charge), now)
	case opFail:
		v = e.rules.fail(r, a, 1, now, e.params)
	case opClaim:
		_, v = rules.AddClaim(r, by, n.what, 1, claim{n.device, n.what}.id(), now, e.params)
	case opCancel:
		v = e.rules.cancel(r, deviceOf[u.owner], claim{n.device, n.what}.id(), now, e.params)
	case opDelete:
		v = e.rules.delete(r, by, r.Generation, now, e.params)
	default:
		g := rules.Registration{ID: vaultmsg.RegistrationID{byte(n.device) + 1}, Device: by, Generation: 2, KE3: n.op == opChange,
			Purpose: map[opKind]vaultmsg.Purpose{opRegister: vaultmsg.PurposeRegister, opReplace: vaultmsg.PurposeReplace, opChange: vaultmsg.PurposeChange}[n.op]}
		var auth rules.Authority
		auth, v = e.rules.mayRegister(r, g, now, e.params)
		if auth != rules.NoAuthority {
			*r = rules.Register(r, g, auth, record.Record{OPRFKey: [80]byte{2}, Wrap: [128]byte{2}}, now)
			v.Write = true
		}
	}
	return v
}

// finish swaps what was decided, and does what follows from it, or not: the swap
// may be reported failed though it was done.
func (e *explorer) finish(u universe, i int) {
	n := u.nodes[i]
	if n.ok {
		e.happened(&u, n)
	}
	e.store(&u, e.load(n.decided), n)
	e.checkEvaluations(&u)
	if n.op == opCharge && !n.ok {
		e.checkTold(&u, n)
	}
	unknown := u
	unknown.nodes[i] = node{}
	e.visit(unknown)
	e.follow(u, i)
}

// happened notes what a swap made true, for the promises to be judged by.
func (e *explorer) happened(u *universe, n node) {
	switch n.op {
	case opCharge:
		if n.element != 0 {
			u.wrong++
		} else {
			u.told = 0 // a new attempt, whose misses are counted anew
		}
		missed := slices.ContainsFunc(e.records[u.record].Entries, func(entry record.Entry) bool {
			return entry.Attempt == e.attempt(n.element).ID && entry.Misses == record.MaxMisses
		})
		if n.told != 0 || missed {
			u.again++
		}
		e.checkPace(u, n)
	case opRestore:
		// The element that succeeded is right at whatever charge it was last.
		u.success = max(u.success, n.charge)
		for _, entry := range e.records[u.record].Entries {
			if entry.Attempt == element(0).attempt().ID {
				u.success = max(u.success, uint8(entry.Charge))
			}
		}
		u.owner, u.claims = honest, [2][2]uint8{}
	case opClaim:
		*u.claim(n.device, n.what) = n.at + 1
	case opCancel:
		*u.claim(n.device, n.what) = 0
	case opRegister, opReplace, opChange, opDelete:
		e.checkAuthority(u, n)
		u.claims = [2][2]uint8{}
		if n.op != opDelete {
			u.owner = n.device
		}
	}
}

// follow does what comes after the record is stored.
func (e *explorer) follow(u universe, i int) {
	n := u.nodes[i]
	u.nodes[i] = node{}
	if n.op == opCharge && n.ok {
		if e.records[u.record].State != record.Live {
			e.guilty = "evaluated under a key that is gone"
		}
		u.evaluated[n.element] = max(u.evaluated[n.element], n.charge)
		if n.element == 0 {
			u.honest |= 1 << n.charge
		}
		e.checkEvaluations(&u)
	}
	if n.op == opCancel && n.ok {
		*u.claim(n.device, n.what) = 0 // told so, stored or not
	}
	e.visit(u)
}
