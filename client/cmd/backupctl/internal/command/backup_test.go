package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"rsc.io/qr"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/protocol/frame"
)

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A backup under a key that no record holds is lost with the phone: unless the
// vault confirms the key of the state, the backup is refused, or the person is
// told.
func TestBackupAsksTheVaultFirst(t *testing.T) {
	notRegistered := &client.Error{Code: frame.NotRegistered, AttemptsLeft: client.Unknown}
	live := func(generation uint64) client.Status {
		return client.Status{State: client.StateLive, Generation: generation}
	}
	for _, c := range []struct {
		name       string
		held       int // generation of the key in the state, -1 for no key
		status     client.Status
		err        error
		args       []string
		exit       int
		code       string
		warnings   int
		checked    bool
		notAsked   bool
		generation float64
	}{
		{name: "the vault holds it", held: 4, status: live(4), code: "ok", checked: true, generation: 4},
		{name: "it was replaced", held: 4, status: live(5), err: &client.StoryError{What: client.StoryReplaced}, exit: report.Failed, code: "story"},
		{name: "it was destroyed", held: 4, err: &client.StoryError{What: client.StoryGone}, exit: report.Failed, code: "story"},
		{name: "it was replaced, and the person goes on", held: 4, status: live(5), args: []string{"--accept", "replaced"}, code: "ok", warnings: 1},
		{name: "it was destroyed, and the person goes on", held: 4, status: client.Status{State: client.StateDestroyed, Generation: 4}, args: []string{"--accept", "gone"}, code: "ok", warnings: 1},
		{name: "a registration was interrupted behind the state's back", held: 4, status: live(5), exit: report.Failed, code: "key_unknown"},
		{name: "the key file is gone, the receipt is not", held: -1, status: live(5), exit: report.Failed, code: "key_unknown"},
		{name: "a new phone that has not recovered", held: -1, status: live(5), err: notRegistered, exit: report.Failed, code: "not_recovered"},
		{name: "another phone registered", held: 0, status: live(5), err: notRegistered, code: "ok", warnings: 2},
		{name: "nothing is registered", held: 0, err: notRegistered, code: "ok", warnings: 1},
		{name: "nothing at all", held: -1, err: notRegistered, code: "ok", warnings: 1},
		{name: "nobody is there", held: 4, err: &client.Error{AttemptsLeft: client.Unknown, Err: client.ErrUnreachable}, exit: report.Unreachable, code: "unreachable"},
		{name: "offline, registered", held: 4, args: []string{"--offline"}, code: "ok", warnings: 1, notAsked: true, generation: 4},
		{name: "offline, not registered", held: 0, args: []string{"--offline"}, code: "ok", warnings: 1, notAsked: true},
		{name: "offline, no key", held: -1, args: []string{"--offline"}, code: "ok", warnings: 1, notAsked: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPhone(t)
			if c.held >= 0 {
				p.hold(client.NewBackupKey(), uint64(c.held))
			}
			p.vault.status, p.vault.err = c.status, c.err
			got := p.online(c.exit, append([]string{"backup", "FILE:photos", "FILE:x.cvb"}, c.args...)...)
			if got["code"] != c.code {
				t.Errorf("code %v, want %s", got["code"], c.code)
			}
			if (len(p.vault.asked) == 0) != c.notAsked {
				t.Errorf("the vault was asked %q", p.vault.asked)
			}
			_, err := os.Lstat(p.path("x.cvb"))
			if c.exit != 0 {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("a backup was written: %v", err)
				}
				return
			}
			warnings, _ := got["warnings"].([]any)
			if err != nil || len(warnings) != c.warnings || got["vault_checked"] != c.checked || got["generation"] != c.generation {
				t.Errorf("%v, warnings %q, checked %v, generation %v", err, warnings, got["vault_checked"], got["generation"])
			}
			if code, _, stderr := p.run("verify", "FILE:x.cvb"); code != 0 {
				t.Errorf("it does not verify under the state's key: %s", stderr)
			}
		})
	}
}

func TestBackupGoesPastWhatAPersonAccepts(t *testing.T) {
	p := newPhone(t)
	p.hold(client.NewBackupKey(), 1)
	p.vault.status = client.Status{State: client.StateLive, Generation: 1}
	p.online(0, "backup", "FILE:photos", "FILE:x.cvb", "--accept", "other-failures")
	if len(p.vault.accepted) != 1 || p.vault.accepted[0] != client.StoryOtherFailures {
		t.Errorf("accepted %v", p.vault.accepted)
	}
}

// Whichever way a backup is stopped, there is no file.
func TestStoppedBackupLeavesNothing(t *testing.T) {
	p := newPhone(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, source := range []string{"FILE:photos", "-"} {
		code, stdout, _ := p.runIn(ctx, bytes.NewBufferString("some"), "backup", source, "FILE:x.cvb", "--json")
		if got := oneObject(t, stdout); code != report.Failed || got["code"] != "cancelled" {
			t.Errorf("%s: exit code %d, %v", source, code, got)
		}
	}
	if code, _, _ := p.runIn(ctx, nil, "restore", "FILE:x.cvb", "FILE:y"); code != report.Failed {
		t.Errorf("restore of nothing: %d", code)
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), "cvb") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

// No output of a failing command holds a secret that it has seen.
func TestCanaries(t *testing.T) {
	backupKey := client.NewBackupKey()
	recovery := string(client.FormatRecoveryKey(backupKey))
	wrong := string(client.FormatRecoveryKey(client.NewBackupKey()))
	secrets := []string{"CANARY", recovery[:19], recovery[20:39], strings.ReplaceAll(recovery[:79], " ", ""), wrong[:19], recovery[len(recovery)-6:]}
	operations := [][]string{
		{"register", "--password-file", "FILE:password"},
		{"recover", "--password-file", "FILE:password"},
		{"replace", "--password-file", "FILE:password"},
		{"change-password", "--password-file", "FILE:password", "--new-password-file", "FILE:new", "--new-key"},
		{"delete", "--yes", "--with-password", "--password-file", "FILE:password"},
		{"claim", "replace"}, {"cancel"}, {"status"},
		{"backup", "FILE:photos", "FILE:x.cvb"},
	}
	failures := []error{
		&client.Error{Op: "op", Code: frame.WrongPassword, Charged: true, AttemptsLeft: 3},
		&client.Error{Op: "op", Code: frame.Destroyed, AttemptsLeft: 0},
		&client.Error{Op: "op", Code: frame.TicketExpired, AttemptsLeft: client.Unknown},
		&client.StoryError{Op: "op", What: client.StoryReplaced, Was: 1, Now: 2},
		fmt.Errorf("what nobody thought of: %v %v", backupKey, []any{backupKey}),
	}
	check := func(t *testing.T, args []string, code int, stdout, stderr string) {
		t.Helper()
		if code == 0 {
			t.Errorf("%q succeeded", args)
		}
		for _, s := range secrets {
			if strings.Contains(stdout+stderr, s) {
				t.Errorf("%q shows %q:\n%s%s", args, s, stdout, stderr)
			}
		}
	}
	p := newPhone(t)
	p.hold(backupKey, 1)
	p.vault.key = backupKey
	for _, p.vault.err = range failures {
		for _, args := range operations {
			for _, more := range [][]string{{"--json"}, {}} {
				args := append(append([]string{}, args...), append(more, "--config", "FILE:config.yaml")...)
				code, stdout, stderr := p.run(args...)
				check(t, args, code, stdout, stderr)
			}
		}
	}
	writeFile(t, p.path("key.txt"), recovery)
	writeFile(t, p.path("wrong.txt"), wrong)
	writeFile(t, p.path("mistyped.txt"), recovery[:80]+"CANARY")
	writeFile(t, p.path("broken.cvb"), "not a backup")
	for _, args := range [][]string{
		{"verify", "FILE:broken.cvb", "--recovery-key-file", "FILE:key.txt"},
		{"key", "check", "--recovery-key-file", "FILE:wrong.txt"},
		{"key", "check", "--recovery-key-file", "FILE:mistyped.txt"},
		{"key", "check", "--recovery-key=" + recovery},
		{"restore", "FILE:broken.cvb", "FILE:y", "--ask-recovery-key"},
		{"recover", "--password=" + canaryPassword},
		{"recover", "--password", canaryPassword},
		{"ticket", "check", "FILE:ticket.jwt"},
		{"ticket", "mint", "--issuer-key", "FILE:ticket.jwt", "--iss", "i", "--sub", "s", "--fleet-id", "f"},
	} {
		code, stdout, stderr := p.run(args...)
		check(t, args, code, stdout, stderr)
	}
}

// The drawn code, read back module by module, is the QR code of the digits.
func TestQRCodeIsDrawnAsItIs(t *testing.T) {
	text := string(client.FormatRecoveryKey(client.NewBackupKey()))
	digits := strings.ToUpper(strings.NewReplacer(" ", "", "-", "").Replace(text))
	if _, checked, err := client.ParseRecoveryKey(digits); err != nil || !checked {
		t.Fatalf("what is drawn is no recovery key: %v", err)
	}
	code, err := qr.Encode(digits, qr.M)
	if err != nil {
		t.Fatal(err)
	}
	for _, colours := range []bool{false, true} {
		drawn, err := halfBlocks(text, colours)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(drawn, "\x1b") != colours {
			t.Errorf("colours %v: escapes are wrong", colours)
		}
		lines := strings.Split(strings.TrimSuffix(strings.NewReplacer("\x1b[30;107m", "", "\x1b[0m", "").Replace(drawn), "\n"), "\n")
		for y := range code.Size + 8 {
			row := []rune(lines[y/2])
			if len(row) != code.Size+8 {
				t.Fatalf("line %d has %d characters", y/2, len(row))
			}
			for x, r := range row {
				ink := r == '█' || r == '▀' && y%2 == 0 || r == '▄' && y%2 == 1
				if dark := ink == colours; dark != code.Black(x-4, y-4) {
					t.Fatalf("colours %v: module %d,%d is wrong", colours, x-4, y-4)
				}
			}
		}
	}
}
