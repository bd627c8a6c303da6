package memstore_test

import (
	"testing"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/memstore"
	"chatvault/vaultd/internal/recordstore/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Maker{New: func(*testing.T) recordstore.Store { return memstore.New() }})
}
