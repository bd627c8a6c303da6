package rules_test

import (
	"slices"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/rules"
)

// TestWrongRulesAreFoundGuilty: rules that this project decided against, each of
// which the explorer has to catch.
func TestWrongRulesAreFoundGuilty(t *testing.T) {
	for name, c := range map[string]struct {
		rules ruleset
		scenario
	}{
		"a new attempt cancels an open one":      {cancelsOthers(), scenario{failures: 8, wrong: 2, ticks: 1, slack: 2}},
		"tombstone at the tenth charge":          {tombstoneAtTen(), scenario{failures: 9, slack: 2}},
		"restore to ten":                         {restoreToTen(), scenario{failures: 5, wrong: 2, slack: 2}},
		"swap without compare":                   {blindSwap(), scenario{failures: 8, wrong: 3, slack: 2}},
		"no tombstone check":                     {ignoresTombstones(), scenario{failures: 9, wrong: 2, slack: 2}},
		"the same element charged anew":          {recharges(), scenario{failures: 8, ticks: 2, slack: 2}},
		"a failed one charged anew":              {rechargesClosed(), scenario{failures: 3, wrong: 1, slack: 2}},
		"a success forgets its element":          {forgetsSuccesses(), scenario{failures: 3, slack: 2}},
		"going on from a stale copy":             {goesOnStale(), scenario{failures: 9, wrong: 1, ticks: 2, slack: 2, stale: true}},
		"a claim is ripe at once":                {ripeAtOnce(), scenario{ticks: 6, claims: []claim{thiefReplaces}}},
		"a claim to delete is ripe at once":      {ripeAtOnce(), scenario{ticks: 6, claims: []claim{thiefDeletes}}},
		"a claim never lapses":                   {neverLapses(), scenario{ticks: 6, claims: []claim{thiefReplaces}}},
		"a KE3 leaves claims":                    {leavesClaims(), scenario{slack: 1, ticks: 4, claims: []claim{thiefReplaces}}},
		"a cancel that is told and not stored":   {forgetsCancels(), scenario{ticks: 4, claims: []claim{thiefReplaces}}},
		"a claim fires by itself":                {firesUnattended(), scenario{ticks: 4, claims: []claim{thiefDeletes}}},
		"a KE3 leaves the owner":                 {leavesOwner(), scenario{slack: 1, lost: true}},
		"a KE3's right outlives another's KE3":   {keepsRights(), scenario{slack: 1, lost: true}},
		"a verdict for whatever is there by now": {anyGeneration(), scenario{failures: 9, wrong: 1, ticks: 2, slack: 1, register: true}},
		"a repeated success ends pacing":         {endsPacing(), scenario{failures: 6, unheard: true, wrong: 1, slack: 1, pacing: true}},
		"a refusal costs nothing":                {refusesForNothing(), scenario{failures: 9, wrong: 4, slack: 1, stolen: true}},
		"no pacing":                              {unpaced(), scenario{failures: 5, wrong: 2, slack: 1, pacing: true}},
	} {
		e := explore(c.rules, c.scenario)
		if e.guilty == "" {
			t.Errorf("%s: found innocent in %d states", name, len(e.seen))
			continue
		}
		t.Logf("%s: %s (%d states)", name, e.guilty, len(e.seen))
	}
}

func cancelsOthers() ruleset {
	rs := ours()
	rs.charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		charge, v := rules.Charge(r, a, now, p)
		if v.Status == frame.OK && v.Write {
			for i := range r.Entries {
				if r.Entries[i].Attempt != a.ID {
					r.Entries[i].Open = false
				}
			}
		}
		return charge, v
	}
	return rs
}

func tombstoneAtTen() ruleset {
	rs := ours()
	rs.charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		charge, v := rules.Charge(r, a, now, p)
		if v.Status == frame.OK && r.Left() == 0 {
			r.State = record.Destroyed // before its verdict
			v.Write = true
		}
		return charge, v
	}
	return rs
}

func restoreToTen() ruleset {
	rs := ours()
	rs.restore = func(r *record.Record, a rules.Attempt, g, charge uint64, now time.Time) rules.Verdict {
		v := rules.Restore(r, a, g, charge, now)
		if v.Status == frame.OK {
			r.Base = r.Charges
		}
		return v
	}
	return rs
}

func blindSwap() ruleset {
	rs := ours()
	rs.blind = true
	return rs
}

func ignoresTombstones() ruleset {
	rs := ours()
	rs.charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		if r.State == record.Destroyed {
			r.State, r.Charges = record.Live, r.Base
		}
		return rules.Charge(r, a, now, p)
	}
	return rs
}

func recharges() ruleset {
	rs := ours()
	rs.charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		if r.State == record.Live {
			for i := range r.Entries {
				if r.Entries[i].Attempt == a.ID {
					r.Entries[i].Attempt[30] = byte(r.Charges)
				}
			}
		}
		return rules.Charge(r, a, now, p)
	}
	return rs
}

// rechargesClosed has an attempt go on only until its verdict: a KE1 that a relay
// held up costs one more.
func rechargesClosed() ruleset {
	rs := ours()
	rs.charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		for i := range r.Entries {
			if e := &r.Entries[i]; r.State == record.Live && e.Attempt == a.ID && !e.Open {
				e.Attempt[30] = byte(r.Charges)
			}
		}
		return rules.Charge(r, a, now, p)
	}
	return rs
}

func forgetsSuccesses() ruleset {
	rs := ours()
	rs.restore = func(r *record.Record, a rules.Attempt, g, charge uint64, now time.Time) rules.Verdict {
		v := rules.Restore(r, a, g, charge, now)
		if v.Status == frame.OK {
			r.Entries = slices.DeleteFunc(r.Entries, func(e record.Entry) bool { return e.Attempt == a.ID })
		}
		return v
	}
	return rs
}

func goesOnStale() ruleset {
	rs := ours()
	rs.trusting = true
	return rs
}

// atOtherTimes has claims judged by other times than those they were made under.
func atOtherTimes(change func(*rules.Params)) ruleset {
	rs := ours()
	rs.mayRegister = func(r *record.Record, g rules.Registration, now time.Time, p rules.Params) (rules.Authority, rules.Verdict) {
		change(&p)
		return rules.MayRegister(r, g, now, p)
	}
	rs.delete = func(r *record.Record, d vaultmsg.Thumbprint, g uint64, now time.Time, p rules.Params) rules.Verdict {
		change(&p)
		return rules.Delete(r, d, g, now, p)
	}
	return rs
}

func ripeAtOnce() ruleset { return atOtherTimes(func(p *rules.Params) { p.ReplaceDelay = 0 }) }

func neverLapses() ruleset {
	return atOtherTimes(func(p *rules.Params) { p.ClaimWindow = 1000 * time.Hour })
}

func leavesClaims() ruleset {
	rs := ours()
	rs.restore = func(r *record.Record, a rules.Attempt, g, charge uint64, now time.Time) rules.Verdict {
		claims := r.Claims
		v := rules.Restore(r, a, g, charge, now)
		r.Claims = claims
		return v
	}
	return rs
}

func forgetsCancels() ruleset {
	rs := ours()
	rs.cancel = func(r *record.Record, d vaultmsg.Thumbprint, id vaultmsg.ClaimID, now time.Time, p rules.Params) rules.Verdict {
		v := rules.Cancel(r, d, id, now, p)
		v.Write = v.Write && v.Status != frame.OK
		return v
	}
	return rs
}

// firesUnattended has the sweep carry out what has ripened.
func firesUnattended() ruleset {
	rs := ours()
	rs.settle = func(r *record.Record, now time.Time, p rules.Params) bool {
		for _, c := range r.Claims {
			ripens, _ := rules.ClaimTimes(c, p)
			if c.What == vaultmsg.ClaimDelete && uint64(now.Unix()) >= ripens {
				return rules.Delete(r, c.Device, r.Generation, now, p).Write
			}
		}
		return rules.Settle(r, now, p)
	}
	return rs
}

func leavesOwner() ruleset {
	rs := ours()
	rs.restore = func(r *record.Record, a rules.Attempt, g, charge uint64, now time.Time) rules.Verdict {
		owner := r.Owner
		v := rules.Restore(r, a, g, charge, now)
		r.Owner = owner
		return v
	}
	return rs
}

func keepsRights() ruleset {
	rs := ours()
	rs.mayRegister = func(r *record.Record, g rules.Registration, now time.Time, p rules.Params) (rules.Authority, rules.Verdict) {
		if g.KE3 && r.State == record.Live && r.Generation+1 == g.Generation {
			return rules.ByKE3, rules.Verdict{}
		}
		return rules.MayRegister(r, g, now, p)
	}
	return rs
}

func anyGeneration() ruleset {
	rs := ours()
	rs.fail = func(r *record.Record, a rules.Attempt, _ uint64, now time.Time, p rules.Params) rules.Verdict {
		return rules.Fail(r, a, r.Generation, vaultmsg.EventFailed, now, p)
	}
	return rs
}

func endsPacing() ruleset {
	rs := ours()
	rs.restore = func(r *record.Record, a rules.Attempt, g, charge uint64, now time.Time) rules.Verdict {
		v := rules.Restore(r, a, g, charge, now)
		r.NotBefore = 0
		return v
	}
	return rs
}

func refusesForNothing() ruleset {
	rs := ours()
	rs.charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		before := r.Clone()
		charge, v := rules.Charge(r, a, now, p)
		if v.Status == frame.Locked || v.Status == frame.Paced {
			*r, v.Write = before, false
		}
		return charge, v
	}
	return rs
}

func unpaced() ruleset {
	rs := ours()
	rs.charge = func(r *record.Record, a rules.Attempt, now time.Time, p rules.Params) (uint64, rules.Verdict) {
		p.Pacing = false
		return rules.Charge(r, a, now, p)
	}
	return rs
}
