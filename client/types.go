package client

import (
	"time"

	"chatvault/protocol/backupfile"
	"chatvault/protocol/opaque"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

// BackupKey is the 32 bytes that a person's backups are encrypted under.
type BackupKey = backupfile.BackupKey

// KSF is the password stretching that a registration uses.
type KSF = opaque.Argon2id

// The inner protocol's words that appear in this API.
type (
	// State says what stands under an account.
	State = vaultmsg.State
	// ClaimKind says what a claim will allow.
	ClaimKind = vaultmsg.ClaimKind
	// ClaimID names a claim.
	ClaimID = vaultmsg.ClaimID
	// RegistrationID names a registration.
	RegistrationID = vaultmsg.RegistrationID
	// EventKind says what happened.
	EventKind = vaultmsg.EventKind
)

// Values of State, ClaimKind and EventKind.
const (
	StateNone      = vaultmsg.StateNone
	StateLive      = vaultmsg.StateLive
	StateDestroyed = vaultmsg.StateDestroyed
	StateDeleted   = vaultmsg.StateDeleted

	ClaimReplace = vaultmsg.ClaimReplace
	ClaimDelete  = vaultmsg.ClaimDelete

	EventRegistered  = vaultmsg.EventRegistered
	EventReplaced    = vaultmsg.EventReplaced
	EventCharged     = vaultmsg.EventCharged
	EventRecovered   = vaultmsg.EventRecovered
	EventFailed      = vaultmsg.EventFailed
	EventDestroyed   = vaultmsg.EventDestroyed
	EventDeleted     = vaultmsg.EventDeleted
	EventClaimed     = vaultmsg.EventClaimed
	EventClaimGone   = vaultmsg.EventClaimGone
	EventWrongFinish = vaultmsg.EventWrongFinish
)

// Status is what the vault tells a ticketed device about its account.
type Status struct {
	Fleet   string
	Issuer  string // the issuer's configured name
	Subject string // the ticket's sub
	State   State
	// Owner: this device owns the record.
	Owner bool
	// Generation numbers the account's registrations, from 1; 0 when there
	// was none.
	Generation uint64
	// AttemptsLeft, 0 to 10; 0 unless State is StateLive.
	AttemptsLeft int
	// Failures are the attempts charged since the last success; OtherFailures
	// those of them by devices other than the owner's.
	Failures      int
	OtherFailures int
	Registration  RegistrationID
	BodyHash      [32]byte // SHA-256(RegistrationRecord ‖ wrap ‖ KSF)
	KSF           KSF      // zero unless State is StateLive
	Claims        []Claim
	Events        []Event // newest first, at most 8
}

// Claim is a standing claim: a right to replace or delete that ripens.
type Claim struct {
	ID      ClaimID
	What    ClaimKind
	Mine    bool      // made by this device
	Ripe    time.Time // from then on the claimant may act, with a fresh ticket
	Expires time.Time
}

// Event is one line of a record's history.
type Event struct {
	Kind   EventKind
	Time   time.Time
	Device [4]byte // the first bytes of the device's thumbprint
	Mine   bool    // this device's, as far as four bytes tell
}

// Receipt is the vault's signed word that a registration is stored. The
// signature has been verified.
type Receipt struct {
	ID               RegistrationID
	Generation       uint64
	Replaced         uint64 // the live generation that it replaced, 0 for none
	ReplacedFailures int    // attempts charged on that one since its last success
	Owner            ticket.Thumbprint
	Time             time.Time
	Signed           []byte // 172 bytes, as vaultmsg.ParseReceipt reads them
}

// RegisterOptions change how a registration is made. The zero value is right
// for almost everybody.
type RegisterOptions struct {
	// KSF; zero means opaque.DefaultArgon2id (64 MiB, 3 passes, 4 lanes).
	KSF KSF
	// Accept lists what a person has been shown and has decided to go past.
	Accept []Story
}

// Recovered is what Recover brings back.
type Recovered struct {
	Key        BackupKey
	Generation uint64
	// FailuresBefore are the attempts charged between the success before this
	// one and this one. When the person did not make them, somebody else did.
	FailuresBefore int
	// AttemptsLeft is ten, less what was charged to others after this attempt.
	AttemptsLeft int
	// Events of the record before this recovery, newest first.
	Events []Event
}
