package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// chatd cannot read what it relays because it does not link the code that
// could. A path ends with * when all below it is meant.
var forbidden = map[string]string{
	"chatvault/protocol/noisenk":     "the transport of vault sessions: chatd would hold one end of it",
	"chatvault/protocol/vaultmsg":    "the inner messages: chatd must not be able to parse one",
	"chatvault/protocol/opaque":      "the password protocol: chatd must not be able to take part in it",
	"chatvault/protocol/oprf":        "evaluations are the vault's, behind its counter",
	"chatvault/protocol/keywrap":     "wraps the backup key, which chatd never sees",
	"chatvault/protocol/password":    "chatd never sees a password",
	"chatvault/protocol/backupfile*": "backups do not pass through chatd",
	"github.com/flynn/noise":         "as noisenk",
	"github.com/miekg/pkcs11":        "the HSM is the vault's; and it needs cgo",
	"chatvault/vaultd*":              "the vault's own code",
	"chatvault/client*":              "the client's own code",
}

func TestChatdLinksNothingThatCouldReadASession(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 50 {
		t.Fatalf("go list named only %d packages", len(deps))
	}
	for _, dep := range deps {
		for path, why := range forbidden {
			prefix, below := strings.CutSuffix(path, "*")
			if dep == prefix || below && strings.HasPrefix(dep, prefix+"/") {
				t.Errorf("chatd links %s: %s", dep, why)
			}
		}
	}
	for path := range forbidden {
		if !exists(t, path) {
			t.Errorf("%s is forbidden, but there is no such package: was it renamed?", path)
		}
	}
}

// exists keeps the list above honest: a renamed package must not slip past it.
func exists(t *testing.T, path string) bool {
	t.Helper()
	dir, below := strings.CutSuffix(path, "*")
	if rest, own := strings.CutPrefix(dir, "chatvault/"); own {
		info, err := os.Stat(filepath.Join("..", rest))
		return err == nil && info.IsDir()
	}
	return !below && exec.Command("go", "list", dir).Run() == nil
}

func TestItBuildsWithoutCgo(t *testing.T) {
	cmd := exec.Command("go", "build", "-o", filepath.Join(t.TempDir(), "chatd"), ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("CGO_ENABLED=0 go build: %v\n%s", err, out)
	}
}
