package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chatvault/protocol/cmdline"
	"chatvault/protocol/cmdline/admin/admintest"
	"chatvault/protocol/cmdline/logtest"
	"chatvault/vaultd/internal/pki"
)

// serving runs "vaultd serve" in this process, with keys and records in memory,
// until stop is called; stop returns the exit code.
func serving(t *testing.T, args ...string) (log *logtest.Log, stop func() int) {
	t.Helper()
	dir := t.TempDir()
	if err := pki.Generate(filepath.Join(dir, "pki"), pki.Options{Validity: time.Hour, DiscardCAKey: true}); err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	issuer, config := filepath.Join(dir, "issuer.pem"), filepath.Join(dir, "vaultd.yaml")
	for path, b := range map[string][]byte{
		issuer: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		config: fmt.Appendf(nil, "issuers:\n  - {name: app, issuers: ['https://app.test'], key-file: %s}\n", issuer),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log = logtest.New()
	ctx, cancel := context.WithCancel(t.Context())
	app := cmdline.App{Name: "vaultd", IO: cmdline.IO{Out: io.Discard, Err: log}}
	exited := make(chan int, 1)
	go func() {
		defer log.End()
		exited <- app.Run(ctx, &grammar{}, append([]string{"serve", "--config", config, "--fleet", "test", "--listen", "127.0.0.1:0",
			"--tls-ca", filepath.Join(dir, "pki", pki.CACert), "--tls-cert", filepath.Join(dir, "pki", pki.VaultdCert), "--tls-key", filepath.Join(dir, "pki", pki.VaultdKey),
			"--hsm", "mem", "--store", "mem", "--insecure-dev"}, args...))
	}()
	return log, func() int {
		cancel()
		return <-exited
	}
}

func TestTheAdminListener(t *testing.T) {
	log, stop := serving(t, "--admin", "127.0.0.1:0", "--memory-limit", "1GiB")
	log.Await(t, "listening")
	if line := log.Await(t, "memory limit"); os.Getenv("GOMEMLIMIT") == "" && (line["bytes"] != float64(1<<30) || line["from"] != "memory-limit") {
		t.Errorf("%v", line)
	}
	base := "http://" + log.Await(t, "admin")["address"].(string)
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/buildinfo": 200, "/debug/pprof/": 404} {
		if code, _ := admintest.Get(t, base+path); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
	_, body := admintest.Get(t, base+"/metrics")
	for _, want := range []string{
		`vaultd_ready{part="hsm"} 1`, `vaultd_ready{part="store"} 1`, "vaultd_sessions 0", "vaultd_uplinks 0",
		"vaultd_attempts_charged_total 0", "vaultd_keys_destroyed_total 0", `vaultd_ops_total{code="ok",op="recover_start"} 0`,
		`vaultd_op_seconds_count{op="recover_start"} 0`, `vaultd_hsm_errors_total{call="evaluate"} 0`,
	} {
		if !strings.Contains(body, "\n"+want+"\n") {
			t.Errorf("/metrics does not say %q", want)
		}
	}
	if code := stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestAdminFlagsAreChecked(t *testing.T) {
	for want, args := range map[string][]string{
		"--admin-pprof: wants admin": {"--admin-pprof"},
		"not on loopback":            {"--admin", ":0", "--admin-pprof"},
	} {
		log, stop := serving(t, args...)
		if code := stop(); code != 2 || !strings.Contains(log.String(), want) {
			t.Errorf("%v: exit code %d, %q; want 2 and %q", args, code, log.String(), want)
		}
	}
}
