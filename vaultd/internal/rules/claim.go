package rules

import (
	"slices"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
)

// AddClaim notes a device's wish to replace or delete a record that another
// device owns. Nothing is evaluated before it is ripe, and nothing happens when
// it ripens: it is a right, not a record (A21). A second claim of the same device
// and kind is the first one.
func AddClaim(r *record.Record, device vaultmsg.Thumbprint, what vaultmsg.ClaimKind, generation uint64, id vaultmsg.ClaimID, now time.Time, p Params) (record.Claim, Verdict) {
	if r != nil && Settle(r, now, p) {
		return record.Claim{}, Verdict{Status: frame.Destroyed, Write: true}
	}
	if r == nil || r.State != record.Live {
		return record.Claim{}, refuse(gone(r)) // over nothing any device registers at once
	}
	if r.Generation != generation || device == r.Owner {
		return record.Claim{}, refuse(frame.Conflict)
	}
	r.Claims = slices.DeleteFunc(r.Claims, func(c record.Claim) bool { return expired(c, now, p) })
	for _, c := range r.Claims {
		if c.Device == device && c.What == what {
			return c, Verdict{Status: frame.OK}
		}
	}
	if len(r.Claims) == record.MaxClaims {
		return record.Claim{}, refuse(frame.TooMany)
	}
	c := record.Claim{ID: id, Device: device, What: what, Made: seconds(now)}
	r.Claims = append(r.Claims, c)
	note(r, event(vaultmsg.EventClaimed, device, now))
	return c, Verdict{Status: frame.OK, Write: true}
}

// Cancel removes a claim: the owner's objection, or the word of any device with
// a ticket of the account. Losing a claim costs its maker time, keeping a thief's
// could cost the key.
func Cancel(r *record.Record, device vaultmsg.Thumbprint, id vaultmsg.ClaimID, now time.Time, p Params) Verdict {
	if r != nil && Settle(r, now, p) {
		return Verdict{Status: frame.Destroyed, Write: true}
	}
	if r == nil || r.State != record.Live {
		return refuse(gone(r))
	}
	before := len(r.Claims)
	r.Claims = slices.DeleteFunc(r.Claims, func(c record.Claim) bool { return c.ID == id })
	if len(r.Claims) == before {
		return refuse(frame.NoClaim)
	}
	note(r, event(vaultmsg.EventClaimGone, device, now))
	return Verdict{Status: frame.OK, Write: true}
}

// ClaimTimes says when a claim ripens and when it lapses, in Unix seconds.
func ClaimTimes(c record.Claim, p Params) (ripens, lapses uint64) {
	return seconds(ripe(c, p)), seconds(ripe(c, p).Add(p.ClaimWindow))
}

func ripe(c record.Claim, p Params) time.Time { return unix(c.Made).Add(p.ReplaceDelay + p.Doubt) }

func expired(c record.Claim, now time.Time, p Params) bool {
	return !now.Before(ripe(c, p).Add(p.ClaimWindow))
}

func dropClaims(r *record.Record, device vaultmsg.Thumbprint, now time.Time) {
	if len(r.Claims) > 0 {
		r.Claims = nil
		note(r, event(vaultmsg.EventClaimGone, device, now))
	}
}

// Status is what a ticketed device is told of its account.
func Status(r *record.Record, device vaultmsg.Thumbprint, now time.Time, p Params) vaultmsg.AccountStatus {
	if r == nil {
		return vaultmsg.AccountStatus{State: vaultmsg.StateNone}
	}
	s := vaultmsg.AccountStatus{
		State: vaultmsg.State(r.State), Owner: r.State == record.Live && r.Owner == device,
		Generation: r.Generation, KSF: r.KSF,
		Failures: r.Failures(), OtherFailure: uint32(offOwnerFailures(r)),
		Registration: r.Registration, BodyHash: r.BodyHash,
		Events: r.Events,
	}
	for _, c := range r.Claims {
		if expired(c, now, p) {
			continue
		}
		ripens, lapses := ClaimTimes(c, p)
		s.Claims = append(s.Claims, vaultmsg.ClaimInfo{ID: c.ID, What: c.What, Mine: c.Device == device, Ripe: ripens, Expires: lapses})
	}
	return s
}
