package p11

import (
	"testing"

	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/hsmtest"
)

func TestSuite(t *testing.T) {
	token := provisioned(t)
	hsmtest.Run(t, func(t *testing.T) hsm.Module {
		m, err := Open(t.Context(), Config{URI: token.URI})
		if err != nil {
			t.Fatal(err)
		}
		return m
	})
}

func TestProbeSoftHSM(t *testing.T) {
	token := hsmtest.NewSoftHSM(t)
	report, err := Probe(t.Context(), Config{URI: token.URI})
	if err != nil || !report.Fit() {
		t.Fatalf("%v\n%v", err, report)
	}
	t.Log("\n" + report.String())
	for _, check := range report.Checks {
		if !check.OK {
			t.Errorf("%s: %s", check.Name, check.Detail)
		}
	}
}
