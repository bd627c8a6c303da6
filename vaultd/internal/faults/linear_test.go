package faults

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/memstore"
)

// quick is a load that ends by itself.
func quick(seed uint64, nodes ...Node) Load {
	return Load{Seed: seed, Nodes: nodes, Clock: NewClock(), Clients: 6, Accounts: 3, AccountOps: 120, Ops: 400, Timeout: 5 * time.Second}
}

func TestMemstoreIsLinearizable(t *testing.T) {
	linearizable(t, func() recordstore.Store { return memstore.New() })
}

// A LoadStale that is stale breaks nothing.
func TestStaleChargesAreLinearizable(t *testing.T) {
	linearizable(t, func() recordstore.Store { return newStale(memstore.New(), false) })
}

// Whatever is in doubt, the checker comes to its end.
func TestDoubtsAreDecided(t *testing.T) {
	store := distant{doubtful{memstore.New()}}
	h := NewHistory()
	l := quick(1, &Local{Store: store, Rules: Vault()}, &Local{Store: store, Rules: Vault()})
	l.Clients, l.Accounts, l.Ops = 12, 4, 200
	l.Run(t.Context(), h)
	if h.unknown < h.done/10 {
		t.Fatalf("hardly anything was in doubt: %s", h)
	}
	mustBeLinearizable(t, h)
}

func linearizable(t *testing.T, newStore func() recordstore.Store) {
	reached := make(map[string]bool)
	for seed := range enoughSeeds(4, reached, answers) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			store := distant{newStore()}
			h := NewHistory()
			quick(seed, &Local{Store: store, Rules: Vault()}, &Local{Store: store, Rules: Vault()}).Run(t.Context(), h)
			mustBeLinearizable(t, h)
			h.answers(reached)
		})
	}
	mustReach(t, reached, answers...)
}

// The same through package vault, by its messages.
func TestTheVaultIsLinearizable(t *testing.T) {
	reached := make(map[string]bool)
	// A session ends with its minute, so late verdicts are rare; so are four
	// replacements in a day.
	wanted := slices.DeleteFunc(slices.Clone(answers), func(s string) bool {
		return s == "restore destroyed" || s == "start too_many"
	})
	for seed := range enoughSeeds(2, reached, wanted) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			l := quick(seed)
			store := distant{memstore.New()}
			l.Nodes = phones(t, l.Clock, store, store)
			h := NewHistory()
			l.Run(t.Context(), h)
			mustBeLinearizable(t, h)
			h.answers(reached)
		})
	}
	mustReach(t, reached, wanted...)
}

// enoughSeeds are at least n, and more while not all has been reached that is wanted:
// which answers a load comes to also depends on how its clients interleave.
func enoughSeeds(n uint64, reached map[string]bool, wanted []string) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		missing := func(s string) bool { return !reached[s] }
		for seed := uint64(0); seed < n || seed < 8*n && slices.ContainsFunc(wanted, missing); seed++ {
			if !yield(seed) {
				return
			}
		}
	}
}

// phones are vaults over the stores, and who talks to them.
func phones(t *testing.T, clock *Clock, stores ...recordstore.Store) (nodes []Node) {
	t.Helper()
	f, err := NewFleet(clock, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, store := range stores {
		p, err := f.Vault(t.Context(), store)
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, p)
	}
	return nodes
}

// answers adds what was done and answered.
func (h *History) answers(reached map[string]bool) {
	for _, ops := range h.accounts {
		for _, o := range ops {
			if result, known := o.Output.(Result); known {
				reached[o.Input.(Op).Kind.String()+" "+result.Status.String()] = true
			}
		}
	}
}

// One client after the other: what the vault's rules answer is what the model does,
// also where it is rare.
func TestTheModelAndTheRulesAgree(t *testing.T) {
	reached := make(map[string]bool)
	node := &Local{Store: memstore.New(), Rules: Vault()}
	rng := rand.New(rand.NewPCG(1, 1))
	clock := NewClock()
	var number atomic.Uint64
	for range 800 {
		target, state := newTarget(), account{}
		do := func(op *Op) Result {
			op.Now = uint64(clock.Now().Unix())
			next, want := state.step(*op)
			got, err := node.Do(t.Context(), op)
			if err != nil || got != want {
				t.Fatalf("%+v on %+v: %+v, %v; want %+v", *op, state, got, err, want)
			}
			reached[op.Kind.String()+" "+got.Status.String()] = true
			if op.Kind == RegisterFinish && got.Status == frame.OK && state.state == record.Live {
				reached[fmt.Sprintf("finish of purpose %d by the owner: %t", op.Purpose, op.Device == state.owner)] = true
			}
			if op.Kind == Delete && got.Status == frame.OK {
				reached[fmt.Sprintf("delete by the owner: %t", op.Device == state.owner)] = true
			}
			state = next
			target.learn(op, got)
			return got
		}
		for range 300 {
			if rng.IntN(40) == 0 {
				clock.Jump(leaps[rng.IntN(len(leaps))])
			}
			op := target.next(rng, &number)
			if result := do(op); op.Kind == RegisterStart && result.Status == frame.OK {
				op.Kind = RegisterFinish
				do(op)
				do(op)
			}
		}
	}
	mustReach(t, reached, answers...)
	mustReach(t, reached, "claim too_many", "cancel destroyed", "finish of purpose 2 by the owner: true", "finish of purpose 3 by the owner: true",
		"finish of purpose 3 by the owner: false", "delete by the owner: true", "delete by the owner: false")
}

// answers that every load must come to: one that never locks or destroys a record
// shows nothing about records that are.
var answers = []string{
	"status ok", "charge ok", "restore ok", "start ok", "finish ok", "delete ok", "claim ok", "cancel ok",
	"charge locked", "charge destroyed", "charge not_registered", "charge paced",
	"fail wrong_password", "fail destroyed", "fail conflict", "restore destroyed", "restore conflict",
	"start conflict", "start not_owner", "start not_authorised", "start pending", "start too_many",
	"delete not_owner", "claim conflict", "cancel no_claim",
}

func mustReach(t *testing.T, reached map[string]bool, all ...string) {
	t.Helper()
	for _, what := range all {
		if !reached[what] {
			t.Errorf("never: %s", what)
		}
	}
}
