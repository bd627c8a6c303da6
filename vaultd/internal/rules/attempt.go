package rules

import (
	"slices"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
)

// Attempt is one blinded element of one device.
type Attempt struct {
	ID     [32]byte // vaultmsg.AttemptID, over the record's generation
	Device vaultmsg.Thumbprint
	Told   uint64 // the base of which its session was told: an attempt begun after that success
}

// Charge decides whether the attempt may be evaluated: status ok says yes, and
// charge is its number. When Write is set, the charge has to be durable before
// anything is evaluated; when it is not, the attempt was charged before and goes
// on.
func Charge(r *record.Record, a Attempt, now time.Time, p Params) (charge uint64, v Verdict) {
	if r == nil || r.State != record.Live {
		return 0, refuse(gone(r))
	}
	if Settle(r, now, p) {
		return 0, Verdict{Status: frame.Destroyed, Write: true}
	}
	// A18: a relay that drops or delays messages, or an HSM that fails after the
	// charge, must not cost the person anything. The same element under the same
	// key tells nothing new, so it goes on, uncharged. This stands before `locked`:
	// the tenth attempt may be the right one.
	for _, e := range r.Entries {
		if a.GoesOn(e) {
			return e.Charge, Verdict{Status: frame.OK}
		}
	}
	if r.Left() <= 0 {
		return 0, Verdict{Status: frame.Locked, Write: Miss(r, a)}
	}
	offOwner := a.Device != r.Owner
	// A19: a thief of account and device data burns attempts slowly.
	if p.Pacing && offOwner && seconds(now) < r.NotBefore {
		return 0, Verdict{Status: frame.Paced, Until: r.NotBefore, Write: Miss(r, a)}
	}
	r.Entries = slices.DeleteFunc(r.Entries, func(e record.Entry) bool { return e.Attempt == a.ID && e.Charge <= r.Base })
	makeRoom(r)
	r.Charges++
	r.Entries = append(r.Entries, record.Entry{
		Attempt: a.ID, Charge: r.Charges, Time: seconds(now), Open: true, OffOwner: offOwner, Device: [8]byte(a.Device[:8]),
	})
	if n := offOwnerFailures(r); offOwner && n >= paceFrom {
		r.NotBefore = seconds(now.Add(pace[min(n-paceFrom, len(pace)-1)]))
	}
	note(r, event(vaultmsg.EventCharged, a.Device, now))
	return r.Charges, Verdict{Status: frame.OK, Write: true}
}

// GoesOn says whether the attempt is that of the entry.
func (a Attempt) GoesOn(e record.Entry) bool {
	return e.Attempt == a.ID && e.Misses < record.MaxMisses && (e.Open || !a.anew(e))
}

// Miss counts a refusal against the attempts of its device, and says whether there
// are any. Who has the device and its blind could else test as many passwords as he
// likes while nothing is charged: the one that goes on was typed. What was missed too
// often does not go on any more, and is not waited for. The same password again tells
// nothing more: a relay that drops the refusal makes a phone repeat it.
func Miss(r *record.Record, a Attempt) (counted bool) {
	id := [8]byte(a.ID[:8])
	for i := range r.Entries {
		e := &r.Entries[i]
		if e.Device != [8]byte(a.Device[:8]) || e.Misses == record.MaxMisses || e.Missed == id {
			continue
		}
		e.Misses, e.Missed = e.Misses+1, id
		e.Open = e.Open && e.Misses < record.MaxMisses
		counted = true
	}
	return counted
}

// anew says whether the attempt of a closed entry is made once more. Its session was
// told then of a success as late as that: who did not hear of his own success, and
// types the password again, shall get all attempts back again. In an older session
// it is a straggler: a relay that stood still hands on a KE1 that it held, after the
// attempt has had its verdict in another session.
func (a Attempt) anew(e record.Entry) bool { return e.Charge <= a.Told }

// makeRoom drops an entry for a new one, if the list is full. Entries above the
// base are never dropped: there are fewer than ten while an attempt is left. One
// at or below it has been overtaken by a success; if it came again it would be
// charged anew. That costs more where one is open.
func makeRoom(r *record.Record) {
	if len(r.Entries) < record.MaxEntries {
		return
	}
	drop := slices.IndexFunc(r.Entries, func(e record.Entry) bool { return e.Charge <= r.Base && !e.Open })
	if drop < 0 {
		drop = slices.IndexFunc(r.Entries, func(e record.Entry) bool { return e.Charge <= r.Base })
	}
	r.Entries = slices.Delete(r.Entries, drop, drop+1)
}

// offOwnerFailures counts the charges since the last success that came from
// devices other than the owner's.
func offOwnerFailures(r *record.Record) int {
	n := 0
	for _, e := range r.Entries {
		if e.Charge > r.Base && e.OffOwner {
			n++
		}
	}
	return n
}

// Restore is the verdict of a valid KE3 for the attempt of the given charge and
// generation. Status ok says that the wrapped key may leave, once the record is
// stored.
//
// B becomes max(B, s), not C: what was charged after s stays charged, or parallel
// attempts would be free (A7). The entry may have been closed or dropped: the
// password was right all the same.
func Restore(r *record.Record, a Attempt, generation, charge uint64, now time.Time) Verdict {
	if r == nil || r.State != record.Live {
		return refuse(gone(r))
	}
	if r.Generation != generation {
		return refuse(frame.Conflict)
	}
	// The same element may have been charged anew since. It is right there too: were
	// that charge left standing, late verdicts could destroy a key for which nobody
	// ever typed a wrong password.
	for i := range r.Entries {
		if r.Entries[i].Attempt == a.ID {
			charge = max(charge, r.Entries[i].Charge)
			r.Entries[i].Open = false
		}
	}
	r.Base = max(r.Base, min(charge, r.Charges))
	// Not before the failures are gone that it comes from: a success from before them
	// must not hand a thief his next attempt (A19).
	if offOwnerFailures(r) < paceFrom {
		r.NotBefore = 0
	}
	// A20: the record follows the person to the device that knew the password;
	// the lost phone is not its owner any more.
	r.Owner = a.Device
	r.Replacements = [record.MaxReplacements]uint64{}
	// A21: no claim outlives a proof of the password.
	dropClaims(r, a.Device, now)
	verdictEvent(r, vaultmsg.EventRecovered, a.Device, now)
	return Verdict{Status: frame.OK, Write: true}
}

// Fail is the verdict of an abort, or of a KE3 that did not verify (kind says
// which). The entry is closed, the charge stays, and when it was the last the
// record is a tombstone. Status is wrong_password, or destroyed.
func Fail(r *record.Record, a Attempt, generation uint64, kind vaultmsg.EventKind, now time.Time, p Params) Verdict {
	if r == nil || r.State != record.Live {
		return refuse(gone(r))
	}
	if r.Generation != generation {
		return refuse(frame.Conflict)
	}
	closed := false
	for i := range r.Entries {
		if e := &r.Entries[i]; e.Attempt == a.ID {
			closed, e.Open = !e.Open, false
		}
	}
	if !closed { // else one charge could push out all that happened
		verdictEvent(r, kind, a.Device, now)
	}
	if Settle(r, now, p) {
		return Verdict{Status: frame.Destroyed, Write: true}
	}
	return Verdict{Status: frame.WrongPassword, Write: true}
}
