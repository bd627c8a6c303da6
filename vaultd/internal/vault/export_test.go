package vault

import (
	"context"

	"chatvault/protocol/ticket"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
)

// Stored reads what is durable of an account, past every decorator of the store
// and of the HSM.
func Stored(fleet string, store recordstore.Store, module hsm.Module, a ticket.Account) (*record.Record, error) {
	s := &records{fleet: fleet, epoch: 1, store: store, hsm: module}
	id, err := s.accountID(context.Background(), a)
	if err != nil {
		return nil, err
	}
	r, _, err := s.load(context.Background(), id)
	return r, err
}

// RecordID is where an account's record is stored.
func RecordID(module hsm.Module, a ticket.Account) (recordstore.ID, error) {
	return (&records{hsm: module}).accountID(context.Background(), a)
}
