package command

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/protocol/cmdline"
)

type statusCmd struct{}

// Help implements kong.HelpProvider.
func (statusCmd) Help() string {
	return `Asks the vault what stands under the account of the ticket. Costs no attempt. Exit code 0 whatever stands there: look at the field state, which is none, live, destroyed or deleted.

	backupctl status --url wss://vault.example.com/v1/ws --fleet pins.json --ticket-file ticket.jwt
	backupctl status --config backupctl.yaml --json | jq '.state, .attempts_left'`
}

type claimField struct {
	ID      string    `json:"id"`
	What    string    `json:"what"`
	Mine    bool      `json:"mine"`
	Ripe    time.Time `json:"ripe"`
	Expires time.Time `json:"expires"`
}

type eventField struct {
	What   string    `json:"what"`
	Time   time.Time `json:"time"`
	Device string    `json:"device"` // first bytes of the thumbprint, hexadecimal
	Mine   bool      `json:"mine"`
}

type statusResult struct {
	report.Outcome
	Fleet         string       `json:"fleet"`
	Issuer        string       `json:"issuer"`
	Subject       string       `json:"subject"`
	State         string       `json:"state"`
	Owner         bool         `json:"owner"`
	Generation    uint64       `json:"generation"`
	KeyGeneration uint64       `json:"key_generation"` // of the key in this state, 0 if none is known
	Failures      int          `json:"failures"`
	OtherFailures int          `json:"other_failures"`
	Claims        []claimField `json:"claims"`
	Events        []eventField `json:"events"`
}

func newStatus(st client.Status, v *vault) *statusResult {
	r := &statusResult{Fleet: st.Fleet, Issuer: st.Issuer, Subject: st.Subject, State: stateWord(st.State), Owner: st.Owner,
		Generation: st.Generation, Failures: st.Failures, OtherFailures: st.OtherFailures,
		Claims: []claimField{}, Events: []eventField{}}
	r.AttemptsLeft = &st.AttemptsLeft
	if key, ok := v.keys.Current(); ok {
		r.KeyGeneration = key.Generation
	}
	for _, c := range st.Claims {
		r.Claims = append(r.Claims, newClaim(c))
	}
	for _, e := range st.Events {
		r.Events = append(r.Events, eventField{eventWord(e.Kind), e.Time.UTC(), hex.EncodeToString(e.Device[:]), e.Mine})
	}
	return r
}

func newClaim(c client.Claim) claimField {
	return claimField{hex.EncodeToString(c.ID[:]), claimWord(c.What), c.Mine, c.Ripe.UTC(), c.Expires.UTC()}
}

func (r *statusResult) text(w io.Writer) {
	owner := "another device"
	if r.Owner {
		owner = "this device"
	}
	fmt.Fprintf(w, "account        %q of issuer %q, fleet %s\n", r.Subject, r.Issuer, r.Fleet)
	fmt.Fprintf(w, "registration   %s", r.State)
	if r.Generation > 0 {
		fmt.Fprintf(w, ", generation %d", r.Generation)
	}
	fmt.Fprintln(w)
	if r.State == stateWord(client.StateLive) {
		fmt.Fprintf(w, "owner          %s\nattempts left  %d\n", owner, *r.AttemptsLeft)
		if r.Failures > 0 {
			fmt.Fprintf(w, "failures       %d since the last success, %d of them by other devices\n", r.Failures, r.OtherFailures)
		}
	}
	for _, c := range r.Claims {
		fmt.Fprintf(w, "claim          %s: %s by %s, ripe %s, expires %s\n", c.ID, c.What, by(c.Mine, "another device"), clock(c.Ripe), clock(c.Expires))
	}
	for _, e := range r.Events {
		fmt.Fprintf(w, "event          %s  %s%s\n", clock(e.Time), e.What, eventBy(e))
	}
}

func by(mine bool, other string) string {
	if mine {
		return "this device"
	}
	return other
}

// eventBy says who did it; the vault's own doings name no device.
func eventBy(e eventField) string {
	if e.Device == nobody && !e.Mine {
		return ""
	}
	return " by " + by(e.Mine, "device "+e.Device+"…")
}

const nobody = "00000000"

func stateWord(s client.State) string {
	switch s {
	case client.StateNone:
		return "none"
	case client.StateLive:
		return "live"
	case client.StateDestroyed:
		return "destroyed"
	case client.StateDeleted:
		return "deleted"
	}
	return fmt.Sprintf("state_%d", s)
}

var eventWords = map[client.EventKind]string{
	client.EventRegistered: "registered", client.EventReplaced: "replaced", client.EventCharged: "charged",
	client.EventRecovered: "recovered", client.EventFailed: "failed", client.EventDestroyed: "destroyed",
	client.EventDeleted: "deleted", client.EventClaimed: "claimed", client.EventClaimGone: "claim_gone",
	client.EventWrongFinish: "wrong_finish",
}

func eventWord(k client.EventKind) string {
	if word, ok := eventWords[k]; ok {
		return word
	}
	return fmt.Sprintf("event_%d", k)
}

func claimWord(k client.ClaimKind) string {
	switch k {
	case client.ClaimReplace:
		return "replace"
	case client.ClaimDelete:
		return "delete"
	}
	return fmt.Sprintf("claim_%d", k)
}

// Run asks for the status.
func (c statusCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (statusCmd) run(ctx context.Context, s *session) (result, error) {
	return s.withVault(ctx, func(v *vault) (result, error) {
		st, err := v.Status(ctx)
		if err != nil {
			return nil, err
		}
		return newStatus(st, v), nil
	})
}

type deleteCmd struct {
	Yes          bool `help:"Do not ask whether you are sure."`
	WithPassword bool `help:"Prove the password, on a phone that does not own the key. A wrong one costs an attempt."`
	passwordFlags
}

// Help implements kong.HelpProvider.
func (deleteCmd) Help() string {
	return `Destroys the key in the vault, for good: no password opens anything any more. The key in this state stays, and so does the recovery key. Only the phone that owns the key may do it at once; another one with the password, or with a ripe claim (backupctl claim delete). Exit code 11 while the claim ripens; it says until when.

	backupctl delete --config backupctl.yaml
	backupctl delete --config backupctl.yaml --yes --with-password --password-file password`
}

type plainResult struct {
	report.Outcome
	did string
}

func (r *plainResult) text(w io.Writer) { fmt.Fprintln(w, r.did) }

// Run deletes.
func (c *deleteCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *deleteCmd) run(ctx context.Context, s *session) (result, error) {
	return s.withVault(ctx, func(v *vault) (result, error) {
		if err := c.confirm(ctx, s); err != nil {
			return nil, err
		}
		if err := c.delete(ctx, s, v); err != nil {
			return nil, err
		}
		v.keys = v.keys.Unregistered()
		if err := v.dir.SaveKeys(v.keys); err != nil {
			return nil, err
		}
		return &plainResult{did: "The key in the vault is destroyed. The one in this state still opens backups: backupctl key show"}, nil
	})
}

func (c *deleteCmd) delete(ctx context.Context, s *session, v *vault) error {
	if !c.WithPassword && c.PasswordFile == "" {
		return v.Delete(ctx)
	}
	password, err := s.existingPassword(ctx, c.PasswordFile, "Password: ")
	if err != nil {
		return err
	}
	defer password.Wipe()
	return v.DeleteWithPassword(ctx, password)
}

func (c *deleteCmd) confirm(ctx context.Context, s *session) error {
	if c.Yes {
		return nil
	}
	if !s.asker().Can() {
		return cmdline.Usagef("say that you are sure: --yes")
	}
	answer, err := s.asker().Shown(ctx, "This destroys the key in the vault for good. Type delete to go on: ")
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(answer)) != "delete" {
		return failure(report.Failed, "cancelled", "", "nothing was deleted")
	}
	return nil
}

type claimCmd struct {
	What string `arg:"" enum:"replace,delete" help:"replace: register anew when it is ripe. delete: destroy the key then."`
}

// Help implements kong.HelpProvider.
func (claimCmd) Help() string {
	return `For a person who has lost both the phone and the password: asks for the right to replace or delete what is registered. The right ripens after the fleet's delay, usually 72 hours, unless somebody objects (backupctl cancel), and lapses later. When it is ripe: backupctl replace, or backupctl delete, with a fresh ticket.

	backupctl claim replace --config backupctl.yaml`
}

type claimResult struct {
	report.Outcome
	Claim claimField `json:"claim"`
}

func (r *claimResult) text(w io.Writer) {
	fmt.Fprintf(w, "Claim %s to %s is ripe %s and lapses %s.\n", r.Claim.ID, r.Claim.What, clock(r.Claim.Ripe), clock(r.Claim.Expires))
}

// Run claims.
func (c *claimCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *claimCmd) run(ctx context.Context, s *session) (result, error) {
	what := client.ClaimReplace
	if c.What == "delete" {
		what = client.ClaimDelete
	}
	return s.withVault(ctx, func(v *vault) (result, error) {
		claim, err := v.Claim(ctx, what)
		if err != nil {
			return nil, err
		}
		out := &claimResult{Claim: newClaim(claim)}
		out.PendingUntil = &out.Claim.Ripe
		s.remark("When it is ripe: backupctl %s", c.What)
		return out, nil
	})
}

type cancelCmd struct {
	ID string `arg:"" optional:"" help:"The claim, as status shows it; may be left out when there is one only."`
}

// Help implements kong.HelpProvider.
func (cancelCmd) Help() string {
	return `Removes a claim: the owner objects, or whoever has a ticket thinks better of it.

	backupctl cancel --config backupctl.yaml
	backupctl cancel 6f1f0c5a4b3e2d1c0f9e8d7c6b5a4938 --config backupctl.yaml`
}

// Run cancels.
func (c *cancelCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *cancelCmd) run(ctx context.Context, s *session) (result, error) {
	var id client.ClaimID
	if c.ID != "" {
		b, err := hex.DecodeString(c.ID)
		if err != nil || len(b) != len(id) {
			return nil, cmdline.Usagef("%q is no claim's id: want the 32 digits that backupctl status shows", c.ID)
		}
		copy(id[:], b)
	}
	return s.withVault(ctx, func(v *vault) (result, error) {
		if c.ID == "" {
			only, err := onlyClaim(ctx, v)
			if err != nil {
				return nil, err
			}
			id = only
		}
		if err := v.Cancel(ctx, id); err != nil {
			return nil, err
		}
		return &plainResult{did: "The claim is removed."}, nil
	})
}

func onlyClaim(ctx context.Context, v *vault) (client.ClaimID, error) {
	st, err := v.Status(ctx)
	switch {
	case err != nil:
		return client.ClaimID{}, err
	case len(st.Claims) == 0:
		return client.ClaimID{}, fmt.Errorf("%w stands", errNoClaim)
	case len(st.Claims) > 1:
		return client.ClaimID{}, cmdline.Usagef("%d claims stand: say which one, as backupctl status shows them", len(st.Claims))
	}
	return st.Claims[0].ID, nil
}

var errNoClaim = &report.Failure{Exit: report.Failed, Code: "no_claim", Err: errors.New("no claim")}
