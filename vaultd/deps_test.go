package main

import (
	"os/exec"
	"strings"
	"testing"
)

// links lists all that a package links, its tests aside.
func links(t *testing.T, pkg string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", pkg)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	all := strings.Fields(string(out))
	if len(all) < 20 {
		t.Fatalf("go list -deps %s named only %d packages", pkg, len(all))
	}
	return all
}

func forbid(t *testing.T, pkg string, forbidden map[string]string) {
	t.Helper()
	for _, path := range links(t, pkg) {
		for prefix, why := range forbidden {
			if path == prefix || strings.HasPrefix(path, prefix+"/") {
				t.Errorf("%s links %s: %s", pkg, path, why)
			}
		}
	}
}

func TestVaultdLinksNothingForbidden(t *testing.T) {
	forbid(t, ".", map[string]string{
		"github.com/gorilla/websocket":  "clients come through chatd only",
		"github.com/redis/go-redis":     "counters never live in Redis",
		"github.com/alicebob/miniredis": "nor in its twin",
		"github.com/cloudflare/circl":   "a test oracle: not constant time on P-256",
		"chatvault/chatd":               "what the relay does is believed in nothing",
		"chatvault/client":              "the vault never acts for a client",
		"chatvault/docker":              "test beds are not shipped",
		"chatvault/protocol/backupfile": "the vault never sees a backup",
		"chatvault/protocol/keywrap":    "nor unwraps a key",
	})
}

// The rules and what follows from them are pure Go, raced and fuzzed without a
// token, a network or a disk.
func TestTheVaultLinksNeitherTokenNorNetwork(t *testing.T) {
	forbid(t, "./internal/vault", map[string]string{
		"github.com/miekg/pkcs11":                      "HSM and store are interfaces",
		"github.com/cockroachdb/pebble":                "HSM and store are interfaces",
		"go.etcd.io/etcd":                              "HSM and store are interfaces",
		"github.com/jackc/pgx":                         "HSM and store are interfaces",
		"net/http":                                     "requests come as bytes from package session",
		"chatvault/vaultd/internal/hsm/p11":            "HSM and store are interfaces",
		"chatvault/vaultd/internal/recordstore/remote": "HSM and store are interfaces",
		"chatvault/vaultd/internal/session":            "it is called, it does not call",
		"chatvault/vaultd/internal/uplink":             "it is called, it does not call",
	})
	forbid(t, "./internal/rules", map[string]string{
		"chatvault/vaultd/internal/recordstore": "rules decide, others store",
		"net":                                   "a rule is a function of record, request and time",
	})
}
