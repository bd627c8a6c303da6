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
		name  string
		store func() recordstore.Store
		rules Rules
	}{
		{"SwapWithoutCompare", func() recordstore.Store { return blind{memstore.New()} }, Vault()},
		{"StaleReads", func() recordstore.Store { return newStale(memstore.New(), true) }, Vault()},
		{"AcknowledgedBeforeDurable", func() recordstore.Store { return newEarly() }, Vault()},
		{"NoTombstoneCheck", good, careless()},
		{"EntriesThatCancelEachOther", good, cancelling()},
		{"RestoreToTen", good, generous()},
	}
	for _, c := range controls {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprintf("%s/%d", c.name, seed), func(t *testing.T) {
				t.Parallel()
				store := distant{c.store()}
				h := NewHistory()
				quick(seed, &Local{store, c.rules}, &Local{store, c.rules}).Run(t.Context(), h)
				guilty, _ := h.Check()
				if guilty == 0 {
					t.Fatalf("not caught in %s", h)
				}
				t.Logf("caught on %d accounts in %s", guilty, h)
			})
		}
	}
}
