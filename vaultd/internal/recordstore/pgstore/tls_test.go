package pgstore_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"chatvault/vaultd/internal/recordstore/engines/certs"
	"chatvault/vaultd/internal/recordstore/engines/postgres"
	"chatvault/vaultd/internal/recordstore/pgstore"
	"chatvault/vaultd/internal/recordstore/remote"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, foreign := certs.NewCA(t), certs.NewCA(t)
	server, vaultd := ca.Issue(t, "server"), ca.Issue(t, postgres.Role)
	o := fresh(postgres.Start(t, postgres.Options{Cert: server.Cert, Key: server.Key, CA: ca.File}))
	o.Timeout = time.Second
	good := remote.TLS{CA: ca.File, Cert: vaultd.Cert, Key: vaultd.Key}
	o.TLS = good
	s := open(t, o)
	if _, err := s.Swap(t.Context(), one, 0, []byte("x")); err != nil {
		t.Fatal(err)
	}
	other := ca.Issue(t, "other")
	for name, files := range map[string]remote.TLS{
		"another CA":             {CA: foreign.File, Cert: vaultd.Cert, Key: vaultd.Key},
		"no client certificate":  {CA: ca.File},
		"certificate of another": {CA: ca.File, Cert: other.Cert, Key: other.Key},
		"plaintext":              {},
		"missing CA":             {CA: filepath.Join(t.TempDir(), "none")},
	} {
		o.TLS = files
		if _, err := pgstore.Open(t.Context(), o); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	o.TLS = good
	o.PasswordFile = filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(o.PasswordFile, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pgstore.Open(t.Context(), o); err == nil {
		t.Error("wrong password: opened")
	}
	if err := os.Chmod(o.PasswordFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pgstore.Open(t.Context(), o); err == nil {
		t.Error("a password file that others can read: opened")
	}
}
