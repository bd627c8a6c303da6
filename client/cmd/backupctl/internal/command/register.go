package command

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/protocol/secret"
)

// storyFlags let a person go past what does not fit.
type storyFlags struct {
	Accept []report.Accept `placeholder:"STORY" help:"Go on though the vault's story does not fit, after you were shown how: generation-fell, replaced-nothing, other-failures, replaced, gone."`
}

type receiptResult struct {
	report.Outcome
	Registration     string    `json:"registration_id"`
	Generation       uint64    `json:"generation"`
	Replaced         uint64    `json:"replaced_generation"`
	ReplacedFailures int       `json:"replaced_failures"`
	Time             time.Time `json:"time"`
	did              string
}

func newReceipt(did string, r client.Receipt) *receiptResult {
	out := &receiptResult{did: did, Registration: hex.EncodeToString(r.ID[:]), Generation: r.Generation,
		Replaced: r.Replaced, ReplacedFailures: r.ReplacedFailures, Time: r.Time}
	ten := fullAttempts
	out.AttemptsLeft = &ten
	return out
}

// fullAttempts is what a fresh registration, or a success, has.
const fullAttempts = 10

func (r *receiptResult) text(w io.Writer) {
	fmt.Fprintf(w, "%s Generation %d, ten attempts. The vault signed for it at %s.\n", r.did, r.Generation, clock(r.Time))
	if r.Replaced > 0 && r.ReplacedFailures > 0 {
		fmt.Fprintf(w, "The registration before had %d wrong passwords since its last success. If they were not yours, somebody was guessing.\n", r.ReplacedFailures)
	}
}

type registerCmd struct {
	passwordFlags
	storyFlags
}

// Help implements kong.HelpProvider.
func (registerCmd) Help() string {
	return `Makes a backup key if this phone has none, and puts it into the vault behind a new password, asked for twice. Ten wrong passwords destroy it there for good.

	backupctl register --url wss://vault.example.com/v1/ws --fleet pins.json --ticket-file ticket.jwt
	backupctl register --config backupctl.yaml --password-file password`
}

// Run registers.
func (c *registerCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *registerCmd) run(ctx context.Context, s *session) (result, error) {
	return s.withVault(ctx, func(v *vault) (result, error) {
		return s.enrol(ctx, v, c.PasswordFile, "Registered.", c.Accept, v.Register)
	})
}

type replaceCmd struct {
	PasswordFile string `aliases:"new-password-file" placeholder:"FILE" help:"Read the new password from a file of mode 0600, without asking."`
	storyFlags
}

// Help implements kong.HelpProvider.
func (replaceCmd) Help() string {
	return `Registers this phone's backup key under a new password, without the old one: on the phone that owns the key, at most three times in 24 hours, or on one whose claim is ripe (backupctl claim replace). Exit code 11 while the claim ripens; it says until when.

	backupctl replace --config backupctl.yaml`
}

// Run replaces.
func (c *replaceCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *replaceCmd) run(ctx context.Context, s *session) (result, error) {
	return s.withVault(ctx, func(v *vault) (result, error) {
		return s.enrol(ctx, v, c.PasswordFile, "Registered anew; the old password opens nothing any more.", c.Accept, v.Replace)
	})
}

type enrolFunc func(context.Context, secret.Bytes, client.BackupKey, client.RegisterOptions) (client.Receipt, error)

// enrol is Register or Replace with the key in use.
func (s *session) enrol(ctx context.Context, v *vault, file, did string, accept []report.Accept, do enrolFunc) (result, error) {
	password, err := s.newPassword(ctx, file, "New password")
	if err != nil {
		return nil, err
	}
	defer password.Wipe()
	key, err := v.current(s)
	if err != nil {
		return nil, err
	}
	receipt, err := do(ctx, password, key, client.RegisterOptions{Accept: report.Stories(accept)})
	if receipt.Generation > 0 { // stored, though the story may not fit
		err = errors.Join(err, v.adopt(s, key, receipt.Generation))
	}
	if err != nil {
		return nil, err
	}
	s.remark("The password cannot be reset. Write down the recovery key too: backupctl key show")
	return newReceipt(did, receipt), nil
}

type recoverCmd struct {
	passwordFlags
}

// Help implements kong.HelpProvider.
func (recoverCmd) Help() string {
	return `Fetches the backup key with the password into this phone's state, which becomes its owner. A wrong password costs one of ten attempts (exit code 4, and how many are left); after the tenth the key is destroyed (5). Repeating the same command after a broken connection costs nothing more.

	backupctl device new
	backupctl recover --url wss://vault.example.com/v1/ws --fleet pins.json --ticket-file ticket.jwt
	backupctl recover --config backupctl.yaml --password-file password --json | jq .attempts_left`
}

type recoverResult struct {
	report.Outcome
	Generation     uint64 `json:"generation"`
	FailuresBefore int    `json:"failures_before"`
}

func (r *recoverResult) text(w io.Writer) {
	fmt.Fprintf(w, "Recovered the backup key of generation %d. Attempts left: %d.\n", r.Generation, *r.AttemptsLeft)
}

// Run recovers.
func (c *recoverCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *recoverCmd) run(ctx context.Context, s *session) (result, error) {
	return s.withVault(ctx, func(v *vault) (result, error) {
		password, err := s.existingPassword(ctx, c.PasswordFile, "Password: ")
		if err != nil {
			return nil, err
		}
		defer password.Wipe()
		got, err := v.Recover(ctx, password)
		if err != nil {
			return nil, err
		}
		if err := v.adopt(s, got.Key, got.Generation); err != nil {
			return nil, err
		}
		if got.FailuresBefore > 0 {
			s.warn("wrong passwords typed since the last success: %d; if they were not yours, change the password: backupctl change-password", got.FailuresBefore)
		}
		out := &recoverResult{Generation: got.Generation, FailuresBefore: got.FailuresBefore}
		out.AttemptsLeft = &got.AttemptsLeft
		return out, nil
	})
}

type changePasswordCmd struct {
	passwordFlags
	NewPasswordFile string `placeholder:"FILE" help:"Read the new password from a file of mode 0600, without asking."`
	NewKey          bool   `help:"Make a new backup key too, after a compromise. The old one stays in the state, to open older backups."`
	storyFlags
}

// Help implements kong.HelpProvider.
func (changePasswordCmd) Help() string {
	return `Proves the old password, with the same ten attempts as recover, and puts the backup key behind the new one.

	backupctl change-password --config backupctl.yaml
	backupctl change-password --config backupctl.yaml --password-file old --new-password-file new --new-key`
}

// Run changes the password.
func (c *changePasswordCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *changePasswordCmd) run(ctx context.Context, s *session) (result, error) {
	return s.withVault(ctx, func(v *vault) (result, error) {
		oldPassword, err := s.existingPassword(ctx, c.PasswordFile, "Old password: ")
		if err != nil {
			return nil, err
		}
		defer oldPassword.Wipe()
		newPassword, err := s.newPassword(ctx, c.NewPasswordFile, "New password")
		if err != nil {
			return nil, err
		}
		defer newPassword.Wipe()
		changed, err := v.ChangePassword(ctx, oldPassword, newPassword, c.NewKey, client.RegisterOptions{Accept: report.Stories(c.Accept)})
		if changed.Receipt.Generation > 0 {
			v.keys = v.keys.Behind(changed.OldKey, s.now())
			err = errors.Join(err, v.adopt(s, changed.Key, changed.Receipt.Generation))
		}
		if err != nil {
			return nil, err
		}
		did := "Password changed; the old one opens nothing any more."
		if c.NewKey {
			s.remark("The recovery key changed too: backupctl key show. Older backups need the old one, which stays in the state.")
			did = "Password and backup key changed."
		}
		return newReceipt(did, changed.Receipt), nil
	})
}
