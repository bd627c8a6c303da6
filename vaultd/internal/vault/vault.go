// Package vault is what one vault node does with a request: it authorises,
// loads the record, asks the rules, stores, and only then evaluates and answers.
//
// It links neither PKCS#11 nor any network: the HSM and the store are
// interfaces, and a request comes as bytes from package session.
package vault

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/ticket"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/rules"
)

// Config is what a vault is made of.
type Config struct {
	Fleet    string
	Store    recordstore.Store
	HSM      hsm.Module
	Tickets  *ticket.Verifier
	Params   rules.Params
	Epoch    uint32        // of the seal key that new records get, from 1
	AKE      time.Duration // how long a KE3 may follow its KE2; 60 s
	Pending  time.Duration // how long a registration may be finished; 10 min
	MaxStart int           // registrations in progress on this node; 10,000
	// MaxCharges and MaxLocks cap the fleet's charges in an hour, and those of them
	// that take an account's last attempt; beyond: paced, uncharged. The same on
	// all nodes of a store. 0 caps nothing.
	MaxCharges, MaxLocks int
	// MaxAccountCharges caps this node's charges of one account in an hour, as the
	// fleet's are: one account must not take what all share. 0 caps nothing.
	MaxAccountCharges int
	Sweepers          int // shards swept at a time, and so operations of the HSM; 4
	// Count, if set, hears of each Event once it is stored. It must not block.
	Count func(Event)
	Now   func() time.Time
	// Elapsed is time as a clock has it that nobody sets, since any moment: Now is
	// held against it. Default: the system's, or Now's when Now is set.
	Elapsed func() time.Duration
	Logger  *slog.Logger
}

// Vault is one node's vault. All methods are safe for concurrent use.
type Vault struct {
	cfg          Config
	records      *records
	pending      *pending
	serverPublic []byte // the OPAQUE key, compressed, 33 bytes
	decoy        decoy
	decoys       decoys
	permits      *permits
	shares       *shares
	dueAt        dueTimes
	clock        *clock
	locks        [256]chan struct{} // by record id: spares colliding swaps, guards nothing
}

// New readies a vault: it asks the HSM for its public key, and for a decoy OPRF
// key that makes refusals cost what evaluations do.
func New(ctx context.Context, cfg Config) (*Vault, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	clock := newClock(&cfg)
	if cfg.Count == nil {
		cfg.Count = func(Event) {}
	}
	if cfg.AKE == 0 {
		cfg.AKE = time.Minute
	}
	if cfg.Pending == 0 {
		cfg.Pending = 10 * time.Minute
	}
	if cfg.MaxStart == 0 {
		cfg.MaxStart = 10_000
	}
	if cfg.Sweepers == 0 {
		cfg.Sweepers = 4
	}
	if cfg.Epoch < 1 || cfg.Epoch > hsm.Epochs {
		return nil, fmt.Errorf("epoch %d: the fleet has seal keys 1 to %d", cfg.Epoch, hsm.Epochs)
	}
	public, err := cfg.HSM.Public(ctx, hsm.Opaque)
	if err != nil {
		return nil, fmt.Errorf("opaque public key: %w", err)
	}
	v := &Vault{cfg: cfg, decoys: decoys{known: make(map[byte]place)}, pending: newPending(cfg.Pending, cfg.MaxStart), clock: clock}
	for i := range v.locks {
		v.locks[i] = make(chan struct{}, 1)
	}
	if v.serverPublic, err = oprf.Compress(public); err != nil {
		return nil, fmt.Errorf("opaque public key: %w", err)
	}
	v.records = &records{fleet: cfg.Fleet, epoch: cfg.Epoch, store: cfg.Store, hsm: cfg.HSM}
	v.permits = newPermits(v.records, clock.believed, cfg.Logger, cfg.MaxCharges, cfg.MaxLocks)
	v.shares = newShares(clock.believed, cfg.MaxAccountCharges)
	if v.decoy, err = newDecoy(ctx, cfg.HSM); err != nil {
		return nil, fmt.Errorf("decoy key: %w", err)
	}
	return v, nil
}

// lock waits for a record's lock, no longer than ctx: a store that hangs must not
// pile up goroutines behind the first that met it.
func (v *Vault) lock(ctx context.Context, id recordstore.ID) (unlock func(), err error) {
	held := v.locks[id[0]]
	select {
	case held <- struct{}{}:
		return func() { <-held }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the record: %w", ctx.Err())
	}
}

// params are the rules' times, and how far the clock is to be believed.
func (v *Vault) params() rules.Params {
	p := v.cfg.Params
	p.Doubt = v.clock.doubt()
	return p
}

// evaluate returns the OPRF evaluation under a record's wrapped key.
func (v *Vault) evaluate(wrapped, public []byte) opaque.EvaluateFunc {
	return func(ctx context.Context, blinded []byte) ([]byte, error) {
		return v.cfg.HSM.Evaluate(ctx, wrapped, public, blinded)
	}
}

// staticDH is the server's half of 3DH that needs its static key.
func (v *Vault) staticDH(ctx context.Context, peer []byte) ([]byte, error) {
	return v.cfg.HSM.DH(ctx, hsm.Opaque, peer)
}
