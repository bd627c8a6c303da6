package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"chatvault/protocol/fleet"
	"chatvault/protocol/ticket"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"backupctl": main})
}

// The scripts show the program as typed: one file for each command, with its
// errors and exit codes.
func TestAsTyped(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			return errors.Join(writePins(env.WorkDir), writeOldTicket(env.WorkDir))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "flip": flip, "cut": cut,
		},
	})
}

// writePins writes pins.json, of a fleet named staging that nobody runs.
func writePins(dir string) error {
	pins := fleet.Pins{Fleet: "staging", MinEpoch: 1}
	for i, name := range []string{"example.com/a", "example.com/b"} {
		_, vkey, err := fleet.GenerateSigner(name)
		if err != nil {
			return err
		}
		pins.Signers[i] = vkey
	}
	b, err := pins.MarshalJSON()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "pins.json"), b, 0o600)
}

// writeOldTicket writes old.jwt, which ended at 2020-01-01 00:10:00 UTC.
func writeOldTicket(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	issued := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	text, err := ticket.Mint(key, "", ticket.Claims{Issuer: "i", Subject: "alice", Audience: []string{"demo"},
		IssuedAt: issued, Expires: issued.Add(10 * time.Minute), Device: ticket.Thumbprint{1}})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "old.jwt"), []byte(text), 0o600)
}

// exits CODE program args...: the program must end with exactly this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE program args...")
	}
	code, err := 0, ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// flip FILE OFFSET flips a bit; a negative offset counts from the end.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	b := []byte(ts.ReadFile(args[0]))
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// cut FILE N cuts N bytes off the end.
func cut(ts *testscript.TestScript, _ bool, args []string) {
	b := ts.ReadFile(args[0])
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(b[:len(b)-n]), 0o600))
}
