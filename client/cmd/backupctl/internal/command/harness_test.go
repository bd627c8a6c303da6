package command

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/state"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/fleet"
	"chatvault/protocol/secret"
)

const (
	canaryPassword = "CANARY correct horse"
	canaryNew      = "CANARY battery staple"
	canaryTicket   = "CANARYeyJ.CANARY.CANARY"
)

// fakeVault answers what a test tells it to, and remembers what it was asked.
type fakeVault struct {
	cfg      client.Config
	err      error // of every operation
	status   client.Status
	receipt  client.Receipt
	key      client.BackupKey // of Recover and ChangePassword
	failures int

	asked     []string // names of operations, in order
	passwords []string
	keys      []client.BackupKey // that Register and Replace were given
	newKey    bool
	accepted  []client.Story
	cancelled client.ClaimID
	during    func() // called in each operation
}

func (f *fakeVault) ask(op string, passwords ...secret.Bytes) error {
	f.asked = append(f.asked, op)
	for _, p := range passwords {
		f.passwords = append(f.passwords, string(p))
	}
	if f.during != nil {
		f.during()
	}
	return f.err
}

func (f *fakeVault) Status(context.Context) (client.Status, error) { return f.status, f.ask("status") }

func (f *fakeVault) CheckReceipt(_ context.Context, accept ...client.Story) (client.Status, error) {
	f.accepted = accept
	return f.status, f.ask("check-receipt")
}

func (f *fakeVault) Register(_ context.Context, p secret.Bytes, key client.BackupKey, opts client.RegisterOptions) (client.Receipt, error) {
	f.keys, f.accepted = append(f.keys, key), opts.Accept
	return f.receipt, f.ask("register", p)
}

func (f *fakeVault) Replace(_ context.Context, p secret.Bytes, key client.BackupKey, opts client.RegisterOptions) (client.Receipt, error) {
	f.keys, f.accepted = append(f.keys, key), opts.Accept
	return f.receipt, f.ask("replace", p)
}

func (f *fakeVault) Recover(_ context.Context, p secret.Bytes) (client.Recovered, error) {
	return client.Recovered{Key: f.key, Generation: f.receipt.Generation, FailuresBefore: f.failures, AttemptsLeft: 10}, f.ask("recover", p)
}

func (f *fakeVault) ChangePassword(_ context.Context, o, n secret.Bytes, newKey bool, opts client.RegisterOptions) (client.Changed, error) {
	f.newKey, f.accepted = newKey, opts.Accept
	out := client.Changed{Receipt: f.receipt, Key: f.key, OldKey: f.key}
	if newKey {
		out.Key = client.NewBackupKey()
	}
	return out, f.ask("change-password", o, n)
}

func (f *fakeVault) Delete(context.Context) error { return f.ask("delete") }

func (f *fakeVault) DeleteWithPassword(_ context.Context, p secret.Bytes) error {
	return f.ask("delete-with-password", p)
}

func (f *fakeVault) Claim(_ context.Context, what client.ClaimKind) (client.Claim, error) {
	return client.Claim{ID: client.ClaimID{1}, What: what, Mine: true, Ripe: ripe, Expires: ripe.Add(time.Hour)}, f.ask("claim")
}

func (f *fakeVault) Cancel(_ context.Context, id client.ClaimID) error {
	f.cancelled = id
	return f.ask("cancel")
}

func (f *fakeVault) Close() error { return nil }

var ripe = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// phone is a state with a device key, the files that the vault's commands
// take, and a vault that does as it is told.
type phone struct {
	t     *testing.T
	dir   string
	state state.Dir
	vault *fakeVault
}

func newPhone(t *testing.T) *phone {
	t.Helper()
	p := &phone{t: t, dir: t.TempDir(), vault: &fakeVault{}}
	p.state = state.At(p.path("state"))
	if _, err := p.state.NewDevice(); err != nil {
		t.Fatal(err)
	}
	pins := fleet.Pins{Fleet: "staging", MinEpoch: 1}
	for i, name := range []string{"example.com/a", "example.com/b"} {
		_, vkey, err := fleet.GenerateSigner(name)
		if err != nil {
			t.Fatal(err)
		}
		pins.Signers[i] = vkey
	}
	b, err := pins.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"pins.json": string(b), "ticket.jwt": canaryTicket, "password": canaryPassword + "\n", "new": canaryNew + "\n",
		"config.yaml":    "url: wss://127.0.0.1:1/v1/ws\nfleet: " + p.path("pins.json") + "\nticket-file: " + p.path("ticket.jwt") + "\n",
		"photos/one.txt": "one file",
	} {
		if err := os.MkdirAll(filepath.Dir(p.path(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p.path(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p *phone) path(name string) string { return filepath.Join(p.dir, name) }

// run is a command as typed, with the state, and FILE: standing for a file of
// the phone.
func (p *phone) run(args ...string) (code int, stdout, stderr string) {
	p.t.Helper()
	return p.runIn(p.t.Context(), nil, args...)
}

func (p *phone) runIn(ctx context.Context, in *bytes.Buffer, args ...string) (code int, stdout, stderr string) {
	p.t.Helper()
	args = slices.Clone(args)
	for i := range args {
		args[i] = strings.Replace(args[i], "FILE:", p.dir+string(filepath.Separator), 1)
	}
	if in == nil {
		in = new(bytes.Buffer)
	}
	var out, errOut bytes.Buffer
	code = run(ctx, cmdline.IO{In: in, Out: &out, Err: &errOut}, append(args, "--state", p.state.Path(), "--no-input"),
		func(cfg client.Config) (sdk, error) { p.vault.cfg = cfg; return p.vault, nil })
	return code, out.String(), errOut.String()
}

// online is run with the vault's flags, and --json; it returns the object.
func (p *phone) online(want int, args ...string) map[string]any {
	p.t.Helper()
	code, stdout, stderr := p.run(append(args, "--json", "--config", "FILE:config.yaml")...)
	if code != want {
		p.t.Fatalf("%v: exit code %d, want %d\n%s%s", args, code, want, stdout, stderr)
	}
	return oneObject(p.t, stdout)
}

// oneObject insists on exactly one JSON object.
func oneObject(t *testing.T, stdout string) map[string]any {
	t.Helper()
	var fields map[string]any
	dec := json.NewDecoder(strings.NewReader(stdout))
	if err := dec.Decode(&fields); err != nil || dec.More() {
		t.Fatalf("not one JSON object: %q, %v", stdout, err)
	}
	for _, name := range []string{"code", "attempt_charged", "attempts_left", "retry_after_ms", "pending_until"} {
		if _, ok := fields[name]; !ok {
			t.Fatalf("no %s in %q", name, stdout)
		}
	}
	return fields
}

// current is the backup key in use and its generation.
func (p *phone) current() state.Key {
	p.t.Helper()
	keys, err := p.state.Keys()
	if err != nil {
		p.t.Fatal(err)
	}
	key, ok := keys.Current()
	if !ok {
		p.t.Fatal("the phone has no backup key")
	}
	return key
}

// hold gives the phone a backup key of a generation.
func (p *phone) hold(key client.BackupKey, generation uint64) {
	p.t.Helper()
	keys, err := p.state.Keys()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.state.SaveKeys(keys.With(key, generation, ripe)); err != nil {
		p.t.Fatal(err)
	}
}
