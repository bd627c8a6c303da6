package rules_test

import (
	"testing"
	"time"

	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/rules"
)

// ruleset is the rules under exploration, to be replaced by wrong ones.
type ruleset struct {
	charge      func(*record.Record, rules.Attempt, time.Time, rules.Params) (uint64, rules.Verdict)
	restore     func(*record.Record, rules.Attempt, uint64, uint64, time.Time) rules.Verdict
	fail        func(*record.Record, rules.Attempt, uint64, time.Time, rules.Params) rules.Verdict
	settle      func(*record.Record, time.Time, rules.Params) bool
	cancel      func(*record.Record, vaultmsg.Thumbprint, vaultmsg.ClaimID, time.Time, rules.Params) rules.Verdict
	mayRegister func(*record.Record, rules.Registration, time.Time, rules.Params) (rules.Authority, rules.Verdict)
	delete      func(*record.Record, vaultmsg.Thumbprint, uint64, time.Time, rules.Params) rules.Verdict
	blind       bool // a store that swaps without comparing
	trusting    bool // a node that evaluates on the word of a stale copy
}

func ours() ruleset {
	return ruleset{
		charge: rules.Charge, restore: rules.Restore, settle: rules.Settle, cancel: rules.Cancel,
		mayRegister: rules.MayRegister, delete: rules.Delete,
		fail: func(r *record.Record, a rules.Attempt, g uint64, now time.Time, p rules.Params) rules.Verdict {
			return rules.Fail(r, a, g, vaultmsg.EventFailed, now, p)
		},
	}
}

var (
	thiefReplaces  = claim{thief, vaultmsg.ClaimReplace}
	thiefDeletes   = claim{thief, vaultmsg.ClaimDelete}
	honestReplaces = claim{honest, vaultmsg.ClaimReplace}
)

// scenarios are explored in every run of the tests; more of them at night.
var scenarios = []scenario{
	{failures: 0, wrong: 0, ticks: 3, slack: 2}, // nobody types a wrong password
	{failures: 8, wrong: 1, ticks: 2, slack: 2}, // two attempts left
	{failures: 8, wrong: 2, ticks: 0, slack: 2},
	{failures: 9, wrong: 1, ticks: 3, slack: 2}, // one
	{failures: 9, wrong: 2, ticks: 1, slack: 2},
	{failures: 10, wrong: 1, ticks: 2, slack: 2}, // none
	// Claims: made, ripened, objected to, used, lapsed, overtaken by a KE3.
	{failures: 9, wrong: 0, ticks: 6, slack: 1, claims: []claim{thiefReplaces}, change: true},
	{failures: 0, wrong: 0, ticks: 6, slack: 1, claims: []claim{thiefDeletes}, lost: true},
	{failures: 0, wrong: 0, ticks: 6, slack: 0, claims: []claim{thiefReplaces, honestReplaces}},
	{failures: 8, wrong: 1, ticks: 4, slack: 0, claims: []claim{thiefDeletes}},
	{failures: 8, wrong: 1, ticks: 1, slack: 1, lost: true, change: true},
	// A record that is gone, and what still comes for it.
	{failures: 9, wrong: 1, ticks: 2, slack: 1, register: true, stale: true},
	{failures: 5, wrong: 2, ticks: 2, slack: 1, pacing: true},
	// A success whose reply was lost: what comes late, and the password typed again.
	{failures: 6, unheard: true, wrong: 2, ticks: 1, slack: 1, pacing: true},
	{failures: 8, unheard: true, wrong: 1, ticks: 2, slack: 3},
	{failures: 9, wrong: 4, ticks: 0, slack: 0, stolen: true},
	{failures: 6, wrong: 4, ticks: 0, slack: 0, stolen: true, pacing: true},
}

func exploreAll(t *testing.T, list []scenario) {
	total := 0
	for _, s := range list {
		began := time.Now()
		e := explore(ours(), s)
		t.Logf("%+v: %d states, %d records, %v", s, len(e.seen), len(e.records), time.Since(began).Round(time.Millisecond))
		total += len(e.seen)
		if e.guilty != "" {
			t.Errorf("%+v: %s", s, e.guilty)
		}
	}
	t.Logf("%d states", total)
}

func TestEveryReachableStateKeepsBothPromises(t *testing.T) { exploreAll(t, scenarios) }
