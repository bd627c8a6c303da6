// Package faults shows that the vault's counting survives what happens to
// machines: clients run the vault's operations over a record store while its
// processes are killed, paused, cut off or lose power, and a checker that is not
// ours (porcupine) says whether what they were answered is the history of one
// sequential account. Nothing shipped links it.
//
// There are two kinds of nodes. Local is rules + record + the store's Load and
// Swap, in the loop that package vault has around them: OPAQUE and the HSM decide
// nothing about the counter, and make a run many times slower. Phones drives
// package vault itself, by its messages, with an HSM in memory.
package faults

import (
	"context"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
)

// Kind is what an operation does.
type Kind uint8

// The operations.
const (
	Status         Kind = iota + 1 // look at the record
	Charge                         // a new attempt, or the same element once more
	Restore                        // a KE3 that verified
	Fail                           // an abort, or a KE3 that did not verify
	RegisterStart                  // may this device register?
	RegisterFinish                 // store what was started
	Delete                         // by the owner, or by a ripe claim
	Claim                          // to replace or delete another device's record
	Cancel                         // a claim
)

func (k Kind) String() string {
	return [...]string{"?", "status", "charge", "restore", "fail", "start", "finish", "delete", "claim", "cancel"}[k]
}

// Op is one operation on one account. Numbers stand for what is random bytes in
// the vault. What only the node knows (which ids the vault made, what its session
// remembers) it fills in.
type Op struct {
	Kind         Kind
	Account      uint64
	Device       uint8
	Now          uint64 // Unix seconds, on every machine
	Attempt      uint64 // Charge, Restore, Fail: the blinded element
	Told, ToldIn uint64 // Charge: the base of which the session was told, and its generation
	Charge       uint64 // Restore: the number that the attempt was charged under
	Generation   uint64 // RegisterStart, RegisterFinish: the one to make; else of the record
	Purpose      vaultmsg.Purpose
	KE3          bool   // RegisterStart, RegisterFinish: after a KE3 in the same session
	Registration uint64 // RegisterFinish: its id; a repetition has the same
	What         vaultmsg.ClaimKind
	Claim        uint64 // Claim: the id it gets, if it is new; Cancel: which
}

// Result is what an operation answered, and the record that it left or saw.
type Result struct {
	Status     frame.Status
	Until      uint64
	Charge     uint64 // Charge: the number it has
	Claim      uint64 // Claim: its id
	State      record.State
	Generation uint64
	Charges    uint64
	Base       uint64
	Left       uint8 // attempts
}

// Node is one vault. It completes op, also when it fails. An error that wraps
// recordstore.ErrUnknown means that the operation was done, was not, or may still
// be; any other, that it was not and will not be.
type Node interface {
	Do(ctx context.Context, op *Op) (Result, error)
}
