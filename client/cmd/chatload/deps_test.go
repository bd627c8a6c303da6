package main

import (
	"os/exec"
	"strings"
	"testing"
)

// forbidden says what the program may not link, and why. That it needs no cgo
// and builds for other systems, the client's own test says.
var forbidden = map[string]string{
	"github.com/miekg/pkcs11":         "who asks a vault has no HSM",
	"github.com/redis/go-redis":       "routes and limits are the relay's",
	"chatvault/vaultd":                "it measures what it can see from outside",
	"chatvault/chatd":                 "it measures what it can see from outside",
	"chatvault/docker":                "tests only",
	"github.com/rogpeppe/go-internal": "tests only",
	"testing":                         "tests only",
}

func TestLinksNothingForbidden(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "chatvault/client\n") {
		t.Fatalf("not a list of imports: %s", out)
	}
	for line := range strings.Lines(string(out)) {
		path := strings.TrimSpace(line)
		for bad, why := range forbidden {
			if path == bad || strings.HasPrefix(path, bad+"/") {
				t.Errorf("links %s: %s", path, why)
			}
		}
	}
}
