package docker

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOperatorsGuideRuns does what docs/operate.md says, command by command, on
// a new SoftHSM token.
func TestOperatorsGuideRuns(t *testing.T) {
	guide, err := os.ReadFile("docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	script, blocks := "set -eu\n", 0
	for _, part := range strings.Split(string(guide), "\n```sh\n")[1:] {
		block, _, whole := strings.Cut(part, "\n```\n")
		if !whole {
			t.Fatal("a code block does not end")
		}
		script += block + "\n"
		blocks++
	}
	if blocks != 2 {
		t.Errorf("%d code blocks, want the ceremony and the renewal", blocks)
	}
	dir := t.TempDir()
	conf := newToken(t, dir)
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf, "PATH="+binDir+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"this module fits", "good: fleet example-2026, epoch 1,", "good: fleet example-2026, epoch 2,"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
}

// newToken does what the vendor's tool does: a token named vault, and the file
// pin, in dir.
func newToken(t *testing.T, dir string) (conf string) {
	t.Helper()
	conf = filepath.Join(dir, "softhsm2.conf")
	pin := rand.Text()
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		conf: fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\n", tokens), filepath.Join(dir, "pin"): pin + "\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "vault", "--pin", pin, "--so-pin", rand.Text())
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return conf
}
