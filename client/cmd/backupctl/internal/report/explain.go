package report

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/ask"
	"chatvault/client/cmd/backupctl/internal/files"
	"chatvault/client/cmd/backupctl/internal/state"
	"chatvault/protocol/backupfile"
	"chatvault/protocol/backupfile/archive"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/frame"
	"chatvault/protocol/password"
)

// row says what an error means to the caller of the program.
type row struct {
	is   error
	exit int
	code string // "" takes client.CodeName
	next string
}

// rows is the table of all errors that are told apart; the first that fits.
// Wrong passwords, stories, and what carries a place are composed besides.
var rows = []row{
	{context.Canceled, Failed, "cancelled", "Nothing was left half-written. Run the command again when you like."},
	// The last wrong password is ErrDestroyed too. It stays a wrong password,
	// with no attempts left: from the next command on the answer is destroyed.
	{client.ErrWrongPassword, WrongPassword, frame.WrongPassword.String(), "Check the keyboard layout and Caps Lock before the next try. The same password typed again costs another attempt."},
	{client.ErrDestroyed, Destroyed, "", "Nothing can bring the key back. If a phone still holds it, or you kept the recovery key, backups still open; to protect new ones: backupctl register"},
	{client.ErrLocked, Destroyed, "", "Ten passwords were charged: the key is destroyed, at once or within hours. One that was interrupted before its verdict may still open it: type just that one again. Else the recovery key does, if you kept it: backupctl restore --ask-recovery-key FILE FOLDER"},
	{client.ErrNotRegistered, NotRegistered, "", "Register first: backupctl register. If you did, on another account or fleet, look at the ticket: backupctl ticket check FILE"},
	{client.ErrPending, Pending, "", "Come back then, with a fresh ticket. Until then the owner of the key may object: backupctl status shows it."},
	{client.ErrPaced, RateLimited, "", "The vault slows down: many wrong passwords came from other devices, or it has many attempts to serve. No attempt was charged. Wait until then."},
	{client.ErrRateLimited, RateLimited, "", "Nothing was charged by this answer. Wait, then run the command again."},
	{client.ErrTicketExpired, NotAuthorised, "", "Put a fresh ticket into the file that --ticket-file names. Look at this one: backupctl ticket check FILE"},
	{client.ErrNotAuthorised, NotAuthorised, "", "Look at the ticket: backupctl ticket check FILE. It must be minted for this device: backupctl device show"},
	{client.ErrNotOwner, Failed, "", "Another device owns the key. With the password: backupctl recover. Without: backupctl claim replace (or delete), and wait until it is ripe."},
	{client.ErrConflict, Failed, "", "Look what is registered: backupctl status. Over a live registration: backupctl change-password, or, with the password forgotten, backupctl replace"},
	{client.ErrTooMany, Failed, "", "At most four claims stand, and at most three replacements are made in 24 hours: backupctl status, backupctl cancel ID"},
	{client.ErrNoClaim, Failed, "", "See which claims stand: backupctl status"},
	{client.ErrPreviousFleet, Failed, "", "Register with the fleet that follows it: its pins in --fleet, and the password."},
	{client.ErrUnavailable, Failed, "", "The vault's storage or HSM failed. Repeat the same command with the same password: that costs no second attempt."},
	{client.ErrBundle, Failed, "", "The fleet's keys are not signed as --fleet demands, or are out of date. Do not go on with other pins unless their publisher tells you so himself."},
	{client.ErrProtocol, Failed, "", "The other side does not speak this protocol, or lied. Check --url and --fleet, and that this program is up to date."},
	{client.ErrStore, Failed, "", "Check the folder that --state names: mode 0700, room on the disk."},
	{client.ErrClosed, Failed, "", ""},
	{client.ErrReplaced, Unreachable, "", "Another program uses the same --state, or a copy of its device key. Let one finish, then repeat the same command: that costs no second attempt."},
	{client.ErrUnreachable, Unreachable, "", "Check the network and --url, then repeat the same command: that costs no second attempt."},
	{client.ErrPassword, Usage, "", "Choose another password. Nothing was sent."},

	{backupfile.ErrWrongKey, WrongKey, "wrong_recovery_key", ""},
	{backupfile.ErrCheckGroup, WrongKey, "wrong_recovery_key", "Compare each group with what you wrote down."},
	{backupfile.ErrNotABackup, Corrupt, "not_a_backup", "Check that this is the file that backupctl backup wrote."},
	{backupfile.ErrVersion, Failed, "newer_version", "Use the version of backupctl that wrote it, or a later one."},
	{archive.ErrChanged, Failed, "file_changed", "Nothing was written. Run the backup again when the file is at rest."},
	{archive.ErrTargetExists, Failed, "target_exists", "Name a folder that does not exist yet, or an empty one."},
	{archive.ErrIncomplete, Corrupt, "bad_archive", "The backup is authentic, but the folder in it is not complete."},
	{files.ErrExists, Failed, "target_exists", "Name another file, or replace it with --force."},
	{files.ErrNotRegular, Failed, "target_not_a_file", "Name another file, or write to standard output with -"},
	{files.ErrBusy, Failed, "busy_state", "Wait until the other command has ended."},
	{ask.ErrNoTerminal, Usage, "no_terminal", "Give the password in a file of mode 0600 (--password-file), or the recovery key (--recovery-key-file)."},
	{state.ErrNoDevice, Failed, "no_device", "Make one: backupctl device new"},
	{state.ErrDeviceExists, Failed, "device_exists", "It is shown by: backupctl device show"},
	{state.ErrUnusable, Failed, "state_unusable", ""},
	{cmdline.ErrSecretFile, Usage, "unfit_secret_file", ""},
	{fs.ErrNotExist, Failed, "no_such_file", ""},
	{context.DeadlineExceeded, Unreachable, "", "Check the network and --url, then repeat the same command: that costs no second attempt."},
}

// Explain turns an error into an outcome. It is total: what it does not know
// is exit code 1.
func Explain(err error) *Outcome {
	if err == nil {
		return &Outcome{Code: client.CodeName(nil)}
	}
	o := &Outcome{Exit: Failed, Code: client.CodeName(err), Error: err.Error()}
	for _, r := range rows {
		if errors.Is(err, r.is) {
			o.Exit, o.Next = r.exit, r.next
			if r.code != "" {
				o.Code = r.code
			}
			break
		}
	}
	o.fromOperation(err)
	o.fromStory(err)
	o.fromFile(err)
	o.fromProgram(err)
	return o
}

// fromOperation takes over what the SDK says besides the kind of failure.
func (o *Outcome) fromOperation(err error) {
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return
	}
	o.AttemptCharged = e.Charged
	if e.AttemptsLeft != client.Unknown {
		left := e.AttemptsLeft
		o.AttemptsLeft = &left
	}
	o.RetryAfterMS, o.Limit = e.RetryAfter.Milliseconds(), e.Limit
	if !e.Until.IsZero() {
		until := e.Until.UTC()
		o.PendingUntil = &until
		o.Next = fmt.Sprintf("Not before %s. %s", until.Format(time.RFC3339), o.Next)
	}
	if o.Exit == WrongPassword && e.AttemptsLeft == 0 {
		o.Next = "That was the last attempt: the key is destroyed, at once or within hours. The recovery key still opens backups, if you kept it: backupctl restore --ask-recovery-key FILE FOLDER"
	}
	if o.Exit == WrongPassword && e.AttemptsLeft > 0 {
		o.Next = fmt.Sprintf("%s, then the key is destroyed for good. %s", attempts(e.AttemptsLeft), o.Next)
	}
}

func attempts(n int) string {
	if n == 1 {
		return "One attempt is left"
	}
	return fmt.Sprintf("%d attempts are left", n)
}

func (o *Outcome) fromStory(err error) {
	e, ok := errors.AsType[*client.StoryError](err)
	if !ok {
		return
	}
	o.Story = StoryName(e.What)
	o.Next = storyNext[e.What]
	if e.What != client.StoryAccount && acceptable[e.Op] {
		o.Next = strings.TrimSpace(fmt.Sprintf("%s\nTo go on knowing that: --accept %s", o.Next, o.Story))
	}
}

// fromFile takes over places within a backup.
func (o *Outcome) fromFile(err error) {
	if e, ok := errors.AsType[*backupfile.CorruptError](err); ok {
		o.Exit, o.Code = Corrupt, "corrupt_backup"
		o.Offset, o.Part = &e.Offset, &e.Part
		o.Next = "Get another copy of the file: what is behind this place is lost in this one. Nothing was restored."
	}
	if errors.Is(err, backupfile.ErrNotABackup) {
		o.Offset = new(int64)
	}
	if e, ok := errors.AsType[*archive.EntryError](err); ok && unsafeEntry(e.Err) {
		o.Exit, o.Code, o.Entry = Corrupt, "unsafe_archive", &e.Index
		o.Next = "The backup is authentic, but not one that backupctl makes of a folder. Nothing was restored. Its content as it is: backupctl restore FILE -"
	}
	_, length := errors.AsType[*backupfile.KeyLengthError](err)
	_, char := errors.AsType[*backupfile.KeyCharError](err)
	if length || char {
		o.Exit, o.Code, o.Next = WrongKey, "wrong_recovery_key", "A recovery key has 64 digits, 0 to 9 and a to f, and a check group of four."
	}
	if _, ok := errors.AsType[*password.Error](err); ok {
		o.Exit, o.Code = Usage, "unfit_password"
	}
}

func unsafeEntry(err error) bool {
	for _, is := range []error{archive.ErrName, archive.ErrLink, archive.ErrType, archive.ErrOrder, archive.ErrDuplicate} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// fromProgram lets this program's own errors have the last word.
func (o *Outcome) fromProgram(err error) {
	if f, ok := errors.AsType[*Failure](err); ok {
		o.Exit, o.Code, o.Next = f.Exit, f.Code, f.Next
	}
	if e, ok := errors.AsType[cmdline.ExitError](err); ok {
		o.Exit = e.Code
		if e.Code == Usage && o.Code == "error" {
			o.Code = "usage"
		}
	}
}

// acceptable are the SDK's operations that a person may let go on.
var acceptable = map[string]bool{"register": true, "replace": true, "change-password": true, "check-receipt": true}

var storyNames = []struct {
	what client.Story
	name string
}{
	{client.StoryAccount, "other-account"},
	{client.StoryGenerationFell, "generation-fell"},
	{client.StoryReplacedNothing, "replaced-nothing"},
	{client.StoryOtherFailures, "other-failures"},
	{client.StoryReplaced, "replaced"},
	{client.StoryGone, "gone"},
}

var storyNext = map[client.Story]string{
	client.StoryAccount:         "A state belongs to one account: use another folder with --state for the other one.",
	client.StoryGenerationFell:  "The vault may have been set back to an old copy, or this is not the vault you registered with. Ask its operator before you type a password.",
	client.StoryReplacedNothing: "The old password may still open an old record somewhere. Ask the operator.",
	client.StoryOtherFailures:   "Somebody else may be guessing. If it was you on another phone, go on; if not: backupctl change-password",
	client.StoryReplaced:        "A backup made now could not be recovered. If you registered anew on another device: backupctl recover. If not, somebody else did: backupctl replace",
	client.StoryGone:            "A backup made now could not be recovered with the password. To protect it again: backupctl register",
}

// StoryName is how --accept and --json name a story.
func StoryName(s client.Story) string {
	for _, n := range storyNames {
		if n.what == s {
			return n.name
		}
	}
	return fmt.Sprintf("story-%d", uint8(s))
}

// Accept is a story that a person goes past, as a flag.
type Accept client.Story

// UnmarshalText reads a name of StoryName; other accounts cannot be accepted.
func (a *Accept) UnmarshalText(text []byte) error {
	var names []string
	for _, n := range storyNames[1:] {
		if n.name == string(text) {
			*a = Accept(n.what)
			return nil
		}
		names = append(names, n.name)
	}
	return fmt.Errorf("want one of %s", strings.Join(names, ", "))
}

// Stories are the SDK's values.
func Stories(accepted []Accept) []client.Story {
	var out []client.Story
	for _, a := range accepted {
		out = append(out, client.Story(a))
	}
	return out
}
