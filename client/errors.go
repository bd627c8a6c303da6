package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"chatvault/protocol/frame"
)

// What went wrong, to be told apart with errors.Is. Every error of an
// operation is an *Error, or a *StoryError, and matches one of these.
var (
	// ErrWrongPassword: the password was wrong; Error.AttemptsLeft says how
	// many attempts are left.
	ErrWrongPassword = errors.New("wrong password")
	// ErrLocked: no attempts are left. The key is destroyed, at once or within
	// hours, unless an attempt that is still open succeeds.
	ErrLocked = errors.New("no attempts are left")
	// ErrDestroyed: the key is gone for good.
	ErrDestroyed = errors.New("the key was destroyed")
	// ErrNotRegistered: nothing is registered for this account.
	ErrNotRegistered = errors.New("nothing is registered")
	// ErrNotAuthorised: the ticket, or the proof of the device key, was not
	// accepted.
	ErrNotAuthorised = errors.New("not authorised")
	// ErrTicketExpired: besides ErrNotAuthorised, the ticket has ended and the
	// Tickets callback brought no fresh one.
	ErrTicketExpired = errors.New("the ticket has expired")
	// ErrRateLimited: a limit of the relay; Error.RetryAfter and Error.Limit.
	ErrRateLimited = errors.New("rate limited")
	// ErrUnreachable: no relay, or no vault behind it, could be reached in
	// time.
	ErrUnreachable = errors.New("unreachable")
	// ErrReplaced: besides ErrUnreachable, another process with this device's
	// key has taken the connection over. It is not made again by itself.
	ErrReplaced = errors.New("another process of this device took over")
	// ErrUnavailable: the vault is there, but its storage or HSM is not.
	ErrUnavailable = errors.New("the vault cannot work now")
	// ErrPending: a claim has to ripen first; Error.Until.
	ErrPending = errors.New("a claim is pending")
	// ErrPaced: too many failures on other devices than the owner's, or more
	// attempts than the vault charges in an hour; Error.Until. No attempt was
	// charged.
	ErrPaced = errors.New("slowed down")
	// ErrConflict: another registration came first, or something is
	// registered where nothing was expected.
	ErrConflict = errors.New("conflict with another registration")
	// ErrNotOwner: only the owner device may do this at once; claim first.
	ErrNotOwner = errors.New("not the owner device")
	// ErrTooMany: a limit of the record: four claims, or three replacements in
	// 24 hours.
	ErrTooMany = errors.New("too many")
	// ErrPreviousFleet: the pinned fleet has a successor; it only recovers and
	// deletes.
	ErrPreviousFleet = errors.New("the fleet is a previous one: it only recovers and deletes")
	// ErrNoClaim: no such claim stands.
	ErrNoClaim = errors.New("no such claim")
	// ErrStory: what the vault says does not continue what this device has
	// seen; a *StoryError says what. A person has to decide.
	ErrStory = errors.New("the story does not fit")
	// ErrBundle: no fleet bundle could be had that the pins accept. Its cause
	// is one of package fleet's errors.
	ErrBundle = errors.New("fleet bundle refused")
	// ErrProtocol: the peer does not speak the protocol, or what must
	// authenticate does not (a receipt, a wrapped key, KSF parameters out of
	// bounds).
	ErrProtocol = errors.New("protocol violated")
	// ErrPassword: the password cannot be one: empty, too long, or with
	// control characters. Nothing was sent.
	ErrPassword = errors.New("unfit password")
	// ErrStore: the Store failed, or holds what this version cannot read.
	ErrStore = errors.New("client state")
	// ErrClosed: the Client was closed.
	ErrClosed = errors.New("client is closed")
)

// byStatus says which of the errors above a code of the wire is.
var byStatus = map[frame.Status][]error{
	frame.Malformed:          {ErrProtocol},
	frame.UnsupportedVersion: {ErrProtocol},
	frame.AuthTimeout:        {ErrUnreachable},
	frame.NotAuthorised:      {ErrNotAuthorised},
	frame.TicketExpired:      {ErrNotAuthorised, ErrTicketExpired},
	frame.RateLimited:        {ErrRateLimited},
	frame.Busy:               {ErrRateLimited},
	frame.NoVault:            {ErrUnreachable},
	frame.NoSession:          {ErrUnreachable},
	frame.SessionEnded:       {ErrUnreachable},
	frame.Draining:           {ErrUnreachable},
	frame.Replaced:           {ErrUnreachable, ErrReplaced},
	frame.SlowConsumer:       {ErrUnreachable},
	frame.WrongHost:          {ErrNotAuthorised},
	frame.Internal:           {ErrUnavailable},
	frame.WrongPassword:      {ErrWrongPassword},
	frame.Locked:             {ErrLocked},
	frame.NotRegistered:      {ErrNotRegistered},
	frame.Destroyed:          {ErrDestroyed},
	frame.Conflict:           {ErrConflict},
	frame.Paced:              {ErrPaced},
	frame.Pending:            {ErrPending},
	frame.NotOwner:           {ErrNotOwner},
	frame.TooMany:            {ErrTooMany},
	frame.Unavailable:        {ErrUnavailable},
	frame.NoAttempt:          {ErrUnavailable},
	frame.WrongFleet:         {ErrNotAuthorised},
	frame.NoClaim:            {ErrNoClaim},
}

// localNames are the words for failures of this side, the first that fits.
var localNames = []struct {
	is   error
	name string
}{
	{context.Canceled, "cancelled"},
	{ErrStory, "story"},
	{ErrPassword, "unfit_password"},
	{ErrBundle, "bundle_refused"},
	{ErrPreviousFleet, "previous_fleet"},
	{ErrStore, "client_state"},
	{ErrClosed, "closed"},
	{ErrTicketExpired, "ticket_expired"},
	{ErrNotAuthorised, "not_authorised"},
	{ErrProtocol, "protocol"},
	{ErrUnreachable, "unreachable"},
	{context.DeadlineExceeded, "unreachable"},
}

// Unknown is Error.AttemptsLeft when no vault has said a number.
const Unknown = -1

// Error is how an operation failed.
type Error struct {
	// Op is the operation, as "recover".
	Op string
	// Code is what the relay or the vault answered; frame.OK when the failure
	// is on this side.
	Code frame.Status
	// Charged says that the vault charged an attempt and has not given it
	// back. Only a vault's own word, read inside the vault session, sets it.
	Charged bool
	// AttemptsLeft is the vault's number, or Unknown. What a relay says of
	// attempts is never believed.
	AttemptsLeft int
	// RetryAfter is how long to wait before another try; 0 when nobody said.
	RetryAfter time.Duration
	// Until is when a paced or pending operation may be tried again; zero when
	// that is not the failure.
	Until time.Time
	// Limit is the name of the relay's limit that was hit, or empty. It is the
	// relay's word, at most 32 bytes of printable ASCII.
	Limit string
	// Err is the cause, or nil when Code says it all.
	Err error
}

// Error implements error. It holds no secret.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Code != frame.OK {
		fmt.Fprintf(&b, ": %s: %s", e.Code, e.Code.Meaning())
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.AttemptsLeft != Unknown {
		fmt.Fprintf(&b, " (%d attempts left)", e.AttemptsLeft)
	}
	if e.Limit != "" {
		fmt.Fprintf(&b, " (limit %s)", e.Limit)
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, " (retry in %s)", e.RetryAfter.Round(time.Millisecond))
	}
	if !e.Until.IsZero() {
		fmt.Fprintf(&b, " (until %s)", e.Until.UTC().Format(time.RFC3339))
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is says whether target is the sentinel of e's code.
func (e *Error) Is(target error) bool {
	for _, s := range byStatus[e.Code] {
		if s == target {
			return true
		}
	}
	return false
}

// CodeName is the word for --json and metrics: the wire's code, or the one of
// this side's failure: unreachable, unfit_password, bundle_refused,
// story, protocol, client_state, closed, cancelled; or error.
func CodeName(err error) string {
	if err == nil {
		return frame.OK.String()
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Code != frame.OK {
		return e.Code.String()
	}
	for _, row := range localNames {
		if errors.Is(err, row.is) {
			return row.name
		}
	}
	return "error"
}

// Story is a way in which what the vault says does not continue what this
// device has seen.
type Story uint8

// The ways.
const (
	// StoryAccount: the ticket is for another account than the one that this
	// Store belongs to. It cannot be accepted: another account needs a Store of
	// its own.
	StoryAccount Story = 1
	// StoryGenerationFell: the vault knows an older registration than this
	// device has seen, or none: a restored database, or another vault.
	StoryGenerationFell Story = 2
	// StoryReplacedNothing: a replacement was stored, but did not replace the
	// registration that it was meant to: the old password may still open the
	// old record somewhere.
	StoryReplacedNothing Story = 3
	// StoryOtherFailures: other devices than this one, the owner, have typed
	// wrong passwords since the last success.
	StoryOtherFailures Story = 4
	// StoryReplaced: another registration than this device's receipt is
	// stored now. A backup under this device's key could not be recovered.
	StoryReplaced Story = 5
	// StoryGone: the registration of this device's receipt was destroyed or
	// deleted. A backup under its key could not be recovered.
	StoryGone Story = 6
)

var storyText = map[Story]string{
	StoryAccount:         "the ticket is for another account than before",
	StoryGenerationFell:  "the vault knows an older registration than this device has seen",
	StoryReplacedNothing: "the new registration did not replace the one it was meant to",
	StoryOtherFailures:   "other devices have typed wrong passwords",
	StoryReplaced:        "another registration is stored than this device's",
	StoryGone:            "this device's registration is not stored any more",
}

// String is a sentence for people.
func (s Story) String() string {
	if t, ok := storyText[s]; ok {
		return t
	}
	return fmt.Sprintf("story %d", uint8(s))
}

// StoryError stops an operation until a person has decided: the vault's story
// does not fit (attack A1). An operation goes on past it when its Accept
// lists What.
type StoryError struct {
	Op   string
	What Story
	// Was and Is are the generations, or the numbers of failures, that What
	// is about; zero when it is about neither.
	Was, Now uint64
}

// Error implements error.
func (e *StoryError) Error() string {
	s := fmt.Sprintf("%s: stopped: %s", e.Op, e.What)
	if e.Was != 0 || e.Now != 0 {
		s += fmt.Sprintf(" (was %d, is now %d)", e.Was, e.Now)
	}
	return s
}

// Is says whether target is ErrStory.
func (e *StoryError) Is(target error) bool { return target == ErrStory }
