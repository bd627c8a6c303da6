// Package faults shows that the vault's counting survives what happens to
// machines: clients run the operations of rules over a record store while its
// processes are killed, paused, cut off or lose power, and a checker that is not
// ours (porcupine) says whether what they were answered is the history of one
// sequential account. Nothing shipped links it.
//
// What is driven is rules + record + the store's Load and Swap, in the loop that
// package vault has around them. OPAQUE and the HSM are left out: they decide
// nothing about the counter, and would make the runs ten times slower.
package faults

import (
	"context"

	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/record"
)

// Kind is what an operation does.
type Kind uint8

// The operations.
const (
	Status   Kind = iota + 1 // look at the record
	Charge                   // a new attempt, or the same element once more
	Restore                  // a KE3 that verified
	Fail                     // an abort, or a KE3 that did not verify
	Register                 // over no live record
	Replace                  // over the owner's live record
	Delete                   // by the owner
)

func (k Kind) String() string {
	return [...]string{"?", "status", "charge", "restore", "fail", "register", "replace", "delete"}[k]
}

// Op is one operation on one account. Numbers stand for what is random bytes in
// the vault.
type Op struct {
	Kind         Kind
	Account      uint64
	Device       uint8
	Attempt      uint64 // Charge, Restore, Fail: the blinded element
	Charge       uint64 // Restore: the number that the attempt was charged under
	Generation   uint64 // Register, Replace: the one to make; Restore, Fail, Delete: of the record
	Registration uint64 // Register, Replace: its id; a repetition has the same
}

// Result is what an operation answered, and the record that it left or saw.
type Result struct {
	Status     frame.Status
	Charge     uint64 // Charge: the number it has
	State      record.State
	Generation uint64
	Charges    uint64
	Base       uint64
}

// Node is one vault. An error that wraps recordstore.ErrUnknown means that the
// operation was done, was not, or may still be; any other, that it was not and
// will not be.
type Node interface {
	Do(ctx context.Context, op Op) (Result, error)
}
