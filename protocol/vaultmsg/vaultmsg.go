// Package vaultmsg is the inner wire: what a client and a vault say to each
// other inside a vault session, where the relay cannot look.
//
// A request is a kind byte and its fields; a reply is a header that every reply
// has, and a body when the status is ok. Both are padded with zero bytes to one
// size, so that a recorder learns nothing from lengths. Integers are
// big-endian, times are Unix seconds, lp(x) is a u16 length, then x.
//
//	phone                                        vault
//	  |--- Authorise (3,072) --------------------->|  ticket, proof over h
//	  |<-- AccountStatus --------------------------|
//
//	registering                                   recovering
//	  |--- RegisterStart ->|  fresh key             |--- RecoverStart (KE1) ->|  CHARGE, evaluate
//	  |<-- RegisterStarted |                        |<-- RecoverStarted (KE2) |
//	  |--- RegisterFinish >|  swap n → n+1          |--- RecoverFinish (KE3) >|  restore
//	  |<-- Receipt --------|                        |<-- Recovered (key) -----|
//	                                                |   or Abort ------------>|  the charge stands
package vaultmsg

import (
	"errors"

	"chatvault/protocol/frame"
	"chatvault/protocol/opaque"
)

// Sizes of messages before the 16 bytes of Noise tag.
const (
	AuthoriseSize = 3072 // the Authorise request
	Size          = 512  // every other request, and every reply
)

// Kind is the first byte of a request, and of its reply.
type Kind uint8

// Every request there is, with its body, and the body of its reply.
const (
	KAuthorise      Kind = 1  // device key 65 ‖ signature 64 ‖ lp(ticket)                       → AccountStatus
	KStatus         Kind = 2  // (empty)                                                         → AccountStatus
	KRegisterStart  Kind = 3  // purpose u8 ‖ expected generation u64 ‖ RegistrationRequest 33   → RegisterStarted
	KRegisterFinish Kind = 4  // registration id 16 ‖ RegistrationRecord 129 ‖ wrap 128 ‖ KSF 9  → Receipt
	KRecoverStart   Kind = 5  // KE1 98                                                          → RecoverStarted
	KRecoverFinish  Kind = 6  // KE3 32                                                          → Recovered
	KAbort          Kind = 7  // (empty)                                                         → (empty)
	KDelete         Kind = 8  // expected generation u64                                         → (empty)
	KClaim          Kind = 9  // claim kind u8 ‖ expected generation u64                         → Claimed
	KCancel         Kind = 10 // claim id 16                                                     → (empty)
)

// Sizes of fields, in bytes.
const (
	RegistrationIDSize = 16
	WrapSize           = 128 // type u8 ‖ value, zero-padded
	ReleaseSize        = WrapSize + 16
	HashSize           = 32
	MaxIssuerName      = 128
	MaxClaims          = 4
	MaxEvents          = 8
)

// WrapKey64 is the wrap type of a backup key under keywrap: 64 bytes of value.
const WrapKey64 = 1

// ErrMalformed is wrapped by every error of this package's parsers.
var ErrMalformed = errors.New("malformed message")

// Thumbprint is the RFC 7638 thumbprint of a device key.
type Thumbprint = [32]byte

// RegistrationID names one registration. The vault makes it.
type RegistrationID [RegistrationIDSize]byte

// ClaimID names one claim.
type ClaimID [16]byte

// Purpose says what a client believes it is registering over, so that a vault
// which sees something else answers conflict instead of doing it.
type Purpose uint8

// The purposes of a RegisterStart.
const (
	PurposeRegister Purpose = 1 // no live record
	PurposeChange   Purpose = 2 // after a KE3 in this session
	PurposeReplace  Purpose = 3 // the owner device, or a ripe claim
)

// ClaimKind says what a claim will allow.
type ClaimKind uint8

// The kinds of claims.
const (
	ClaimReplace ClaimKind = 1
	ClaimDelete  ClaimKind = 2
)

// Request is one of the ten requests.
type Request interface {
	Kind() Kind
	fields(w *writer)
}

// Authorise is the first request of a session. Signature is ES256 by the
// device key over the vault-auth label, fleet id, handshake hash and ticket.
type Authorise struct {
	DeviceKey [frame.DeviceKeySize]byte
	Signature [frame.SignatureSize]byte
	Ticket    string // 1 to 2,048 bytes
}

// StatusRequest asks for AccountStatus.
type StatusRequest struct{}

// RegisterStart asks for an evaluation under a fresh OPRF key.
type RegisterStart struct {
	Purpose    Purpose
	Generation uint64 // the generation that the client believes current, 0 for none
	Blinded    [33]byte
}

// RegisterFinish stores a registration.
type RegisterFinish struct {
	ID     RegistrationID
	Record [opaque.RegistrationRecordSize]byte
	Wrap   [WrapSize]byte
	KSF    opaque.Argon2id
}

// RecoverStart is KE1. It is charged before it is evaluated.
type RecoverStart struct {
	KE1 [opaque.KE1Size]byte
}

// RecoverFinish is KE3.
type RecoverFinish struct {
	KE3 [opaque.KE3Size]byte
}

// Abort says that KE2 did not verify: the password was wrong.
type Abort struct{}

// Delete asks to destroy the record.
type Delete struct {
	Generation uint64
}

// Claim asks for the right to replace or delete a record that another device
// owns, after a delay.
type Claim struct {
	What       ClaimKind
	Generation uint64
}

// Cancel removes a claim: the owner's objection, or any ticketed device's
// change of mind.
type Cancel struct {
	ID ClaimID
}

// Kind implements Request.
func (Authorise) Kind() Kind      { return KAuthorise }
func (StatusRequest) Kind() Kind  { return KStatus }
func (RegisterStart) Kind() Kind  { return KRegisterStart }
func (RegisterFinish) Kind() Kind { return KRegisterFinish }
func (RecoverStart) Kind() Kind   { return KRecoverStart }
func (RecoverFinish) Kind() Kind  { return KRecoverFinish }
func (Abort) Kind() Kind          { return KAbort }
func (Delete) Kind() Kind         { return KDelete }
func (Claim) Kind() Kind          { return KClaim }
func (Cancel) Kind() Kind         { return KCancel }

// Reply answers a request. Its header is the same for every kind.
type Reply struct {
	Kind    Kind
	Status  frame.Status
	Charged bool   // an attempt was charged and not given back: by this request, or standing
	Left    uint8  // attempts left
	Until   uint64 // for paced and pending: when to come again, Unix seconds; else 0
	Body    Body   // nil unless Status is ok and the kind has a body
}

// Body is what a successful reply carries beside the header.
type Body interface {
	fields(w *writer)
}

// State says what stands under an account.
type State uint8

// The states of an account.
const (
	StateNone      State = 0
	StateLive      State = 1
	StateDestroyed State = 2 // ten wrong passwords
	StateDeleted   State = 3 // by a device
)

// AccountStatus is all that a ticketed device may know of its account.
type AccountStatus struct {
	State        State
	Owner        bool // the asking device owns the record
	Generation   uint64
	KSF          opaque.Argon2id // zero when nothing is live
	Failures     uint32          // charges since the last success
	OtherFailure uint32          // of those, by devices other than the owner's
	Registration RegistrationID
	BodyHash     [HashSize]byte // SHA-256(RegistrationRecord ‖ wrap ‖ KSF)
	Issuer       string         // the issuer's configured name, 1 to 128 bytes
	Claims       []ClaimInfo    // at most 4
	Events       []Event        // at most 8, newest first
}

// ClaimInfo is a standing claim.
type ClaimInfo struct {
	ID      ClaimID
	What    ClaimKind
	Mine    bool // made by the asking device
	Ripe    uint64
	Expires uint64
}

// EventKind says what happened.
type EventKind uint8

// The events that a record remembers.
const (
	EventRegistered  EventKind = 1
	EventReplaced    EventKind = 2
	EventCharged     EventKind = 3
	EventRecovered   EventKind = 4
	EventFailed      EventKind = 5
	EventDestroyed   EventKind = 6
	EventDeleted     EventKind = 7
	EventClaimed     EventKind = 8
	EventClaimGone   EventKind = 9
	EventWrongFinish EventKind = 10 // a KE3 that did not verify
)

// Event is one line of a record's history.
type Event struct {
	Kind   EventKind
	Time   uint64
	Device [4]byte // the first bytes of the device's thumbprint
}

// RegisterStarted carries the RegistrationResponse.
type RegisterStarted struct {
	ID         RegistrationID
	Generation uint64 // the one that RegisterFinish will make
	Response   [opaque.RegistrationResponseSize]byte
}

// RecoverStarted carries KE2.
type RecoverStarted struct {
	Generation uint64
	KSF        opaque.Argon2id
	KE2        [opaque.KE2Size]byte
}

// Recovered carries the wrapped key, sealed under the session key.
type Recovered struct {
	Generation uint64
	Failures   uint32 // charges since the success before this one, this one not counted
	Release    [ReleaseSize]byte
}

// Claimed says when a claim ripens, and when it lapses.
type Claimed struct {
	ID      ClaimID
	Ripe    uint64
	Expires uint64
}
