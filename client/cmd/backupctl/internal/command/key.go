package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"rsc.io/qr"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/client/cmd/backupctl/internal/state"
)

type keyCmd struct {
	Show  keyShowCmd  `cmd:"" help:"Print the recovery key, to write it down."`
	Check keyCheckCmd `cmd:"" help:"Was it written down right? Type it and see."`
}

type keyShowCmd struct {
	QR bool `name:"qr" help:"As a QR code too."`
}

// Help implements kong.HelpProvider.
func (keyShowCmd) Help() string {
	return `Prints the backup key as 64 digits in 16 groups, and a check group. It opens every backup made with it, without vault or password: whoever reads it can do the same. Nothing else goes to standard output, so a file of it serves --recovery-key-file.

	backupctl key show
	backupctl key show --qr
	(umask 077; backupctl key show > key.txt)`
}

type keyShowResult struct {
	report.Outcome
	// RecoveryKey is a secret: printing it is what the command is for.
	RecoveryKey string `json:"recovery_key"`
	Generation  uint64 `json:"generation"`
	qr          string
}

func (r *keyShowResult) text(w io.Writer) {
	groups := strings.Fields(r.RecoveryKey)
	for i := 0; i+4 <= len(groups); i += 4 {
		fmt.Fprintln(w, strings.Join(groups[i:i+4], " "))
	}
	fmt.Fprintln(w, strings.Join(groups[16:], " ")) // the dash and the check group
	if r.qr != "" {
		fmt.Fprint(w, "\n"+r.qr)
	}
}

// Run shows the recovery key.
func (c *keyShowCmd) Run(s *session) error { return s.done(c.run(s)) }

func (c *keyShowCmd) run(s *session) (result, error) {
	dir, keys, err := s.savedKeys()
	if err != nil {
		return nil, err
	}
	key, ok := keys.Current()
	if !ok {
		return nil, noKey(dir)
	}
	r := &keyShowResult{RecoveryKey: string(client.FormatRecoveryKey(key.Backup)), Generation: key.Generation}
	if c.QR {
		colours := isTerminal(s.io.Out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		if r.qr, err = halfBlocks(r.RecoveryKey, colours); err != nil {
			return nil, err
		}
	}
	if isTerminal(s.io.Out) {
		s.remark("Write this down and keep it where no one else looks; then: backupctl key check")
	}
	return r, nil
}

func (s *session) savedKeys() (state.Dir, state.Keys, error) {
	dir, err := s.dir()
	if err != nil {
		return dir, state.Keys{}, err
	}
	keys, err := dir.Keys()
	return dir, keys, err
}

// halfBlocks draws a QR code with two modules to a character. Without colours
// the light modules are drawn, as a dark terminal shows them right.
func halfBlocks(recoveryKey string, colours bool) (string, error) {
	// Capital letters and no spaces fit the small alphanumeric mode.
	text := strings.ToUpper(strings.NewReplacer(" ", "", "-", "").Replace(recoveryKey))
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return "", fmt.Errorf("drawing the QR code: %w", err)
	}
	const quiet = 4 // modules around it, ISO/IEC 18004
	var out strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		if colours {
			out.WriteString("\x1b[30;107m") // black on bright white
		}
		for x := -quiet; x < code.Size+quiet; x++ {
			// Outside of the code, Black is false.
			upper, lower := code.Black(x, y), y+1 < code.Size+quiet && code.Black(x, y+1)
			if !colours {
				upper, lower = !upper, !lower && y+1 < code.Size+quiet
			}
			out.WriteString(map[[2]bool]string{{true, true}: "█", {true, false}: "▀", {false, true}: "▄", {false, false}: " "}[[2]bool{upper, lower}])
		}
		if colours {
			out.WriteString("\x1b[0m")
		}
		out.WriteByte('\n')
	}
	return out.String(), nil
}

type keyCheckCmd struct {
	RecoveryKeyFile string `placeholder:"FILE" help:"Read the recovery key from a file, without asking."`
}

// Help implements kong.HelpProvider.
func (keyCheckCmd) Help() string {
	return `Asks for the recovery key as it was written down and compares it with the state's. Exit code 9 if a digit is mistyped or it is another key.

	backupctl key check
	backupctl key check --recovery-key-file key.txt`
}

type keyCheckResult struct {
	report.Outcome
	Current    bool   `json:"current"` // the key in use, not an older one
	Generation uint64 `json:"generation"`
}

func (r *keyCheckResult) text(w io.Writer) {
	if r.Current {
		fmt.Fprintln(w, "Right: this recovery key opens the backups that this phone makes.")
		return
	}
	fmt.Fprintln(w, "An older key of this phone: it opens older backups. New ones need the one of: backupctl key show")
}

// Run compares.
func (c *keyCheckCmd) Run(ctx context.Context, s *session) error { return s.done(c.run(ctx, s)) }

func (c *keyCheckCmd) run(ctx context.Context, s *session) (result, error) {
	dir, keys, err := s.savedKeys()
	if err != nil {
		return nil, err
	}
	if _, ok := keys.Current(); !ok {
		return nil, noKey(dir)
	}
	typed, err := s.recoveryKey(ctx, c.RecoveryKeyFile)
	if err != nil {
		return nil, err
	}
	for i, key := range keys.All() {
		if key.Backup.Equal(typed.Key) {
			return &keyCheckResult{Current: i == 0, Generation: key.Generation}, nil
		}
	}
	return nil, failure(report.WrongKey, "wrong_recovery_key", "Write down the right one: backupctl key show",
		"this is a recovery key, but not of this phone")
}
