package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// forbidden says what the program may not link, and why.
var forbidden = map[string]string{
	"github.com/miekg/pkcs11":         "a phone has no HSM, and pkcs11 is cgo",
	"github.com/redis/go-redis":       "routes and limits are the relay's",
	"chatvault/vaultd":                "what the vault decides is no business of whoever asks it",
	"chatvault/chatd":                 "it speaks to any relay, by the protocol only",
	"github.com/rogpeppe/go-internal": "tests only",
	"testing":                         "tests only",
}

func TestLinksNothingForbidden(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}} {{if .Standard}}0{{else}}{{len .CgoFiles}}{{end}}", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "chatvault/client 0\n") {
		t.Fatalf("not a list of imports: %s", out)
	}
	for line := range strings.Lines(string(out)) {
		path, cgo, _ := strings.Cut(strings.TrimSpace(line), " ")
		if cgo != "0" {
			t.Errorf("%s uses cgo: the program is built for systems without a C compiler", path)
		}
		for bad, why := range forbidden {
			if path == bad || strings.HasPrefix(path, bad+"/") {
				t.Errorf("links %s: %s", path, why)
			}
		}
	}
}
