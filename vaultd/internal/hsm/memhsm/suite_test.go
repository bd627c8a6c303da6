package memhsm_test

import (
	"testing"

	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/hsmtest"
	"chatvault/vaultd/internal/hsm/memhsm"
)

func TestSuite(t *testing.T) {
	hsmtest.Run(t, func(t *testing.T) hsm.Module {
		m, err := memhsm.New()
		if err != nil {
			t.Fatal(err)
		}
		return m
	})
}
