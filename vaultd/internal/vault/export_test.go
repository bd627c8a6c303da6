package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"chatvault/protocol/ticket"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/memhsm"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/pebblestore"
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

// Node is a vault node's share in the fleet's caps, by itself.
type Node struct{ p *permits }

// NewNode makes one that caps charges only.
func NewNode(store recordstore.Store, module hsm.Module, now func() time.Time, charges int) Node {
	s := &records{fleet: "test", epoch: 1, store: store, hsm: module}
	return Node{newPermits(s, now, slog.New(slog.DiscardHandler), charges, 0)}
}

// Charge takes a permit as a charge does: ok, or paced until the time told.
func (n Node) Charge(ctx context.Context) (ok bool, until uint64, err error) {
	for {
		if err := n.p.ready(ctx); err != nil {
			return false, 0, err
		}
		_, until, err := n.p.take(permitCharge)
		if errors.Is(err, errNoPermit) {
			continue
		}
		return err == nil, until, nil
	}
}

// Filled is a store on this machine with so many live records in it, and their HSM.
func Filled(tb testing.TB, n int) (recordstore.Store, hsm.Module) {
	tb.Helper()
	store, err := pebblestore.Open(tb.TempDir(), pebblestore.Options{Create: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { store.Close() })
	module, err := memhsm.New()
	if err != nil {
		tb.Fatal(err)
	}
	s := &records{fleet: "test", epoch: 1, store: store, hsm: module}
	var wg sync.WaitGroup
	for worker := range 32 {
		wg.Go(func() {
			for i := worker; i < n; i += 32 {
				id, err := s.id(tb.Context(), "chatvault/1 record", []byte(strconv.Itoa(i)))
				if err == nil {
					err = s.swap(tb.Context(), id, 0, &record.Record{State: record.Live, Generation: 1})
				}
				if err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return store, module
}

// Populate makes a tombstone in every shard.
func Populate(fleet string, store recordstore.Store, module hsm.Module) error {
	s := &records{fleet: fleet, epoch: 1, store: store, hsm: module}
	for shard := range sweepShards {
		id := recordstore.ID{0: byte(shard), 15: 1}
		if err := s.swap(context.Background(), id, 0, &record.Record{State: record.Deleted, Generation: 1}); err != nil {
			return err
		}
	}
	return nil
}

// DamageSweeps puts garbage, or a record of another kind, where the records of all
// sweeps are.
func DamageSweeps(fleet string, store recordstore.Store, module hsm.Module) error {
	ctx := context.Background()
	s := &records{fleet: fleet, epoch: 1, store: store, hsm: module}
	for shard := range sweepShards {
		id, err := s.id(ctx, "chatvault/1 sweep", []byte{byte(shard)})
		if err != nil {
			return err
		}
		id[0] = byte(shard)
		_, version, err := store.Load(ctx, id)
		if err != nil {
			return err
		}
		if shard%2 == 0 {
			_, err = store.Swap(ctx, id, version, []byte("garbage"))
		} else {
			err = s.swap(ctx, id, version, &record.Record{State: record.Decoy})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// DamagePermits puts garbage where the fleet's permits are.
func DamagePermits(store recordstore.Store, module hsm.Module) (recordstore.ID, error) {
	id, err := (&records{hsm: module}).id(context.Background(), "chatvault/1 permits", nil)
	if err != nil {
		return id, err
	}
	_, version, err := store.Load(context.Background(), id)
	if err != nil {
		return id, err
	}
	_, err = store.Swap(context.Background(), id, version, []byte("garbage"))
	return id, err
}

// MaxShares is of how many accounts a node counts charges.
const MaxShares = maxShares

// FillShares charges so many accounts once, and says of how many it is known.
func FillShares(accounts int) (kept, refused int) {
	s := newShares(time.Now, 1)
	for i := range accounts {
		id := recordstore.ID{}
		binary.BigEndian.PutUint64(id[:], uint64(i))
		if _, _, err := s.take(id); err != nil {
			refused++
		}
	}
	return len(s.charged), refused
}

// Shared is how many charges of an account this node has counted in this hour.
func (v *Vault) Shared(a ticket.Account) (int, error) {
	id, err := v.records.accountID(context.Background(), a)
	v.shares.mu.Lock()
	defer v.shares.mu.Unlock()
	return v.shares.charged[id], err
}
