package rules

import (
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
)

// Authority is why a device may replace or delete a live record.
type Authority uint8

// The authorities.
const (
	NoAuthority Authority = iota
	OverNothing           // no live record: any ticketed device
	ByKE3                 // a KE3 in the same session, used once, unless another device's followed
	ByOwner               // the owner device
	ByClaim               // a ripe claim of this device
)

// replacementWindow is the time within which the owner device may replace its
// record only record.MaxReplacements times, unless a KE3 comes between. Deleting it
// and registering anew counts as replacing it, whichever device registers: else the
// limit could be walked around, and history be flushed with it.
const replacementWindow = 24 * time.Hour

// Registration is a registration as the vault issued it.
type Registration struct {
	ID         vaultmsg.RegistrationID
	Device     vaultmsg.Thumbprint
	Purpose    vaultmsg.Purpose
	Generation uint64 // the generation that it makes: the one before it was n−1
	KE3        bool   // the session had a KE3 when the registration began
}

// MayRegister decides whether the registration may begin, and again whether it
// may be stored. It changes nothing but settling.
func MayRegister(r *record.Record, g Registration, now time.Time, p Params) (Authority, Verdict) {
	settled := r != nil && Settle(r, now, p)
	auth, v := mayRegister(r, g, now, p)
	v.Write = settled
	return auth, v
}

func mayRegister(r *record.Record, g Registration, now time.Time, p Params) (Authority, Verdict) {
	// Generations survive tombstones: a client whose story is older or newer
	// than the vault's is told so (A1, A6).
	if generationOf(r)+1 != g.Generation {
		return NoAuthority, refuse(frame.Conflict)
	}
	if r == nil || r.State != record.Live {
		if g.Purpose != vaultmsg.PurposeRegister {
			return NoAuthority, refuse(frame.Conflict) // it would replace nothing
		}
		if r != nil && r.State == record.Deleted {
			if until := replacedTooOften(r, now); until != 0 {
				return NoAuthority, Verdict{Status: frame.TooMany, Until: until}
			}
		}
		return OverNothing, Verdict{}
	}
	switch g.Purpose {
	case vaultmsg.PurposeChange:
		switch {
		case !g.KE3:
			return NoAuthority, refuse(frame.NotAuthorised)
		case g.Device != r.Owner:
			// A20: another device's KE3 came after this one's, and took its
			// rights, or a session kept alive would outlast every recovery.
			return NoAuthority, refuse(frame.Conflict)
		}
		return ByKE3, Verdict{}
	case vaultmsg.PurposeReplace:
		return mayReplace(r, g.Device, vaultmsg.ClaimReplace, now, p)
	}
	return NoAuthority, refuse(frame.Conflict) // a live record is in the way
}

// mayReplace says whether a device may replace or delete a live record without a
// KE3.
func mayReplace(r *record.Record, device vaultmsg.Thumbprint, what vaultmsg.ClaimKind, now time.Time, p Params) (Authority, Verdict) {
	if device == r.Owner {
		if until := replacedTooOften(r, now); what == vaultmsg.ClaimReplace && until != 0 {
			return NoAuthority, Verdict{Status: frame.TooMany, Until: until}
		}
		return ByOwner, Verdict{}
	}
	pending := Verdict{Status: frame.NotOwner}
	for _, c := range r.Claims {
		if c.Device != device || c.What != what || expired(c, now, p) {
			continue
		}
		if ripe(c, p).After(now) {
			pending = Verdict{Status: frame.Pending, Until: seconds(ripe(c, p))}
			continue
		}
		return ByClaim, Verdict{}
	}
	return NoAuthority, pending
}

// replacedTooOften says when the record may be replaced again, 0 for at once.
func replacedTooOften(r *record.Record, now time.Time) (until uint64) {
	oldest := r.Replacements[record.MaxReplacements-1]
	if oldest == 0 || !now.Before(unix(oldest).Add(replacementWindow)) {
		return 0
	}
	return oldest + uint64(replacementWindow/time.Second)
}

// Register stores a registration: n → n+1. made is the new record's content that
// the vault and the client made; Register fills in all that the rules govern.
// The caller has checked with MayRegister, over this very record, and passes the
// authority that it answered.
func Register(r *record.Record, g Registration, auth Authority, made record.Record, now time.Time) record.Record {
	next := made.Clone()
	next.State, next.Generation = record.Live, g.Generation
	next.Charges, next.Base, next.NotBefore = 0, 0, 0
	next.Entries, next.Claims = nil, nil
	next.Registration = g.ID
	next.Owner, next.RegisteredBy, next.RegisteredAt = g.Device, g.Device, seconds(now)
	next.Replaced, next.ReplacedFailures = 0, 0
	next.Replacements = [record.MaxReplacements]uint64{}
	kind := vaultmsg.EventRegistered
	if r != nil {
		next.Events = append([]vaultmsg.Event(nil), r.Events...)
		if r.State == record.Live {
			kind = vaultmsg.EventReplaced
			next.Replaced, next.ReplacedFailures = r.Generation, r.Failures()
		}
		switch {
		case auth == ByOwner, r.State == record.Deleted:
			next.Replacements[0] = seconds(now)
			copy(next.Replacements[1:], r.Replacements[:])
		case auth == OverNothing:
			next.Replacements = r.Replacements
		}
	}
	note(&next, event(kind, g.Device, now))
	return next
}

// Delete makes a live record a tombstone, at the word of its owner device, which
// is whoever had the last KE3, or by a ripe claim.
func Delete(r *record.Record, device vaultmsg.Thumbprint, generation uint64, now time.Time, p Params) Verdict {
	if r != nil && Settle(r, now, p) {
		return Verdict{Status: frame.Destroyed, Write: true}
	}
	if r == nil || r.State != record.Live {
		return refuse(gone(r))
	}
	if r.Generation != generation {
		return refuse(frame.Conflict)
	}
	if auth, v := mayReplace(r, device, vaultmsg.ClaimDelete, now, p); auth == NoAuthority {
		return v
	}
	bury(r, record.Deleted, now, event(vaultmsg.EventDeleted, device, now))
	return Verdict{Status: frame.OK, Write: true}
}

func generationOf(r *record.Record) uint64 {
	if r == nil {
		return 0
	}
	return r.Generation
}
