package command

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/protocol/frame"
)

// The key must be on disk before a vault holds it: a crash in between would
// leave a registration whose key no phone has.
func TestRegisterSavesTheKeyFirst(t *testing.T) {
	p := newPhone(t)
	p.vault.receipt = client.Receipt{ID: client.RegistrationID{0xab}, Generation: 4, Time: ripe}
	p.vault.during = func() {
		if key := p.current(); key.Generation != 0 || !key.Backup.Equal(p.vault.keys[0].Key) {
			t.Errorf("during the registration the state has generation %d", key.Generation)
		}
	}
	got := p.online(0, "register", "--password-file", "FILE:password")
	if got["generation"] != 4.0 || got["attempts_left"] != 10.0 || !strings.HasPrefix(got["registration_id"].(string), "ab00") {
		t.Errorf("%v", got)
	}
	if key := p.current(); key.Generation != 4 || !key.Backup.Equal(p.vault.keys[0].Key) {
		t.Errorf("afterwards the state has generation %d", key.Generation)
	}
	if p.vault.passwords[0] != canaryPassword {
		t.Error("another password was registered")
	}

	p.vault.during = nil
	p.online(0, "replace", "--new-password-file", "FILE:new")
	if !p.vault.keys[1].Equal(p.vault.keys[0].Key) || p.vault.passwords[1] != canaryNew {
		t.Error("replace registered another key or password")
	}
}

func TestStoredThoughTheStoryDoesNotFit(t *testing.T) {
	p := newPhone(t)
	p.vault.receipt = client.Receipt{Generation: 2}
	p.vault.err = &client.StoryError{Op: "register", What: client.StoryReplacedNothing, Was: 1}
	got := p.online(report.Failed, "register", "--password-file", "FILE:password")
	if got["code"] != "story" || got["story"] != "replaced-nothing" {
		t.Errorf("%v", got)
	}
	if key := p.current(); key.Generation != 2 {
		t.Errorf("the registration was stored, and the state says generation %d", key.Generation)
	}
	p.vault.err = nil
	p.online(0, "register", "--password-file", "FILE:password", "--accept", "replaced-nothing", "--accept", "gone")
	if !slices.Equal(p.vault.accepted, []client.Story{client.StoryReplacedNothing, client.StoryGone}) {
		t.Errorf("accepted %v", p.vault.accepted)
	}
}

func TestRecoverPutsTheKeyInUseAndForgetsNone(t *testing.T) {
	p := newPhone(t)
	mine, recovered := client.NewBackupKey(), client.NewBackupKey()
	p.hold(mine, 0)
	p.vault.key, p.vault.receipt.Generation, p.vault.failures = recovered, 7, 3
	got := p.online(0, "recover", "--password-file", "FILE:password")
	if got["generation"] != 7.0 || got["failures_before"] != 3.0 || got["attempts_left"] != 10.0 {
		t.Errorf("%v", got)
	}
	if w := fmt.Sprint(got["warnings"]); !strings.Contains(w, "since the last success: 3;") {
		t.Errorf("warnings %s", w)
	}
	keys, err := p.state.Keys()
	if err != nil {
		t.Fatal(err)
	}
	all := keys.All()
	if len(all) != 2 || !all[0].Backup.Equal(recovered.Key) || all[0].Generation != 7 || !all[1].Backup.Equal(mine.Key) {
		t.Errorf("%d keys in the state", len(all))
	}
}

func TestFailuresOfTheVaultAreToldInFull(t *testing.T) {
	p := newPhone(t)
	p.vault.err = &client.Error{Op: "recover", Code: frame.WrongPassword, Charged: true, AttemptsLeft: 6}
	got := p.online(report.WrongPassword, "recover", "--password-file", "FILE:password")
	if got["code"] != "wrong_password" || got["attempt_charged"] != true || got["attempts_left"] != 6.0 {
		t.Errorf("%v", got)
	}
	if keys, err := p.state.Keys(); err != nil || len(keys.All()) != 0 {
		t.Errorf("a failed recovery left %d keys, %v", len(keys.All()), err)
	}
	p.vault.err = &client.Error{Op: "replace", Code: frame.Pending, AttemptsLeft: client.Unknown, Until: ripe, RetryAfter: time.Minute}
	got = p.online(report.Pending, "replace", "--password-file", "FILE:password")
	if got["code"] != "pending" || got["pending_until"] != "2030-01-02T03:04:05Z" || got["retry_after_ms"] != 60000.0 || got["attempts_left"] != nil {
		t.Errorf("%v", got)
	}
}

func TestChangePasswordKeepsTheOldKeyForOldBackups(t *testing.T) {
	for _, newKey := range []bool{false, true} {
		p := newPhone(t)
		old := client.NewBackupKey()
		p.vault.key, p.vault.receipt.Generation = old, 9
		args := []string{"change-password", "--password-file", "FILE:password", "--new-password-file", "FILE:new"}
		if newKey {
			args = append(args, "--new-key")
		}
		p.online(0, args...)
		if p.vault.newKey != newKey || !slices.Equal(p.vault.passwords, []string{canaryPassword, canaryNew}) {
			t.Errorf("newKey %v: the vault was asked for newKey %v", newKey, p.vault.newKey)
		}
		keys, err := p.state.Keys()
		if err != nil {
			t.Fatal(err)
		}
		all := keys.All()
		if all[0].Generation != 9 || !all[len(all)-1].Backup.Equal(old.Key) || (len(all) == 2) != newKey {
			t.Errorf("newKey %v: %d keys, the first of generation %d", newKey, len(all), all[0].Generation)
		}
	}
}

func TestDeleteNeedsToBeSureAndKeepsTheKeyHere(t *testing.T) {
	p := newPhone(t)
	key := client.NewBackupKey()
	p.hold(key, 5)
	p.online(report.Usage, "delete")
	if len(p.vault.asked) != 0 {
		t.Fatalf("without --yes the vault was asked %q", p.vault.asked)
	}
	p.online(0, "delete", "--yes")
	p.online(0, "delete", "--yes", "--with-password", "--password-file", "FILE:password")
	if !slices.Equal(p.vault.asked, []string{"delete", "delete-with-password"}) {
		t.Errorf("the vault was asked %q", p.vault.asked)
	}
	if now := p.current(); now.Generation != 0 || !now.Backup.Equal(key.Key) {
		t.Errorf("generation %d is still said to hold the key", now.Generation)
	}
}

func TestClaims(t *testing.T) {
	p := newPhone(t)
	got := p.online(0, "claim", "replace")
	if got["pending_until"] != "2030-01-02T03:04:05Z" || got["claim"].(map[string]any)["what"] != "replace" {
		t.Errorf("%v", got)
	}
	one := client.ClaimID{7}
	for _, c := range []struct {
		claims []client.Claim
		arg    []string
		exit   int
		id     client.ClaimID
	}{
		{nil, nil, report.Failed, client.ClaimID{}},
		{[]client.Claim{{ID: one}}, nil, 0, one},
		{[]client.Claim{{ID: one}, {ID: client.ClaimID{8}}}, nil, report.Usage, client.ClaimID{}},
		{nil, []string{hex.EncodeToString(one[:])}, 0, one},
	} {
		p.vault.status.Claims, p.vault.cancelled = c.claims, client.ClaimID{}
		p.online(c.exit, append([]string{"cancel"}, c.arg...)...)
		if p.vault.cancelled != c.id {
			t.Errorf("%d claims, %q: cancelled %x", len(c.claims), c.arg, p.vault.cancelled)
		}
	}
}

func TestStatusShowsWhatStands(t *testing.T) {
	p := newPhone(t)
	p.hold(client.NewBackupKey(), 3)
	p.vault.status = client.Status{Fleet: "staging", Issuer: "app", Subject: "al\x1bice", State: client.StateLive, Owner: true,
		Generation: 3, AttemptsLeft: 8, Failures: 2, OtherFailures: 1,
		Claims: []client.Claim{{ID: client.ClaimID{9}, What: client.ClaimDelete, Ripe: ripe, Expires: ripe}},
		Events: []client.Event{{Kind: client.EventFailed, Time: ripe, Device: [4]byte{1, 2, 3, 4}}, {Kind: 99, Time: ripe, Mine: true}}}
	got := p.online(0, "status")
	for name, want := range map[string]any{"state": "live", "owner": true, "attempts_left": 8.0, "key_generation": 3.0, "other_failures": 1.0} {
		if got[name] != want {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
	_, text, _ := p.run("status", "--config", "FILE:config.yaml")
	for _, want := range []string{`"al\x1bice" of issuer "app"`, "attempts left  8", "delete by another device", "failed by device 01020304", "event_99 by this device"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	p.vault.status = client.Status{State: client.StateDestroyed}
	if got := p.online(0, "status"); got["state"] != "destroyed" {
		t.Errorf("%v", got)
	}
}

// The file is read whenever the SDK asks: somebody else keeps it fresh.
func TestTheTicketIsReadAgain(t *testing.T) {
	p := newPhone(t)
	p.online(0, "status")
	for range 2 {
		if got, err := p.vault.cfg.Tickets(t.Context()); err != nil || got != canaryTicket {
			t.Errorf("%q, %v", got, err)
		}
	}
	writeFile(t, p.path("ticket.jwt"), "fresh\n")
	if got, err := p.vault.cfg.Tickets(t.Context()); err != nil || got != "fresh" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestInterruptedIsNotUnreachable(t *testing.T) {
	p := newPhone(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.vault.during = cancel
	p.vault.err = &client.Error{Op: "status", AttemptsLeft: client.Unknown, Err: client.ErrUnreachable}
	code, stdout, _ := p.runIn(ctx, nil, "status", "--json", "--config", "FILE:config.yaml")
	if got := oneObject(t, stdout); code != report.Failed || got["code"] != "cancelled" {
		t.Errorf("exit code %d, %v", code, got)
	}
}
