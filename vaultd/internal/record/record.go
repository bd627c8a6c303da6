// Package record is what the vault keeps for one account: its fields, and their
// one encoding of one size. What may happen to a record is decided in package
// rules; how it is sealed and stored, in package vault.
package record

import (
	"chatvault/protocol/opaque"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/hsm"
)

// The bounds of a record.
const (
	MaxEntries      = 10 // the attempts that a password has
	MaxClaims       = vaultmsg.MaxClaims
	MaxEvents       = vaultmsg.MaxEvents
	MaxReplacements = 3 // by the owner device in 24 hours without a KE3
	// MaxMisses is how many refusals of other elements of its device an attempt
	// outlives.
	MaxMisses = 3
)

// State says what a record is.
type State uint8

// The states. A record that is not live is a tombstone: it holds no key, and
// keeps the generation for ever.
const (
	Live      State = 1
	Destroyed State = 2 // ten wrong passwords
	Deleted   State = 3 // by a device or an operator
	Decoy     State = 4 // belongs to no account: written where an answer writes nothing
	// Permits is the fleet's one record of what its nodes have leased in an hour:
	// RegisteredAt is when the hour began, Replaced how many charges, and
	// ReplacedFailures how many last charges.
	Permits State = 5
	// Swept says of a shard of the records when it was swept: RegisteredAt is when
	// the last sweep that ended began, NotBefore until when a node is at it.
	Swept State = 6
)

// Record is one account's record. Times are Unix seconds, 0 for never.
type Record struct {
	State      State
	Generation uint64 // which registration of the account this is, from 1

	// Counting. Attempts left = MaxEntries − (Charges − Base).
	Charges   uint64  // C: every attempt ever charged in this generation
	Base      uint64  // B: the charge of the last attempt that succeeded
	Entries   []Entry // at most MaxEntries, in the order of their charges
	NotBefore uint64  // pacing: no new attempt off the owner device before this

	// The registration, as its RegisterFinish and its receipt told it. A
	// tombstone keeps these, so that a repeated finish gets the same receipt.
	Registration     vaultmsg.RegistrationID
	BodyHash         [vaultmsg.HashSize]byte
	Replaced         uint64
	ReplacedFailures uint32
	RegisteredBy     vaultmsg.Thumbprint
	RegisteredAt     uint64
	ReceiptSignature [64]byte

	// The secrets, all zero in a tombstone.
	OPRFKey    [hsm.WrappedSize]byte // wrapped by the HSM
	OPRFPublic [hsm.PointSize]byte
	OPAQUE     [opaque.RegistrationRecordSize]byte
	Wrap       [vaultmsg.WrapSize]byte
	KSF        opaque.Argon2id

	// Who may do what.
	Owner        vaultmsg.Thumbprint
	Replacements [MaxReplacements]uint64 // newest first; cleared by a KE3, kept by a tombstone
	Claims       []Claim                 // at most MaxClaims

	Events []vaultmsg.Event // at most MaxEvents, newest first
}

// Entry is an attempt that was charged: the same element goes on, uncharged.
type Entry struct {
	Attempt  [32]byte // vaultmsg.AttemptID
	Charge   uint64   // its number, from 1
	Time     uint64
	Open     bool    // no verdict yet: a record that is used up waits for it
	OffOwner bool    // by a device that was not the owner then
	Device   [8]byte // the first bytes of its thumbprint
	// Misses counts what the device was refused since: each refusal tells whoever
	// holds it that the password of this attempt is another one. Missed is the last
	// of them, the first bytes of its attempt id.
	Misses uint8
	Missed [8]byte
}

// Claim is a device's announced wish to replace or delete the record.
type Claim struct {
	ID     vaultmsg.ClaimID
	Device vaultmsg.Thumbprint
	What   vaultmsg.ClaimKind
	Made   uint64
}

// Left is the number of attempts left.
func (r *Record) Left() int {
	if r.State != Live {
		return 0
	}
	return MaxEntries - int(r.Charges-r.Base)
}

// Failures is the number of charges since the last success.
func (r *Record) Failures() uint32 { return uint32(r.Charges - r.Base) }

// Clone returns a copy that shares nothing with r.
func (r Record) Clone() Record {
	r.Entries = append([]Entry(nil), r.Entries...)
	r.Claims = append([]Claim(nil), r.Claims...)
	r.Events = append([]vaultmsg.Event(nil), r.Events...)
	return r
}
