package p11

import (
	"testing"

	"github.com/miekg/pkcs11"

	"chatvault/vaultd/internal/hsm/hsmtest"
)

// provisioned is a token that holds all keys.
func provisioned(t testing.TB) hsmtest.Token {
	t.Helper()
	token := hsmtest.NewSoftHSM(t)
	if err := Provision(t.Context(), Config{URI: token.URI}); err != nil {
		t.Fatal(err)
	}
	return token
}

// opened is a module on the token, closed when the test ends.
func opened(t testing.TB, config Config) *Module {
	t.Helper()
	m, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return m
}

// settingsOf is config with another loader in place.
func settingsOf(t testing.TB, config Config, load loader) settings {
	t.Helper()
	s, err := config.settings()
	if err != nil {
		t.Fatal(err)
	}
	s.load = load
	return s
}

// raw runs f in a read-write session beside those of the package, logged in.
func raw(t testing.TB, token hsmtest.Token, f func(api *pkcs11.Ctx, session pkcs11.SessionHandle)) {
	t.Helper()
	s := settingsOf(t, Config{URI: token.URI}, load)
	lib, err := acquire(s.uri.ModulePath, s.load)
	if err != nil {
		t.Fatal(err)
	}
	err = withVisit(t.Context(), &s, lib, pkcs11.CKF_RW_SESSION, false, func(v *visit) error {
		f(pkcs11.New(s.uri.ModulePath), v.session)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := lib.release(); err != nil {
		t.Fatal(err)
	}
}
