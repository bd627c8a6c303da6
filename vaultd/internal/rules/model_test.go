package rules_test

import (
	"fmt"
	"slices"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/rules"
)

// The model: one record in a compare-and-swap store, two vault nodes that load,
// decide and swap in steps of their own and may crash between any two, a third
// that holds a stale copy, a relay that may drop, repeat and delay anything, time,
// claims, and devices. honest holds the right password and keeps its blind, so
// that it has one element for ever; thief types wrong ones; lost is the owner when
// it begins. Everything that can happen from a given start is explored, over the
// real rules; only OPAQUE is replaced by knowing who is who.
//
// A dropped message is one that is never acted upon, a repeated one is acted upon
// again: the explorer has no queue, since every step is possible at any time. It
// is harsher than the truth in one thing: what a session remembers between KE2 and
// KE3, and what a KE3 entitles it to, lasts for ever here, and survives crashes.
//
// What happened, and what devices were told, is kept beside the record, in
// universe: from that, and not from the record, the promises are judged.

type device uint8

const (
	honest device = iota
	thief
	lost
)

var deviceOf = [...]vaultmsg.Thumbprint{{0xa1}, {0xb2}, {0xcc}}

const (
	tick = 12 * time.Hour // DestroyAfter is two of them

	// maxStates ends an exploration that would fill the machine.
	maxStates = 4_000_000
)

// modelParams are the default times, but for claims: a ripe claim and a lapsed one
// are to be seen within a few ticks.
func modelParams(pacing bool) rules.Params {
	p := rules.Defaults()
	p.ReplaceDelay, p.ClaimWindow, p.Pacing = 3*tick, 2*tick, pacing
	return p
}

// element names a blinded element: honest's is 0, thief's are 1, 2, ….
type element uint8

func (e element) attempt() rules.Attempt {
	d := thief
	if e == 0 {
		d = honest
	}
	return rules.Attempt{ID: [32]byte{byte(e) + 1}, Device: deviceOf[d]}
}

// attempt is where it is made.
func (e *explorer) attempt(el element) rules.Attempt {
	a := el.attempt()
	if e.stolen {
		a.Device = deviceOf[honest]
	}
	return a
}

// opKind is what a node is in the middle of.
type opKind uint8

const (
	opNone opKind = iota
	opCharge
	opRestore
	opFail
	opClaim
	opCancel
	opRegister // over a tombstone
	opReplace  // by owner or claim
	opChange   // by a KE3
	opDelete   // by owner or claim
)

// node is what a vault node is in the middle of: between having decided and
// swapping. A crash clears it.
type node struct {
	op      opKind
	element element // of charge, restore, fail
	device  device  // of all the others
	what    vaultmsg.ClaimKind
	ok      bool // the rule said yes
	charge  uint8
	told    uint8 // of charge: the base of which the session was told
	at      uint8 // the tick in which it decided
	loaded  ref   // the record that was decided on
	decided ref   // the record to be swapped for it
}

// before is any total order.
func (n node) before(o node) bool { return slices.Compare(n.key(), o.key()) < 0 }

func (n node) key() []int {
	ok := 0
	if n.ok {
		ok = 1
	}
	return []int{int(n.op), int(n.element), int(n.device), int(n.what), ok, int(n.charge), int(n.told), int(n.at), int(n.loaded), int(n.decided)}
}

// ref stands for an encoded record; the explorer keeps one copy of each. It also
// stands for the record's version: what is decided depends on the content alone,
// so a swap that compares contents does no more than one that compares versions.
type ref uint32

// universe is one state of everything.
type universe struct {
	record ref
	stale  ref     // a copy that a third node holds; 0 for none
	nodes  [2]node // in an order of the explorer's: they are alike
	now    uint8   // in ticks
	typed  uint8   // wrong passwords that thief has typed
	wrong  uint8   // charges for them
	told   uint8   // what refusals told thief that honest did not type, a bit each
	again  uint8   // charges for what was typed again after a success that was told
	// What was evaluated: the charge of each element, by element; 0 for never.
	evaluated [8]uint8
	honest    uint32 // the charges at which honest's element was evaluated, a bit each
	success   uint8  // the highest charge that succeeded
	owner     device // who had the last KE3 or registration
	// The tick after the one in which the standing claim was made, by device and
	// kind; 0 when it was never made, or was cancelled, or a KE3 came.
	claims [2][2]uint8
}

func (u *universe) claim(d device, what vaultmsg.ClaimKind) *uint8 {
	return &u.claims[d][what-vaultmsg.ClaimReplace]
}

func (u *universe) time() time.Time { return timeOf(u.now) }

func timeOf(now uint8) time.Time { return start.Add(time.Duration(now) * tick) }

// scenario is where an exploration starts, and what may happen in it.
type scenario struct {
	failures     int     // at the start, by devices that are not part of it
	unheard      bool    // honest succeeded before them, and did not hear of it
	wrong, ticks uint8   // wrong passwords that thief may type; how far time may go
	slack        uint64  // how many charges there may be beyond those
	claims       []claim // that may be made, used and cancelled, at any time
	lost         bool    // the lost phone still acts
	change       bool    // honest uses what a KE3 entitles it to
	register     bool    // thief registers over a tombstone
	stale        bool    // a third node holds a stale copy
	pacing       bool
	stolen       bool // thief has honest's device, in the middle of honest's attempt
}

type claim struct {
	device device
	what   vaultmsg.ClaimKind
}

func (c claim) id() vaultmsg.ClaimID { return vaultmsg.ClaimID{byte(c.device) + 1, byte(c.what)} }

// explorer walks all universes that can be reached from a start.
type explorer struct {
	scenario
	rules  ruleset
	params rules.Params
	guilty string // the first broken promise
	begun  uint8  // the success before the failures at the start

	seen    map[universe]struct{}
	todo    []universe
	records []record.Record // by ref
	refs    map[string]ref
}

// intern returns the ref of a record. History decides nothing: without it, fewer
// states are different.
func (e *explorer) intern(r *record.Record) ref {
	r.Events = nil
	b := string(r.Encode())
	if _, ok := e.refs[b]; !ok {
		if _, err := record.Decode([]byte(b)); err != nil {
			panic(err)
		}
		e.refs[b] = ref(len(e.records))
		e.records = append(e.records, r.Clone())
	}
	return e.refs[b]
}

func (e *explorer) load(at ref) *record.Record {
	r := e.records[at].Clone()
	return &r
}

func explore(rs ruleset, s scenario) *explorer {
	e := &explorer{scenario: s, rules: rs, params: modelParams(s.pacing),
		seen: map[universe]struct{}{}, records: make([]record.Record, 1), refs: map[string]ref{}}
	r := live()
	r.Owner = deviceOf[lost]
	u := universe{owner: lost}
	if s.unheard || s.stolen {
		c, _ := rules.Charge(r, element(0).attempt(), start, e.params)
		u.evaluated[0], u.honest = uint8(c), 1<<c
	}
	if s.unheard {
		rules.Restore(r, element(0).attempt(), 1, 1, start)
		u.owner, u.success = honest, 1
	}
	fill(r, s.failures, false)
	for i := len(r.Entries) - s.failures; i < len(r.Entries); i++ {
		r.Entries[i].Attempt[31] = 0xff // elements of their own
		r.Entries[i].OffOwner = s.pacing
	}
	if s.pacing && s.failures >= 6 {
		r.NotBefore = uint64(start.Add(time.Minute).Unix())
	}
	e.begun = u.success
	u.record = e.intern(r)
	e.visit(u)
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
		e.store(&next, r, node{})
		e.visit(next)
	}
	for i := range u.nodes {
		if u.nodes[i].op == opNone {
			e.beginAny(u, i)
			continue
		}
		next := u // crash
		next.nodes[i] = node{}
		e.visit(next)
		e.finish(u, i)
	}
	if e.stale {
		next := u
		next.stale = u.record
		e.visit(next)
		e.actOnStale(u)
	}
}

// actOnStale: a node that holds an old copy decides on it. What it would store
// loses its swap; so all that matters is what it would do without a swap.
func (e *explorer) actOnStale(u universe) {
	if u.stale == 0 || u.stale == u.record {
		return
	}
	for el := range element(u.typed + 1) {
		c, v := e.rules.charge(e.load(u.stale), e.attempt(el), u.time(), e.params)
		if v.Status == frame.OK && !v.Write && e.rules.trusting {
			next := u
			i := slices.Index(next.nodes[:], node{})
			if i < 0 {
				return
			}
			next.nodes[i] = node{op: opCharge, element: el, ok: true, charge: uint8(c)}
			e.follow(next, i)
		}
	}
}
