package hsm_test

import (
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"chatvault/vaultd/internal/hsm"
)

func TestKeys(t *testing.T) {
	keys := hsm.Keys()
	if len(keys) != 6+hsm.Epochs {
		t.Errorf("%d keys", len(keys))
	}
	seen := map[hsm.Key]bool{}
	for _, key := range keys {
		if seen[key] || key.Use() == hsm.UseNone {
			t.Errorf("%s: twice, or without a use", key)
		}
		seen[key] = true
	}
	for epoch, want := range map[uint32]hsm.Key{1: "seal-01", 9: "seal-09", 32: "seal-32"} {
		if got := hsm.SealKey(epoch); got != want || hsm.Check(got, hsm.UseSeal) != nil {
			t.Errorf("epoch %d: %s", epoch, got)
		}
	}
	for _, epoch := range []uint32{0, hsm.Epochs + 1, 101, 1<<32 - 1} {
		if err := hsm.Check(hsm.SealKey(epoch), hsm.UseSeal); !errors.Is(err, hsm.ErrNoKey) {
			t.Errorf("epoch %d: %v, want ErrNoKey", epoch, err)
		}
	}
	if err := hsm.Check("unknown", hsm.UseNone); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("an unknown key for no use: %v, want ErrNoKey", err)
	}
}

func TestExistsError(t *testing.T) {
	whole := &hsm.ExistsError{Present: hsm.Keys()}
	part := &hsm.ExistsError{Present: []hsm.Key{hsm.Wrap}, Missing: []hsm.Key{hsm.Noise, hsm.Audit}}
	if !errors.Is(whole, hsm.ErrExists) || !errors.Is(part, hsm.ErrExists) || whole.Partial() || !part.Partial() {
		t.Error("wrong kind of error")
	}
	if text := whole.Error(); !strings.Contains(text, "all 38 keys") {
		t.Error(text)
	}
	for _, want := range []string{"present: wrap;", "missing: noise audit"} {
		if !strings.Contains(part.Error(), want) {
			t.Errorf("%q is not in %q", want, part)
		}
	}
}

func TestReport(t *testing.T) {
	r := hsm.Report{Checks: []hsm.CheckResult{
		{Name: "one", OK: true}, {Name: "two", Detail: "why two", Advisory: true},
	}}
	if !r.Fit() || r.Why() != "" || !strings.Contains(r.String(), "this module fits") {
		t.Errorf("%+v\n%v", r, r)
	}
	r.Checks = append(r.Checks, hsm.CheckResult{Name: "three", Detail: "why three"})
	if r.Fit() || r.Why() != "three: why three" || len(r.Missing()) != 1 {
		t.Errorf("%+v: %q", r, r.Why())
	}
	if (hsm.Report{}).Fit() {
		t.Error("a module on which nothing was tried fits")
	}
	text, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(text), `{"name":"three","ok":false,"detail":"why three"}`) {
		t.Errorf("%s, %v", text, err)
	}
}

// Only p11 may bring cgo and PKCS#11 into a program: the vault's rules are
// tested without a token, and the module is to move into a process of its own.
func TestOnlyP11LinksPKCS11(t *testing.T) {
	for _, pkg := range []string{".", "./memhsm", "./hsmtest", "./pkcs11uri"} {
		command := exec.Command("go", "list", "-deps", pkg)
		command.Env = append(command.Environ(), "CGO_ENABLED=0")
		out, err := command.Output()
		if err != nil {
			t.Fatalf("go list -deps %s: %v", pkg, err)
		}
		deps := strings.Fields(string(out))
		if len(deps) < 10 {
			t.Errorf("%s: only %d dependencies listed", pkg, len(deps))
		}
		for _, dep := range deps {
			if strings.Contains(dep, "miekg/pkcs11") || strings.HasSuffix(dep, "hsm/p11") || dep == "runtime/cgo" {
				t.Errorf("%s links %s", pkg, dep)
			}
		}
	}
}
