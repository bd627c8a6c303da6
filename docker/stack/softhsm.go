package stack

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"chatvault/docker/softhsm"
)

// token is a SoftHSM token in the stack's folder.
type token struct {
	conf    string // the softhsm2.conf
	uri     string // RFC 7512: module and token; no PIN
	pinFile string // the user's PIN, mode 0600
}

const tokenLabel = "vault"

// environment is what a program must have to see the token.
func (t token) environment() []string { return append(os.Environ(), "SOFTHSM2_CONF="+t.conf) }

// newToken makes a fresh token under dir.
//
// softhsm2-util takes PINs by flag only, where other users of the machine can
// see them while it runs. That is good enough for a token that is thrown away
// and for no other: an operator lets it prompt.
func newToken(ctx context.Context, dir string) (token, error) {
	module := softhsm.Module()
	util, err := exec.LookPath("softhsm2-util")
	if module == "" || err != nil {
		return token{}, errors.New("SoftHSM is not installed; run \"make setup\"")
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return token{}, err
	}
	t := token{
		conf:    filepath.Join(dir, "softhsm2.conf"),
		pinFile: filepath.Join(dir, "pin"),
		uri:     "pkcs11:token=" + tokenLabel + "?module-path=" + module,
	}
	pin, soPIN := rand.Text(), rand.Text()
	for name, text := range map[string]string{
		t.conf:                       "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\n",
		t.pinFile:                    pin + "\n",
		filepath.Join(dir, "so-pin"): soPIN + "\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return token{}, err
		}
	}
	cmd := exec.CommandContext(ctx, util, "--init-token", "--free", "--label", tokenLabel, "--pin", pin, "--so-pin", soPIN)
	cmd.Env = t.environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return token{}, fmt.Errorf("softhsm2-util: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return t, nil
}
