// Package command is the grammar of backupctl and what its commands do.
package command

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/ask"
	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/client/cmd/backupctl/internal/state"
	"chatvault/protocol/cmdline"
)

const name = "backupctl"

const description = `Keeps encrypted backups of chats, and their key in a vault that a password opens.

Without any vault:

  backupctl backup photos photos.cvb        encrypt a folder
  backupctl key show                        write down the recovery key
  backupctl verify photos.cvb               is the file whole?
  backupctl restore photos.cvb photos.new   get it back

With a vault, on each phone (--state is the phone):

  backupctl device new                      make the device key
  backupctl register                        put the backup key behind a password
  backupctl recover                         get it back on the next phone

Exit codes: 0 ok, 1 error, 2 usage, 3 not authorised, 4 wrong password, 5 key destroyed, 6 rate limited, 7 corrupt backup, 8 unreachable, 9 wrong recovery key, 10 nothing registered, 11 replacement pending.`

// Globals are the flags of every command.
type Globals struct {
	State   string `placeholder:"DIR" help:"Folder that is the phone: device key, backup key, what the vault said. Losing the phone = deleting it. Default: ~/.backupctl"`
	JSON    bool   `name:"json" help:"Print exactly one JSON object on standard output, also for errors."`
	Quiet   bool   `short:"q" help:"No progress, no remarks; errors and warnings only."`
	NoInput bool   `help:"Never ask at the terminal: fail instead."`

	URL         string        `name:"url" placeholder:"URL" group:"Vault" help:"The relay, as wss://vault.example.com/v1/ws."`
	Fleet       string        `placeholder:"FILE" group:"Vault" help:"Pins of the fleet: its id, its two signers, the lowest epoch (JSON)."`
	TicketFile  string        `placeholder:"FILE" group:"Vault" help:"Ticket for this device; read again whenever a fresh one is needed."`
	ConnectWait time.Duration `group:"Vault" default:"8s" help:"How long to try before the vault is called unreachable."`
	TLSCA       string        `name:"tls-ca" placeholder:"FILE" group:"Vault" help:"PEM of a private CA for wss, in development. Default: the system's CAs."`
}

// grammar is the command line.
type grammar struct {
	cmdline.ConfigFlag
	Globals

	Backup  backupCmd  `cmd:"" help:"Encrypt a folder, or standard input, into a backup."`
	Restore restoreCmd `cmd:"" help:"Get a backup back, into a new folder or to standard output."`
	Verify  verifyCmd  `cmd:"" help:"Read a whole backup and say whether it is intact. Writes nothing."`
	Key     keyCmd     `cmd:"" help:"The recovery key: what opens backups without any vault."`

	Register       registerCmd       `cmd:"" help:"Put the backup key into the vault, behind a new password."`
	Recover        recoverCmd        `cmd:"" help:"Get the backup key back with the password."`
	Status         statusCmd         `cmd:"" help:"What stands under the account: attempts left, claims, what happened."`
	ChangePassword changePasswordCmd `cmd:"" help:"Replace the password by another one."`
	Replace        replaceCmd        `cmd:"" help:"Password forgotten, phone still here: register anew."`
	Delete         deleteCmd         `cmd:"" help:"Destroy the key in the vault."`
	Claim          claimCmd          `cmd:"" help:"Phone and password lost: ask for the right to replace or delete."`
	Cancel         cancelCmd         `cmd:"" help:"Remove a claim: object to it, or think better of it."`

	Device  deviceCmd  `cmd:"" help:"The device key, which tickets are bound to."`
	Ticket  ticketCmd  `cmd:"" help:"Tickets: what an app's own login mints. For development."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

// session is what a command works with. It is made before the flags are known.
type session struct {
	*Globals
	io       cmdline.IO
	now      func() time.Time
	newSDK   func(client.Config) (sdk, error)
	warnings []string
	reported bool
}

// Main runs one command line and returns the exit code.
func Main(ctx context.Context, io cmdline.IO, args []string) int {
	return run(ctx, io.OrStandard(), args, newSDK)
}

func run(ctx context.Context, io cmdline.IO, args []string, newSDK func(client.Config) (sdk, error)) int {
	var g grammar
	s := &session{Globals: &g.Globals, io: io, now: time.Now, newSDK: newSDK}
	// What cmdline prints about wrong flags is an error of the one JSON object
	// too.
	said := &tee{w: io.Err}
	io.Err = said
	app := cmdline.App{Name: name, Description: description, IO: io}
	code := app.Run(ctx, &g, args, s)
	if code != 0 && !s.reported && (s.JSON || wantsJSON(args)) {
		text, _, _ := strings.Cut(said.buf.String(), "\n")
		s.print(&report.Outcome{Code: "usage", Exit: code, Error: strings.TrimPrefix(text, name+": ")})
	}
	return code
}

// wantsJSON looks for --json where the flags could not be parsed.
func wantsJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json")
}

// tee keeps the first KiB of what passes.
type tee struct {
	w   io.Writer
	buf bytes.Buffer
}

func (t *tee) Write(p []byte) (int, error) {
	if room := 1024 - t.buf.Len(); room > 0 {
		t.buf.Write(p[:min(len(p), room)])
	}
	return t.w.Write(p)
}

func (s *session) asker() ask.Asker { return ask.Asker{NoInput: s.NoInput} }

// dir is the state.
func (s *session) dir() (state.Dir, error) {
	if s.State != "" {
		return state.At(s.State), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return state.Dir{}, cmdline.Usagef("say where the state is: --state DIR")
	}
	return state.At(filepath.Join(home, ".backupctl")), nil
}
