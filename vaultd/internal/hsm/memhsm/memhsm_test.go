package memhsm_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/memhsm"
)

func TestCloneHoldsTheSameKeys(t *testing.T) {
	ctx := context.Background()
	m, err := memhsm.New()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := m.Seal(ctx, 3, []byte("aad"), []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Open(ctx, 3, []byte("aad"), sealed); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("after Close: %v, want ErrUnavailable", err)
	}
	opened, err := m.Clone().Open(ctx, 3, []byte("aad"), sealed)
	if err != nil || !bytes.Equal(opened, []byte("text")) {
		t.Errorf("clone opened %q, %v", opened, err)
	}
	other, err := memhsm.New()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(ctx, 3, []byte("aad"), sealed); !errors.Is(err, hsm.ErrIntegrity) {
		t.Errorf("another module opened it: %v", err)
	}
}
