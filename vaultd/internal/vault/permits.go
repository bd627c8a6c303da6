package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
)

// permitKind is what the fleet caps.
type permitKind int

const (
	permitCharge permitKind = iota // every charge
	permitLast                     // those after which no attempt is left
	permitKinds
)

const (
	permitHour = 3600 // s
	// permitBlocks is into how many blocks an hour's permits are divided. A node
	// leases a block at a time: one read and one write for so many charges, and a
	// node that dies takes no more than a block with it.
	permitBlocks = 64
)

var (
	// errNoPermit says that the node's block is used up, and another may be had.
	errNoPermit = errors.New("no permit left on this node")
	// errSpent says that the fleet's permits of this hour are used up.
	errSpent = errors.New("no permit left in this hour")
)

// permits caps what the fleet does in an hour. chatd's limits do not bind a
// corrupted chatd; so what burns attempts or destroys keys wholesale is slowed
// down here (A19). All nodes lease from one sealed record in their store, by
// compare-and-swap. It fails closed: no permit, no charge.
//
// Hours are those of the node whose clock is fastest: what the record says never
// goes back, and a node that is behind leases from the record's hour. In any hour of
// the clock there are so at most twice the permits of an hour, half of them around
// each change. A nil permits caps nothing.
type permits struct {
	// static after construction
	records *records
	now     func() time.Time
	log     *slog.Logger
	max     [permitKinds]uint64 // by kind; 0: no cap

	leasing chan struct{} // held while this node leases

	mu     sync.Mutex // guards all below
	hour   uint64     // that the rest is of: its beginning, Unix seconds
	left   [permitKinds]uint64
	spent  [permitKinds]bool // the fleet has leased all of them
	warned uint64            // the hour of the last warning
}

// newPermits caps charges and last charges in an hour; 0 means no cap.
func newPermits(s *records, now func() time.Time, log *slog.Logger, charges, last int) *permits {
	if charges == 0 && last == 0 {
		return nil
	}
	return &permits{records: s, now: now, log: log, leasing: make(chan struct{}, 1),
		max: [permitKinds]uint64{permitCharge: uint64(charges), permitLast: uint64(last)}}
}

func hourOf(t time.Time) uint64 { return uint64(t.Unix()) / permitHour * permitHour }

// roll forgets what was leased in an hour that is over. It is called with mu held.
func (p *permits) roll() {
	if h := hourOf(p.now()); h > p.hour {
		p.hour, p.left, p.spent = h, [permitKinds]uint64{}, [permitKinds]bool{}
	}
}

// wants says whether a kind has to be leased. It is called with mu held.
func (p *permits) wants(k permitKind) bool { return p.max[k] > 0 && p.left[k] == 0 && !p.spent[k] }

// wanting says whether any kind has to be leased.
func (p *permits) wanting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roll()
	return p.wants(permitCharge) || p.wants(permitLast)
}

// ready leases a block if there is none left, before anybody knows what it will be
// for: the attempt that pays for a block is any, whatever its outcome (A11).
func (p *permits) ready(ctx context.Context) error {
	if p == nil {
		return nil
	}
	if !p.wanting() {
		return nil
	}
	select {
	case p.leasing <- struct{}{}:
		defer func() { <-p.leasing }()
	case <-ctx.Done():
		return fmt.Errorf("lease permits: %w", ctx.Err())
	}
	if !p.wanting() {
		return nil // somebody has leased for us while we waited
	}
	id, err := p.records.id(ctx, "chatvault/1 permits", nil)
	if err != nil {
		return err
	}
	for {
		// A block whose swap fails, or may have been stored, is not used.
		if err := p.lease(ctx, id); !errors.Is(err, recordstore.ErrConflict) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("lease permits: %w", err)
		}
	}
}

// lease tries once to take a block of each kind that is wanted.
func (p *permits) lease(ctx context.Context, id recordstore.ID) error {
	r, version, err := p.records.load(ctx, id)
	if err != nil {
		// Named for who has to mend it: this id is the fleet's, and no account's.
		return fmt.Errorf("lease permits: record %s: %w", id, err)
	}
	if r == nil {
		r = &record.Record{State: record.Permits}
	}
	if r.State != record.Permits {
		return fmt.Errorf("lease permits: record %s: %w: a record of state %d stands there", id, errCorrupt, r.State)
	}
	p.mu.Lock()
	p.roll()
	if r.RegisteredAt < p.hour {
		*r = record.Record{State: record.Permits, RegisteredAt: p.hour}
	}
	if r.RegisteredAt > p.hour {
		p.ahead(r.RegisteredAt)
	}
	leased := [permitKinds]uint64{r.Replaced, uint64(r.ReplacedFailures)}
	var block [permitKinds]uint64
	for k := range permitKinds {
		if p.wants(k) {
			block[k] = min(max(p.max[k]/permitBlocks, 1), p.max[k]-min(p.max[k], leased[k]))
			p.spent[k] = block[k] == 0
		}
	}
	p.mu.Unlock()
	if block == [permitKinds]uint64{} {
		return nil // another goroutine was first, or nothing is left to lease
	}
	r.Replaced, r.ReplacedFailures = leased[permitCharge]+block[permitCharge], uint32(leased[permitLast]+block[permitLast])
	if err := p.records.swap(ctx, id, version, r); err != nil {
		return fmt.Errorf("lease permits: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.roll(); p.hour == r.RegisteredAt {
		for k := range permitKinds {
			p.left[k] += block[k]
		}
	}
	return nil
}

// ahead goes over to the hour of a node whose clock is faster. It is called with mu
// held.
func (p *permits) ahead(hour uint64) {
	p.hour, p.left, p.spent = hour, [permitKinds]uint64{}, [permitKinds]bool{}
	if by := hour - hourOf(p.now()); by > permitHour && p.warned != hour {
		p.warned = hour
		p.log.Warn("another vault's clock is ahead: its hour's permits have to do until then", "seconds", by)
	}
}

// take takes one of each kind, or none: errNoPermit, or errSpent and when there
// will be more.
func (p *permits) take(kinds ...permitKind) (t taken, until uint64, err error) {
	if p == nil {
		return taken{}, 0, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roll()
	for _, k := range kinds {
		switch {
		case p.max[k] == 0 || p.left[k] > 0:
		case p.spent[k]:
			return taken{}, p.hour + permitHour, errSpent
		default:
			return taken{}, 0, errNoPermit
		}
	}
	for _, k := range kinds {
		if p.max[k] > 0 {
			p.left[k]--
		}
	}
	return taken{p: p, hour: p.hour, kinds: kinds}, 0, nil
}

// give puts back what was taken, unless its hour is over.
func (p *permits) give(hour uint64, kinds []permitKind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.roll(); p.hour != hour {
		return
	}
	for _, k := range kinds {
		if p.max[k] > 0 {
			p.left[k]++
		}
	}
}
