// Package rules decides what may happen to an account's record: counting,
// registering, replacing, deleting. Every rule is a pure function of a record, a
// request and the time; what it answers is stored by package vault with a
// compare-and-swap, or not at all.
//
// The promise that all rules keep: in charge order, at most ten distinct blinded
// elements are evaluated after the last successful one. Its mirror: nobody who
// types the right password loses a key.
package rules

import (
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
)

// Params are the times of the rules. The zero value of a field is not a default:
// use Defaults.
type Params struct {
	// DestroyAfter is how long an open attempt keeps a locked record alive, since
	// its password may yet turn out to be right.
	DestroyAfter time.Duration
	// ReplaceDelay is how long a claim takes to ripen.
	ReplaceDelay time.Duration
	// ClaimWindow is how long a ripe claim may be used.
	ClaimWindow time.Duration
	// Pacing slows failures down on devices other than the owner's.
	Pacing bool
	// Doubt is how much of the present time may be a jump of the clock. Nobody's
	// key is destroyed, and no claim ripens, by so much time.
	Doubt time.Duration
}

// Defaults are the times that the design names.
func Defaults() Params {
	return Params{DestroyAfter: 24 * time.Hour, ReplaceDelay: 72 * time.Hour, ClaimWindow: 7 * 24 * time.Hour, Pacing: true}
}

// pace is how long to wait after the sixth, seventh, … tenth failure in a row on
// devices other than the owner's.
var pace = [...]time.Duration{time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}

// paceFrom is the failure from which on pacing begins.
const paceFrom = 6

// Verdict is what a rule answers.
type Verdict struct {
	Status frame.Status
	// Write says that the record changed and has to be stored before anything
	// is answered.
	Write bool
	// Until is when to come again, for paced and pending.
	Until uint64
}

func refuse(s frame.Status) Verdict { return Verdict{Status: s} }

// Settle turns a record whose attempts are used up into a tombstone, once every
// attempt has its verdict or is older than DestroyAfter. Whoever touches a record
// settles it first; it reports whether the record changed.
//
// It does so not at the tenth charge: that attempt may be the right password.
func Settle(r *record.Record, now time.Time, p Params) bool {
	if r.State != record.Live || r.Left() > 0 {
		return false
	}
	for _, e := range r.Entries {
		if e.Open && now.Before(unix(e.Time).Add(p.DestroyAfter+p.Doubt)) {
			return false
		}
	}
	bury(r, record.Destroyed, now, vaultmsg.Event{Kind: vaultmsg.EventDestroyed})
	return true
}

// bury makes a record a tombstone: the keys are gone, the generation stays.
func bury(r *record.Record, state record.State, now time.Time, e vaultmsg.Event) {
	left := record.Record{
		State: state, Generation: r.Generation,
		Charges: r.Charges, Base: r.Base,
		Registration: r.Registration, BodyHash: r.BodyHash,
		Replaced: r.Replaced, ReplacedFailures: r.ReplacedFailures,
		RegisteredBy: r.RegisteredBy, RegisteredAt: r.RegisteredAt, ReceiptSignature: r.ReceiptSignature,
		Owner: r.Owner, Events: r.Events, Replacements: r.Replacements,
	}
	*r = left
	e.Time = seconds(now)
	note(r, e)
}

// gone answers for a record that is not live.
func gone(r *record.Record) frame.Status {
	if r != nil && r.State == record.Destroyed {
		return frame.Destroyed
	}
	return frame.NotRegistered
}

// note puts an event in front of the others.
func note(r *record.Record, e vaultmsg.Event) {
	r.Events = append([]vaultmsg.Event{e}, r.Events...)
	if len(r.Events) > record.MaxEvents {
		r.Events = r.Events[:record.MaxEvents]
	}
}

// verdictEvent notes how an attempt ended; if nothing happened since its charge,
// one line tells both.
func verdictEvent(r *record.Record, kind vaultmsg.EventKind, device vaultmsg.Thumbprint, now time.Time) {
	e := event(kind, device, now)
	if len(r.Events) > 0 && r.Events[0].Kind == vaultmsg.EventCharged && r.Events[0].Device == e.Device {
		r.Events = r.Events[1:]
	}
	note(r, e)
}

func event(kind vaultmsg.EventKind, device vaultmsg.Thumbprint, now time.Time) vaultmsg.Event {
	return vaultmsg.Event{Kind: kind, Time: seconds(now), Device: [4]byte(device[:4])}
}

func seconds(t time.Time) uint64 { return uint64(t.Unix()) }
func unix(s uint64) time.Time    { return time.Unix(int64(s), 0) }
