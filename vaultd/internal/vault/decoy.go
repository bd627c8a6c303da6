package vault

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"

	"chatvault/protocol/opaque"
	"chatvault/protocol/ticket"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
)

// decoy is what a refused attempt is evaluated with. The relay sees when a reply
// comes; without the same work and the same write it would see who is locked and
// who never registered (A11).
type decoy struct {
	wrapped, public []byte
	record          opaque.RegistrationRecord
}

func newDecoy(ctx context.Context, m hsm.Module) (d decoy, err error) {
	if d.wrapped, d.public, err = m.NewOPRFKey(ctx); err != nil {
		return d, err
	}
	// Any element will do for a client public key: nobody has its private key.
	_, public, err := m.NewOPRFKey(ctx)
	copy(d.record.ClientPublicKey[:], public)
	return d, err
}

// pretend evaluates for an attempt that is not one, and drops the result: a record
// was loaded and one was written already, as for any other attempt. Its failures
// change nothing: the refusal stands.
func (v *Vault) pretend(ctx context.Context, a ticket.Account, ke1 opaque.KE1) {
	_, state, err := opaque.GenerateKE2(ctx, opaque.ServerParams{
		ServerIdentity: []byte(v.cfg.Fleet), ServerPublicKey: v.serverPublic,
		Evaluate: v.evaluate(v.decoy.wrapped, v.decoy.public), DH: v.staticDH,
	}, v.decoy.record, a.Bytes(), ke1)
	if err == nil {
		state.Wipe()
	}
}

// decoys are the records of nobody that are written where an answer writes
// nothing: a bounded number, so that strangers cannot fill the store. Where each is and
// its version are remembered, so that writing one costs no more than a charge. That
// takes decoys that no other node writes: whoever meets another looks for another.
type decoys struct {
	mu    sync.Mutex // guards known
	known map[byte]place
}

type place struct {
	id      recordstore.ID
	version recordstore.Version
}

const (
	// decoyLanes is how many decoys there are for each first byte of an account's
	// hash: enough for the nodes of a fleet to keep out of each other's way.
	decoyLanes = 16
	// decoyTries bounds how often a decoy is written against others who write it.
	decoyTries = 4
)

// write stores a decoy for the account, durably; with a load before it, as a verdict
// has.
func (d *decoys) write(ctx context.Context, v *Vault, a ticket.Account, load bool) error {
	shard := a.Hash()[0]
	d.mu.Lock()
	at, ok := d.known[shard]
	d.mu.Unlock()
	var err error
	for range decoyTries {
		if !ok {
			load = true
			if at.id, err = v.records.id(ctx, "chatvault/1 decoy", []byte{shard, byte(rand.IntN(decoyLanes))}); err != nil {
				return err
			}
		}
		if load {
			if _, at.version, err = v.records.load(ctx, at.id); err != nil {
				break
			}
		}
		r := record.Record{State: record.Decoy, RegisteredAt: uint64(v.cfg.Now().Unix())}
		if err = v.records.swap(ctx, at.id, at.version, &r); !errors.Is(err, recordstore.ErrConflict) {
			break
		}
		ok = false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		delete(d.known, shard)
		return err
	}
	at.version++
	d.known[shard] = at
	return nil
}
