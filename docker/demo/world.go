package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"chatvault/docker/stack"
)

// sub is the account of everything that happens here.
const sub = "alice"

// world is the folder in which the story happens: the working directory of
// every command that is shown.
type world struct {
	dir   string
	stack *stack.Stack
	out   io.Writer
	step  int
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// chapter begins a part of the story.
func (w *world) chapter(title string) {
	w.step++
	fmt.Fprintf(w.out, "\n%d. %s\n", w.step, title)
}

func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.out, "   "+format+"\n", args...)
}

// expect is what a command must end with: its exit code, and what its output
// must match.
type expect struct {
	exit  int
	says  []string // regular expressions
	short bool     // show the first line of the output only
}

// backupctl runs the real program as a person would type it, shows the command
// line and what it prints, and fails if it does not do what was expected.
func (w *world) backupctl(ctx context.Context, e expect, args ...string) error {
	return w.backupctlTo(ctx, "", e, args...)
}

// backupctlTo is backupctl with standard output in a file.
func (w *world) backupctlTo(ctx context.Context, file string, e expect, args ...string) (err error) {
	line := "backupctl " + strings.Join(args, " ")
	var all bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(w.stack.BinDir, "backupctl"), args...)
	cmd.Dir = w.dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = &all, &all
	if file != "" {
		line += " > " + file
		f, err := os.OpenFile(w.path(file), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.Stdout = f
	}
	fmt.Fprintf(w.out, "\n   $ %s\n", line)
	err = cmd.Run()
	for text := range strings.Lines(all.String()) {
		fmt.Fprintln(w.out, "     "+strings.TrimSuffix(text, "\n"))
		if e.short {
			break
		}
	}
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return err
	}
	if code := cmd.ProcessState.ExitCode(); code != e.exit {
		return fmt.Errorf("%q ended with exit code %d, not %d", line, code, e.exit)
	}
	if e.exit != 0 {
		fmt.Fprintf(w.out, "     (exit code %d)\n", e.exit)
	}
	for _, want := range e.says {
		if !regexp.MustCompile(want).Match(all.Bytes()) {
			return fmt.Errorf("%q does not say %s", line, want)
		}
	}
	return nil
}

// newPhone makes a phone: a state with a device key, a ticket for it, and a
// configuration file with what else every command needs.
func (w *world) newPhone(ctx context.Context, name string) error {
	pins, err := os.ReadFile(w.stack.PinsFile)
	if err != nil {
		return err
	}
	config := fmt.Sprintf("url: %s\nfleet: pins.json\nstate: %s\nticket-file: %s\n", w.stack.URL(), name, ticketOf(name))
	for file, content := range map[string]string{"pins.json": string(pins), name + ".yaml": config} {
		if err := os.WriteFile(w.path(file), []byte(content), 0o600); err != nil {
			return err
		}
	}
	w.say("%s.yaml holds --url %s, --fleet pins.json, --state %s, --ticket-file %s", name, w.stack.URL(), name, ticketOf(name))
	if err := w.backupctl(ctx, expect{}, "device", "new", "--config", name+".yaml"); err != nil {
		return err
	}
	return w.mint(ctx, name)
}

// mint does what the app's backend does after its own login.
func (w *world) mint(ctx context.Context, phone string) error {
	key, err := filepath.Rel(w.dir, w.stack.IssuerKeyFile)
	if err != nil {
		return err
	}
	return w.backupctl(ctx, expect{says: []string{"good until"}}, "ticket", "mint", "--config", phone+".yaml",
		"--issuer-key", key, "--iss", stack.Issuer, "--sub", sub, "--ttl", "1h", "--out", ticketOf(phone))
}

func ticketOf(phone string) string { return phone + ".ticket" }

// lose is what happens to a phone, and to the files on it.
func (w *world) lose(names ...string) error {
	fmt.Fprintf(w.out, "\n   $ rm -r %s\n", strings.Join(names, " "))
	for _, name := range names {
		if _, err := os.Lstat(w.path(name)); err != nil {
			return err // then it was not there to be lost
		}
		if err := removeAll(w.path(name)); err != nil {
			return err
		}
	}
	return nil
}

// password writes a password into a file of mode 0600.
func (w *world) password(file, text string) error {
	return os.WriteFile(w.path(file), []byte(text+"\n"), 0o600)
}
