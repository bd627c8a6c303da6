package faults

import (
	"fmt"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/memstore"
)

// quick is a load that ends by itself.
func quick(seed uint64, nodes ...Node) Load {
	return Load{Seed: seed, Nodes: nodes, Clients: 6, Accounts: 3, AccountOps: 120, Ops: 400, Timeout: 5 * time.Second}
}

func TestMemstoreIsLinearizable(t *testing.T) {
	linearizable(t, func() recordstore.Store { return memstore.New() })
}

// A LoadStale that is stale breaks nothing.
func TestStaleChargesAreLinearizable(t *testing.T) {
	linearizable(t, func() recordstore.Store { return newStale(memstore.New(), false) })
}

func linearizable(t *testing.T, newStore func() recordstore.Store) {
	reached := make(map[string]bool)
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			store := distant{newStore()}
			h := NewHistory()
			quick(seed, &Local{store, Vault()}, &Local{store, Vault()}).Run(t.Context(), h)
			mustBeLinearizable(t, h)
			h.answers(reached)
		})
	}
	mustReachEverything(t, reached)
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

// mustReachEverything: a load that never locks or destroys a record shows nothing
// about records that are.
func mustReachEverything(t *testing.T, reached map[string]bool) {
	t.Helper()
	for _, kind := range []Kind{Status, Charge, Restore, Register, Replace, Delete} {
		if what := kind.String() + " " + frame.OK.String(); !reached[what] {
			t.Errorf("never: %s", what)
		}
	}
	for _, what := range []string{
		"charge locked", "charge destroyed", "charge not_registered", "fail wrong_password", "fail destroyed", "fail conflict",
		"restore destroyed", "restore conflict", "register conflict", "replace not_owner", "replace too_many", "delete not_owner",
	} {
		if !reached[what] {
			t.Errorf("never: %s", what)
		}
	}
}

func mustBeLinearizable(t *testing.T, h *History) {
	t.Helper()
	t.Log(h)
	if h.done == 0 {
		t.Fatal("nothing was done")
	}
	if guilty, err := h.Check(); err != nil {
		t.Fatalf("%d accounts are not linearizable; %v", guilty, err)
	}
}
