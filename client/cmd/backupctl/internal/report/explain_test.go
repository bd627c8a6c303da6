package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
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

// Every code that a relay or a vault may answer has its exit code.
func TestEveryStatusOfTheWire(t *testing.T) {
	want := map[frame.Status]int{
		frame.Malformed: Failed, frame.UnsupportedVersion: Failed, frame.AuthTimeout: Unreachable,
		frame.NotAuthorised: NotAuthorised, frame.TicketExpired: NotAuthorised, frame.RateLimited: RateLimited,
		frame.Busy: RateLimited, frame.NoVault: Unreachable, frame.NoSession: Unreachable, frame.SessionEnded: Unreachable,
		frame.Draining: Unreachable, frame.Replaced: Unreachable, frame.SlowConsumer: Unreachable,
		frame.WrongHost: NotAuthorised, frame.Internal: Failed,
		frame.WrongPassword: WrongPassword, frame.Locked: Destroyed, frame.NotRegistered: NotRegistered,
		frame.Destroyed: Destroyed, frame.Conflict: Failed, frame.Paced: RateLimited, frame.Pending: Pending,
		frame.NotOwner: Failed, frame.TooMany: Failed, frame.Unavailable: Failed, frame.NoAttempt: Failed,
		frame.WrongFleet: NotAuthorised, frame.NoClaim: Failed,
	}
	for _, status := range frame.Statuses() {
		if status == frame.OK {
			continue
		}
		exit, listed := want[status]
		if !listed {
			t.Errorf("%v has no exit code in this test: decide on one", status)
		}
		o := Explain(fmt.Errorf("wrapped: %w", &client.Error{Op: "test", Code: status, AttemptsLeft: client.Unknown}))
		if o.Exit != exit || o.Code != status.String() || o.Error == "" || o.Next == "" {
			t.Errorf("%v: exit %d, code %q, error %q, next %q; want exit %d", status, o.Exit, o.Code, o.Error, o.Next, exit)
		}
	}
}

// Every error that this side makes has its exit code and word.
func TestEveryErrorOfThisSide(t *testing.T) {
	onThisSide := func(err error) error { return &client.Error{Op: "test", AttemptsLeft: client.Unknown, Err: err} }
	for _, c := range []struct {
		err  error
		exit int
		code string
	}{
		{onThisSide(client.ErrUnreachable), Unreachable, "unreachable"},
		{onThisSide(fmt.Errorf("%w: %w", client.ErrUnreachable, context.DeadlineExceeded)), Unreachable, "unreachable"},
		{onThisSide(fmt.Errorf("%w: %w", client.ErrUnreachable, context.Canceled)), Failed, "cancelled"},
		{onThisSide(fmt.Errorf("%w: %w", client.ErrNotAuthorised, client.ErrTicketExpired)), NotAuthorised, "ticket_expired"},
		{onThisSide(client.ErrNotAuthorised), NotAuthorised, "not_authorised"},
		{onThisSide(client.ErrBundle), Failed, "bundle_refused"},
		{onThisSide(client.ErrProtocol), Failed, "protocol"},
		{onThisSide(client.ErrPreviousFleet), Failed, "previous_fleet"},
		{onThisSide(client.ErrStore), Failed, "client_state"},
		{onThisSide(client.ErrClosed), Failed, "closed"},
		{onThisSide(fmt.Errorf("%w: %w", client.ErrPassword, password.ErrEmpty)), Usage, "unfit_password"},
		{&client.StoryError{Op: "backup", What: client.StoryGone, Was: 2, Now: 2}, Failed, "story"},
		{password.ErrControl, Usage, "unfit_password"},
		{context.Canceled, Failed, "cancelled"},
		{backupfile.ErrWrongKey, WrongKey, "wrong_recovery_key"},
		{backupfile.ErrCheckGroup, WrongKey, "wrong_recovery_key"},
		{&backupfile.KeyLengthError{Digits: 3}, WrongKey, "wrong_recovery_key"},
		{&backupfile.KeyCharError{Position: 3}, WrongKey, "wrong_recovery_key"},
		{backupfile.ErrNotABackup, Corrupt, "not_a_backup"},
		{backupfile.ErrVersion, Failed, "newer_version"},
		{&backupfile.CorruptError{Offset: 7, Part: 1, Err: backupfile.ErrAuthentication}, Corrupt, "corrupt_backup"},
		{&archive.EntryError{Index: 4, Name: "../x", Err: archive.ErrName}, Corrupt, "unsafe_archive"},
		{&archive.EntryError{Index: 4, Name: "x", Err: errors.New("no space left on device")}, Failed, "error"},
		{archive.ErrIncomplete, Corrupt, "bad_archive"},
		{&archive.EntryError{Name: "x", Err: archive.ErrChanged}, Failed, "file_changed"},
		{archive.ErrTargetExists, Failed, "target_exists"},
		{files.ErrExists, Failed, "target_exists"},
		{files.ErrNotRegular, Failed, "target_not_a_file"},
		{files.ErrBusy, Failed, "busy_state"},
		{ask.ErrNoTerminal, Usage, "no_terminal"},
		{state.ErrNoDevice, Failed, "no_device"},
		{state.ErrDeviceExists, Failed, "device_exists"},
		{state.ErrUnusable, Failed, "state_unusable"},
		{cmdline.ErrSecretFile, Usage, "unfit_secret_file"},
		{cmdline.Usagef("no"), Usage, "usage"},
		{fs.ErrNotExist, Failed, "no_such_file"},
		{&Failure{Exit: Failed, Code: "own", Err: backupfile.ErrWrongKey}, Failed, "own"},
		{errors.New("what nobody thought of"), Failed, "error"},
	} {
		o := Explain(fmt.Errorf("wrapped: %w", c.err))
		if o.Exit != c.exit || o.Code != c.code {
			t.Errorf("%v: exit %d, code %q; want %d, %q", c.err, o.Exit, o.Code, c.exit, c.code)
		}
		if !strings.Contains(o.Text(), c.err.Error()) {
			t.Errorf("%v: text %q", c.err, o.Text())
		}
	}
}

func TestWrongPasswordSaysHowManyAreLeft(t *testing.T) {
	for left, want := range map[int]string{
		9: "9 attempts are left, then the key is destroyed for good",
		1: "One attempt is left, then",
		0: "That was the last attempt: the key is destroyed",
	} {
		o := Explain(&client.Error{Op: "recover", Code: frame.WrongPassword, Charged: true, AttemptsLeft: left})
		if o.Exit != WrongPassword || o.AttemptsLeft == nil || *o.AttemptsLeft != left || !o.AttemptCharged {
			t.Errorf("%d left: %+v", left, o)
		}
		if !strings.Contains(o.Text(), want) {
			t.Errorf("%d left: %q", left, o.Text())
		}
	}
	last := Explain(&client.Error{Op: "recover", Code: frame.Destroyed, Charged: true, AttemptsLeft: 0, Err: client.ErrWrongPassword})
	if last.Exit != WrongPassword || last.Code != "wrong_password" || *last.AttemptsLeft != 0 || !strings.Contains(last.Next, "the key is destroyed") {
		t.Errorf("the last one: %+v", last)
	}
	if o := Explain(&client.Error{Code: frame.NoVault, AttemptsLeft: client.Unknown}); o.AttemptsLeft != nil {
		t.Errorf("attempts left of a vault that said nothing: %d", *o.AttemptsLeft)
	}
}

func TestPendingAndPacedSayUntilWhen(t *testing.T) {
	until := time.Date(2030, 5, 6, 7, 8, 9, 0, time.FixedZone("", 3600))
	for status, exit := range map[frame.Status]int{frame.Pending: Pending, frame.Paced: RateLimited} {
		o := Explain(&client.Error{Code: status, AttemptsLeft: client.Unknown, RetryAfter: 90 * time.Second, Until: until})
		if o.Exit != exit || o.RetryAfterMS != 90_000 || !o.PendingUntil.Equal(until) || !strings.Contains(o.Next, "Not before 2030-05-06T06:08:09Z.") {
			t.Errorf("%v: %+v", status, o)
		}
		b, err := json.Marshal(o)
		if err != nil || !strings.Contains(string(b), `"pending_until":"2030-05-06T06:08:09Z"`) {
			t.Errorf("%v: %s, %v", status, b, err)
		}
	}
}

// A vault's cap paces the owner device too, when nobody else tried a password.
func TestPacedBlamesNoOtherDeviceAlone(t *testing.T) {
	o := Explain(&client.Error{Code: frame.Paced, AttemptsLeft: client.Unknown})
	if !strings.Contains(o.Next, "other devices, or ") {
		t.Errorf("%q", o.Next)
	}
}

func TestCorruptSaysWhere(t *testing.T) {
	o := Explain(&backupfile.CorruptError{Offset: 123, Part: 4, Err: backupfile.ErrTruncated})
	if *o.Offset != 123 || *o.Part != 4 {
		t.Errorf("%+v", o)
	}
	if o := Explain(&archive.EntryError{Index: 5, Name: "/etc", Err: archive.ErrName}); *o.Entry != 5 {
		t.Errorf("%+v", o)
	}
	if o := Explain(backupfile.ErrNotABackup); *o.Offset != 0 {
		t.Errorf("%+v", o)
	}
}

// What --json names is what --accept takes, except another account, which
// nobody may accept.
func TestStoriesAreAcceptedByTheNamesThatErrorsShow(t *testing.T) {
	for s := client.StoryAccount; s <= client.StoryGone; s++ {
		o := Explain(&client.StoryError{Op: "check-receipt", What: s})
		var a Accept
		err := a.UnmarshalText([]byte(o.Story))
		if s == client.StoryAccount {
			if err == nil || strings.Contains(o.Next, "--accept") {
				t.Errorf("another account can be accepted: %q", o.Next)
			}
			continue
		}
		if err != nil || client.Story(a) != s || !strings.HasSuffix(o.Next, "--accept "+o.Story) || strings.HasPrefix(o.Next, "To go on") {
			t.Errorf("%v: %q, %v, next %q", s, o.Story, err, o.Next)
		}
	}
	// The commands that have no --accept do not speak of it.
	if o := Explain(&client.StoryError{Op: "status", What: client.StoryGenerationFell}); strings.Contains(o.Next, "--accept") || o.Next == "" {
		t.Errorf("next %q", o.Next)
	}
	var a Accept
	if err := a.UnmarshalText([]byte("everything")); err == nil {
		t.Error("an unknown story was accepted")
	}
}

func TestJSONHasItsFieldsAlways(t *testing.T) {
	b, err := json.Marshal(Explain(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"code":"ok","exit":0,"attempt_charged":false,"attempts_left":null,"retry_after_ms":0,"pending_until":null}`
	if string(b) != want {
		t.Errorf("%s\nwant %s", b, want)
	}
}
