package rules_test

import (
	"fmt"
	"math/bits"
	"slices"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
)

// store puts a record there, on behalf of a node, or of the sweep (no op).
func (e *explorer) store(u *universe, r *record.Record, by node) {
	was := &e.records[u.record]
	u.record = e.intern(r)
	if was.State == record.Live && r.State == record.Destroyed {
		e.checkDestruction(u, was)
	}
	e.checkCharges(u, r)
	turned := r.Generation != was.Generation || was.State != record.Deleted && r.State == record.Deleted
	if turned && (by.op < opRegister || !by.ok) {
		e.guilty = "a record was replaced or deleted, and nobody asked for it"
	}
	if r.State == record.Live && r.Owner != deviceOf[u.owner] {
		e.guilty = "the owner is not the device of the last KE3 or registration"
	}
	if r.State != record.Live && (r.OPRFKey != [80]byte{} || r.Wrap != [128]byte{}) {
		e.guilty = "a tombstone holds a key"
	}
}

// checkEvaluations is the first promise: in charge order, at most ten distinct
// elements after the last success.
func (e *explorer) checkEvaluations(u *universe) {
	n := 0
	if u.success == e.begun {
		n = e.failures
	}
	for _, charge := range u.evaluated {
		if charge > u.success {
			n++
		}
	}
	r := &e.records[u.record]
	if left := r.Left(); r.Generation == 1 && n+left > record.MaxEntries {
		e.guilty = fmt.Sprintf("%d distinct elements evaluated after charge %d, and %d attempts left", n, u.success, left)
	}
	if n > record.MaxEntries {
		e.guilty = fmt.Sprintf("%d distinct elements evaluated after charge %d", n, u.success)
	}
}

// checkDestruction is the second promise: a key is destroyed only by ten failures,
// and never while the right password is under way. honest's own attempt counts as
// a failure only when it was left open for a day, or its device refused too often.
func (e *explorer) checkDestruction(u *universe, was *record.Record) {
	failures := e.failures + int(u.wrong)
	for _, entry := range was.Entries {
		// After its success, which gave back all that it could, it is repeated
		// without a charge, and what failed since is all failures.
		if entry.Attempt != element(0).attempt().ID || !entry.Open && entry.Charge <= was.Base {
			continue
		}
		if entry.Misses < record.MaxMisses && u.time().Before(time.Unix(int64(entry.Time), 0).Add(e.params.DestroyAfter)) {
			e.guilty = fmt.Sprintf("destroyed while the right password, charge %d, was under way", entry.Charge)
			return
		}
		failures++
	}
	if failures < record.MaxEntries {
		e.guilty = fmt.Sprintf("destroyed after %d failures", failures)
	}
}

// checkCharges is the third: a password that somebody types costs one charge,
// whatever of it is repeated or arrives late, also after its verdict; unless it is
// typed again, after a success of which its session was told.
func (e *explorer) checkCharges(u *universe, r *record.Record) {
	typed := uint64(e.failures) + uint64(u.typed) + 1 + uint64(u.again)
	if r.Generation == 1 && r.Charges > typed {
		e.guilty = fmt.Sprintf("%d charges for %d passwords", r.Charges, typed)
	}
}

// checkTold is the fourth: thief has honest's device, and its blind. To be refused
// while honest's attempt would go on tells that its password is another one.
func (e *explorer) checkTold(u *universe, n node) {
	honests := func(entry record.Entry) bool { return entry.Attempt == element(0).attempt().ID }
	_, v := e.rules.charge(e.load(u.record), element(0).attempt(), u.time(), e.params)
	waits := v.Status == frame.OK && slices.ContainsFunc(e.records[u.record].Entries, honests)
	if !e.stolen || n.element == 0 || !waits {
		return
	}
	u.told |= 1 << n.element
	if n := bits.OnesCount8(u.told); n > record.MaxMisses {
		e.guilty = fmt.Sprintf("refusals tell %d passwords that honest did not type", n)
	}
}

// checkAuthority is the fifth: a live record is replaced or deleted by its one
// owner, or by a device whose own claim stands and is ripe, which acts itself. A
// claim that ripened in the face of an attempt under way wins over it: it was
// announced for as long as ReplaceDelay.
func (e *explorer) checkAuthority(u *universe, n node) {
	if e.records[u.record].State != record.Live || n.device == u.owner {
		return
	}
	what := vaultmsg.ClaimReplace
	if n.op == opDelete {
		what = vaultmsg.ClaimDelete
	}
	made := uint8(0)
	if n.device != lost && n.op != opChange {
		made = *u.claim(n.device, what)
	}
	if made == 0 {
		e.guilty = fmt.Sprintf("device %d, not the owner, ended the record without a claim that stands", n.device)
		return
	}
	ripe := timeOf(made - 1).Add(e.params.ReplaceDelay)
	if now := timeOf(n.at); now.Before(ripe) || !now.Before(ripe.Add(e.params.ClaimWindow)) {
		e.guilty = fmt.Sprintf("a claim of tick %d was used in tick %d", made-1, n.at)
	}
}

// checkPace: from the sixth failure off the owner's device on, the next one takes
// time. All of the waits that fit into a tick look alike here.
func (e *explorer) checkPace(u *universe, n node) {
	if !e.pacing || e.attempt(n.element).Device == deviceOf[u.owner] {
		return
	}
	r := &e.records[u.record]
	failures, last := 0, uint64(0)
	for _, entry := range r.Entries {
		if entry.Charge > r.Base && entry.OffOwner {
			failures, last = failures+1, max(last, entry.Time)
		}
	}
	if failures >= 6 && uint64(timeOf(n.at).Unix()) <= last {
		e.guilty = fmt.Sprintf("failure %d off the owner's device came at once", failures+1)
	}
}
