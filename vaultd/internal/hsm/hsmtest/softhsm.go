package hsmtest

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"chatvault/docker/softhsm"
	"chatvault/vaultd/internal/hsm/pkcs11uri"
)

// Token is a fresh SoftHSM token, without keys.
type Token struct {
	URI     string // names module, token and PIN file
	PINFile string // mode 0600
	PIN     string
	Conf    string // the softhsm2.conf, already in SOFTHSM2_CONF
	Dir     string // the directory of this one token; moved away, the token is gone
}

// ModulePath is where SoftHSM is; the test fails if it is nowhere.
func ModulePath(t testing.TB) string {
	t.Helper()
	path := softhsm.Module()
	if path == "" {
		t.Fatalf("SoftHSM is not installed; install it: %s", softhsm.Install)
	}
	return path
}

// home is the directory of the tokens of this process. SoftHSM reads
// SOFTHSM2_CONF whenever it is initialised, also in the middle of another
// test, so all tokens that live at one time share one directory.
var home struct {
	sync.Mutex
	dir    string
	tokens int
	before string // SOFTHSM2_CONF as it was
	was    bool
}

// NewSoftHSM makes a token that lives until the test ends. Programs that the
// test starts inherit SOFTHSM2_CONF and see the token. Tests may run in
// parallel.
func NewSoftHSM(t testing.TB) Token {
	t.Helper()
	module := ModulePath(t)
	home.Lock()
	defer home.Unlock()
	if home.tokens == 0 {
		if err := openHome(); err != nil {
			t.Fatal(err)
		}
	}
	home.tokens++
	t.Cleanup(closeHome)

	label, pin := "test-"+rand.Text()[:12], rand.Text()[:16]
	tokens := filepath.Join(home.dir, "tokens")
	before := entries(t, tokens)
	output, err := exec.Command("softhsm2-util", "--init-token", "--free",
		"--label", label, "--pin", pin, "--so-pin", rand.Text()[:16]).CombinedOutput()
	if err != nil {
		t.Fatalf("make a SoftHSM token (install it: %s): %v\n%s", softhsm.Install, err, output)
	}
	token := Token{
		PIN: pin, Conf: filepath.Join(home.dir, "softhsm2.conf"),
		PINFile: filepath.Join(home.dir, label+".pin"),
	}
	for name := range entries(t, tokens) {
		if !before[name] {
			token.Dir = filepath.Join(tokens, name)
		}
	}
	if err := os.WriteFile(token.PINFile, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token.URI = pkcs11uri.URI{Token: label, ModulePath: module, PINSource: token.PINFile}.String()
	return token
}

func openHome() error {
	dir, err := os.MkdirTemp("", "softhsm-test-")
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		return err
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	text := strings.Join([]string{
		"directories.tokendir = " + filepath.Join(dir, "tokens"),
		"objectstore.backend = file",
		"log.level = ERROR",
		"slots.removable = false",
	}, "\n")
	if err := os.WriteFile(conf, []byte(text+"\n"), 0o600); err != nil {
		return err
	}
	home.dir = dir
	home.before, home.was = os.LookupEnv("SOFTHSM2_CONF")
	return os.Setenv("SOFTHSM2_CONF", conf)
}

func closeHome() {
	home.Lock()
	defer home.Unlock()
	if home.tokens--; home.tokens > 0 {
		return
	}
	os.RemoveAll(home.dir)
	if home.was {
		os.Setenv("SOFTHSM2_CONF", home.before)
	} else {
		os.Unsetenv("SOFTHSM2_CONF")
	}
}

func entries(t testing.TB, dir string) map[string]bool {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(fmt.Errorf("list tokens: %w", err))
	}
	names := map[string]bool{}
	for _, entry := range list {
		names[entry.Name()] = true
	}
	return names
}
