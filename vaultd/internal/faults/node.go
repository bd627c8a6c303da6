package faults

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/rules"
)

// Rules are the rules that a node goes by: the vault's, or in a negative control
// broken ones.
type Rules struct {
	Charge  func(*record.Record, rules.Attempt, time.Time, rules.Params) (uint64, rules.Verdict)
	Restore func(r *record.Record, a rules.Attempt, generation, charge uint64, now time.Time) rules.Verdict
}

// Vault is the rules that the vault has.
func Vault() Rules { return Rules{Charge: rules.Charge, Restore: rules.Restore} }

// Local is a node in this process.
type Local struct {
	Store recordstore.Store
	Rules Rules
	// Trusting is broken: what a read that may be stale shows is answered, where the
	// rules store nothing.
	Trusting bool
}

var _ Node = (*Local)(nil)

// Do implements Node, as package vault does it: load, ask the rules, swap, and
// all of that again if somebody else was first. A charge begins on a read that may
// be stale, and takes from it nothing but a swap.
func (n *Local) Do(ctx context.Context, op *Op) (Result, error) {
	id := recordID(op.Account)
	for stale := op.Kind == Charge; ; stale = false {
		load := n.Store.Load
		if stale {
			load = n.Store.LoadStale
		}
		data, version, err := load(ctx, id)
		if err != nil {
			return Result{}, fmt.Errorf("load: %w", err)
		}
		var r *record.Record
		if version != 0 {
			decoded, err := record.Decode(data)
			if err != nil {
				return Result{}, err
			}
			r = &decoded
		}
		result, next, write := n.decide(r, *op)
		if !write && stale && !n.Trusting {
			continue
		}
		if !write {
			return result, nil
		}
		_, err = n.Store.Swap(ctx, id, version, next.Encode())
		if err == nil {
			return result, nil
		}
		if !errors.Is(err, recordstore.ErrConflict) {
			return Result{}, fmt.Errorf("swap: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
	}
}

// decide asks the rules. next is what has to be stored, if write is set.
func (n *Local) decide(r *record.Record, op Op) (result Result, next *record.Record, write bool) {
	var v rules.Verdict
	var charge, claim uint64
	now, p, device := time.Unix(int64(op.Now), 0), rules.Defaults(), thumbprint(op.Device)
	attempt := rules.Attempt{ID: attemptID(op.Attempt), Device: device}
	if r != nil && r.Generation == op.ToldIn {
		attempt.Told = op.Told
	}
	switch op.Kind {
	case Status:
		v.Write = r != nil && rules.Settle(r, now, p)
	case Charge:
		charge, v = n.Rules.Charge(r, attempt, now, p)
	case Restore:
		v = n.Rules.Restore(r, attempt, op.Generation, op.Charge, now)
	case Fail:
		v = rules.Fail(r, attempt, op.Generation, vaultmsg.EventFailed, now, p)
	case RegisterStart:
		_, v = rules.MayRegister(r, registration(op), now, p)
	case RegisterFinish:
		r, v = register(r, op, now, p)
	case Delete:
		v = rules.Delete(r, device, op.Generation, now, p)
	case Claim:
		var made record.Claim
		made, v = rules.AddClaim(r, device, op.What, op.Generation, claimID(op.Claim), now, p)
		claim = binary.BigEndian.Uint64(made.ID[:])
	case Cancel:
		v = rules.Cancel(r, device, claimID(op.Claim), now, p)
	}
	result = Result{Status: v.Status, Until: v.Until, Charge: charge, Claim: claim}
	result.see(r)
	return result, r, v.Write
}

// see notes what a record shows.
func (r *Result) see(from *record.Record) {
	if from != nil {
		r.State, r.Generation, r.Charges, r.Base = from.State, from.Generation, from.Charges, from.Base
		r.Left = uint8(from.Left())
	}
}

func registration(op Op) rules.Registration {
	return rules.Registration{
		ID: registrationID(op.Registration), Device: thumbprint(op.Device),
		Purpose: op.Purpose, Generation: op.Generation, KE3: op.KE3,
	}
}

// register is a RegisterFinish: stored already, refused, or the next generation.
func register(r *record.Record, op Op, now time.Time, p rules.Params) (*record.Record, rules.Verdict) {
	g := registration(op)
	if r != nil && r.Registration == g.ID {
		return r, rules.Verdict{Status: frame.OK}
	}
	auth, v := rules.MayRegister(r, g, now, p)
	if auth == rules.NoAuthority {
		return r, v
	}
	next := rules.Register(r, g, auth, record.Record{}, now)
	return &next, rules.Verdict{Status: frame.OK, Write: true}
}

// What stands for a number in a record.

func recordID(n uint64) (id recordstore.ID) {
	// The first byte picks the stripe of a store that has stripes.
	id[0] = byte(n)
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

func attemptID(n uint64) (id [32]byte) {
	binary.LittleEndian.PutUint64(id[:], n) // a record remembers the start of one
	return id
}

func thumbprint(n uint8) (t vaultmsg.Thumbprint) {
	t[0] = n
	return t
}

func registrationID(n uint64) (id vaultmsg.RegistrationID) {
	binary.BigEndian.PutUint64(id[:], n)
	return id
}

func claimID(n uint64) (id vaultmsg.ClaimID) {
	binary.BigEndian.PutUint64(id[:], n)
	return id
}
