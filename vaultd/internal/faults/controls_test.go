package faults

import (
	"fmt"
	"testing"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/memstore"
)

// seeds is with how many seeds every broken part has to be caught, each time.
const seeds = 5

// Each of these breaks the promise in one way. A checker that lets any of them
// pass proves nothing about the others.
func TestBrokenPartsAreCaught(t *testing.T) {
	good := func() recordstore.Store { return memstore.New() }
	controls := []struct {
		name     string
		store    func() recordstore.Store
		rules    Rules
		trusting bool
	}{
		{"SwapWithoutCompare", func() recordstore.Store { return blind{memstore.New()} }, Vault(), false},
		{"StaleReads", func() recordstore.Store { return newStale(memstore.New(), true) }, Vault(), false},
		{"AnswersFromStaleReads", func() recordstore.Store { return newStale(memstore.New(), false) }, Vault(), true},
		{"AcknowledgedBeforeDurable", func() recordstore.Store { return newEarly() }, Vault(), false},
		{"NoTombstoneCheck", good, careless(), false},
		{"EntriesThatCancelEachOther", good, cancelling(), false},
		{"RestoreToTen", good, generous(), false},
	}
	for _, c := range controls {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprintf("%s/%d", c.name, seed), func(t *testing.T) {
				t.Parallel()
				store := distant{c.store()}
				h := NewHistory()
				quick(seed, &Local{store, c.rules, c.trusting}, &Local{store, c.rules, c.trusting}).Run(t.Context(), h)
				guilty, _ := h.Check()
				if guilty == 0 {
					t.Fatalf("not caught in %s", h)
				}
				t.Logf("caught on %d accounts in %s", guilty, h)
			})
		}
	}
}

// A vault that goes on with an attempt on the word of a replica that lags behind has
// to be caught by what phones are told, too.
func TestAVaultThatReadsStaleIsCaught(t *testing.T) {
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			l := quick(seed)
			l.Ops = 150
			store := distant{newStale(memstore.New(), true)}
			l.Nodes = phones(t, l.Clock, store, store)
			h := NewHistory()
			l.Run(t.Context(), h)
			guilty, _ := h.Check()
			if guilty == 0 {
				t.Fatalf("not caught in %s", h)
			}
			t.Logf("caught on %d accounts in %s", guilty, h)
		})
	}
}
