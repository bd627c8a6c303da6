package client_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// forbidden says what no package of the client may link, and why.
var forbidden = map[string]string{
	"github.com/miekg/pkcs11":   "a phone has no HSM, and pkcs11 is cgo",
	"github.com/redis/go-redis": "routes and limits are the relay's",
	"chatvault/vaultd/":         "what the vault decides is no business of whoever asks it",
	"chatvault/chatd/":          "the client speaks to any relay, by the protocol only",
	"github.com/DataDog/zstd":   "cgo",
	"github.com/cloudflare/":    "circl is a test oracle: not constant time on P-256",
}

func goTool(t *testing.T, env []string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v go %s: %v\n%s", env, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func TestLinksNothingForbidden(t *testing.T) {
	out := goTool(t, []string{"CGO_ENABLED=1"}, "list", "-deps",
		"-f", "{{if not .Standard}}{{.ImportPath}} {{len .CgoFiles}}{{end}}", "./...")
	lines := strings.Fields(out)
	if len(lines) < 20 {
		t.Fatalf("only %d words from go list", len(lines))
	}
	for i := 0; i+1 < len(lines); i += 2 {
		path, cgo := lines[i], lines[i+1]
		if cgo != "0" {
			t.Errorf("%s uses cgo: the SDK builds for phones without a C compiler", path)
		}
		for prefix, why := range forbidden {
			if strings.HasPrefix(path, prefix) {
				t.Errorf("links %s: %s", path, why)
			}
		}
	}
}

func TestBuildsForPhonesAndDesktops(t *testing.T) {
	for _, target := range []string{"android/arm64", "darwin/arm64", "windows/amd64"} {
		goos, goarch, _ := strings.Cut(target, "/")
		goTool(t, []string{"CGO_ENABLED=0", "GOOS=" + goos, "GOARCH=" + goarch}, "build", "./...")
	}
}
