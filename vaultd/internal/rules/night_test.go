//go:build night

package rules_test

import "testing"

// TestEveryReachableStateAtNight goes further than there is time for in every run:
// 10,500,000 states.
func TestEveryReachableStateAtNight(t *testing.T) {
	exploreAll(t, []scenario{
		{failures: 8, wrong: 2, ticks: 2, slack: 2},
		{failures: 9, wrong: 2, ticks: 2, slack: 2},
		{failures: 8, wrong: 1, ticks: 6, slack: 1, claims: []claim{thiefReplaces}, change: true},
		{failures: 9, wrong: 1, ticks: 5, slack: 1, claims: []claim{thiefReplaces, thiefDeletes}},
		{failures: 0, wrong: 0, ticks: 7, slack: 1, claims: []claim{thiefReplaces, honestReplaces}, lost: true},
		{failures: 8, wrong: 2, ticks: 2, slack: 1, register: true, stale: true},
		{failures: 5, wrong: 3, ticks: 2, slack: 1, pacing: true},
		{failures: 6, unheard: true, wrong: 3, ticks: 2, slack: 2, pacing: true},
		{failures: 8, unheard: true, wrong: 2, ticks: 1, slack: 3},
		{failures: 9, wrong: 4, ticks: 2, slack: 0, stolen: true},
	})
}
