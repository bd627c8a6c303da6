// Package docker has nothing but tests: of the files beside it, which images
// and the compose stack are made of.
package docker

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"chatvault/docker/stack"
)

// root is the repository's, seen from here.
const root = ".."

// binDir holds chatd and vaultd; base what provision.sh has made.
var binDir, base string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "chatvault-docker-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binDir, base = filepath.Join(dir, "bin"), filepath.Join(dir, "base")
		if err := stack.Build(context.Background(), binDir); err != nil {
			panic(err)
		}
		if err := provision(base); err != nil {
			panic(err)
		}
		return m.Run()
	}())
}

// provision runs the script as the compose stack does, in another folder.
func provision(base string) error {
	cmd := exec.Command("dev/provision.sh")
	cmd.Env = append(os.Environ(), "CHATVAULT_DIR="+base, "PATH="+binDir+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return &scriptError{err, string(out)}
	}
	return nil
}

type scriptError struct {
	err error
	out string
}

func (e *scriptError) Error() string { return "provision.sh: " + e.err.Error() + "\n" + e.out }

// The first thing that provisioning makes survives the second run, and what a
// cut one left does not.
func TestProvisionTwice(t *testing.T) {
	pins, err := os.ReadFile(filepath.Join(base, "app/pins.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := provision(base); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(filepath.Join(base, "app/pins.json")); err != nil || string(again) != string(pins) {
		t.Errorf("the second run made another fleet: %v", err)
	}
	cut := t.TempDir()
	if err := os.MkdirAll(filepath.Join(cut, "vault/tokens/half"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := provision(cut); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cut, "vault/tokens/half")); !os.IsNotExist(err) {
		t.Errorf("half a token is still there: %v", err)
	}
}

// The daemons must not get at what the app, the signers and each other hold.
func TestProvisionKeepsSecretsApart(t *testing.T) {
	for _, file := range []string{"vault/pin", "vault/pki/vaultd.key", "relay/pki/chatd.key", "app/first.key", "app/second.key", "app/issuer.key", "app/so-pin"} {
		info, err := os.Stat(filepath.Join(base, file))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v", file, info.Mode())
		}
	}
	found, err := filepath.Glob(filepath.Join(base, "*/pki/*.key"))
	if err != nil || len(found) != 2 {
		t.Errorf("keys of certificates: %v, %v: want vaultd's and chatd's, and no authority's", found, err)
	}
}

// run runs one of the built programs and returns all that it printed.
func run(name string, args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(binDir, name), args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
