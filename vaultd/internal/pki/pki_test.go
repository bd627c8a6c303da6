package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func generated(t *testing.T, o Options) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if err := Generate(dir, o); err != nil {
		t.Fatal(err)
	}
	return dir
}

func in(dir string, names ...string) (a, b, c string) {
	return filepath.Join(dir, names[0]), filepath.Join(dir, names[1]), filepath.Join(dir, names[2])
}

func readCert(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(b)
	if block == nil || len(rest) != 0 {
		t.Fatalf("%s is not one PEM block", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestGenerated(t *testing.T) {
	now := time.Now()
	dir := generated(t, Options{Now: func() time.Time { return now }})
	for name, mode := range map[string]fs.FileMode{
		CACert: 0o644, VaultdCert: 0o644, ChatdCert: 0o644,
		CAKey: 0o600, VaultdKey: 0o600, ChatdKey: 0o600, ".": fs.ModeDir | 0o700,
	} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", name, info, err, mode)
		}
	}
	ca := readCert(t, filepath.Join(dir, CACert))
	if !ca.IsCA || !ca.MaxPathLenZero || ca.KeyUsage != x509.KeyUsageCertSign {
		t.Errorf("CA: %+v", ca)
	}
	for name, role := range map[string]Role{VaultdCert: Vaultd, ChatdCert: Chatd} {
		cert := readCert(t, filepath.Join(dir, name))
		if cert.IsCA || len(cert.DNSNames) != 1 || cert.DNSNames[0] != string(role) || cert.PublicKeyAlgorithm != x509.ECDSA {
			t.Errorf("%s: names %v, %v", name, cert.DNSNames, cert.PublicKeyAlgorithm)
		}
		if d := cert.NotAfter.Sub(now); d < DefaultValidity-time.Second || d > DefaultValidity {
			t.Errorf("%s is valid for %v", name, d)
		}
		if cert.NotBefore.After(now) || cert.SerialNumber.Cmp(ca.SerialNumber) == 0 {
			t.Errorf("%s: from %v, serial %v", name, cert.NotBefore, cert.SerialNumber)
		}
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	for _, name := range []string{CACert, CAKey, VaultdCert, VaultdKey, ChatdCert, ChatdKey} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Generate(dir, Options{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s is there: %v", name, err)
		}
		entries, err := os.ReadDir(dir)
		if b, rerr := os.ReadFile(filepath.Join(dir, name)); err != nil || len(entries) != 1 || rerr != nil || string(b) != "mine" {
			t.Errorf("%s was there, and now %v are", name, entries)
		}
	}
}

// A failure in the middle leaves nothing, so that the command can be run again.
func TestFailureLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	ok := file{name: CACert, kind: "CERTIFICATE", der: []byte{1}, mode: 0o644}
	taken := file{name: "no/such/dir", kind: "CERTIFICATE", mode: 0o644}
	if err := writeAll(dir, []file{ok, taken}); err == nil {
		t.Error("a file was written where none can be")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestCAKeyCanBeDiscarded(t *testing.T) {
	dir := generated(t, Options{DiscardCAKey: true})
	if _, err := os.Stat(filepath.Join(dir, CAKey)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the CA's key: %v", err)
	}
	if _, err := ServerTLS(in(dir, VaultdCert, VaultdKey, CACert)); err != nil {
		t.Error(err)
	}
}

func TestWrongFilesAreToldAtTheStart(t *testing.T) {
	dir, other := generated(t, Options{}), generated(t, Options{})
	old := generated(t, Options{Now: func() time.Time { return time.Now().Add(-DefaultValidity - time.Hour) }})
	cert, key, ca := in(dir, VaultdCert, VaultdKey, CACert)
	if err := Generate(t.TempDir(), Options{Validity: -1}); err == nil {
		t.Error("a negative validity was accepted")
	}
	chatdCert, chatdKey, otherCA := filepath.Join(dir, ChatdCert), filepath.Join(dir, ChatdKey), filepath.Join(other, CACert)
	oldCert, oldKey, oldCA := in(old, VaultdCert, VaultdKey, CACert)
	for name, c := range map[string]struct {
		cert, key, ca string
		role          bool // the error is ErrRole
	}{
		"chatd's":           {chatdCert, chatdKey, ca, true},
		"another CA":        {cert, key, otherCA, true},
		"over":              {oldCert, oldKey, oldCA, true},
		"another key":       {cert, chatdKey, ca, false},
		"no certificate":    {key, key, ca, false},
		"no CA certificate": {cert, key, key, false},
		"missing":           {cert + "x", key, ca, false},
		"missing CA":        {cert, key, ca + "x", false},
	} {
		if _, err := ServerTLS(c.cert, c.key, c.ca); err == nil || errors.Is(err, ErrRole) != c.role {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ClientTLS(cert, key, ca); !errors.Is(err, ErrRole) {
		t.Errorf("vaultd's as chatd's: %v", err)
	}
}

// handshake returns what each side thinks of the other.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s, c := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		err := s.Handshake()
		if err == nil {
			err = CheckPeer(s.ConnectionState(), Chatd)
		}
		if err == nil {
			_, err = s.Write([]byte("x"))
		}
		s.Close()
		done <- err
	}()
	if clientErr = c.Handshake(); clientErr == nil {
		if clientErr = CheckPeer(c.ConnectionState(), Vaultd); clientErr == nil {
			_, clientErr = c.Read(make([]byte, 1))
		}
	}
	c.Close()
	return <-done, clientErr
}

func TestHandshake(t *testing.T) {
	dir := generated(t, Options{})
	server, err := ServerTLS(in(dir, VaultdCert, VaultdKey, CACert))
	if err != nil {
		t.Fatal(err)
	}
	client, err := ClientTLS(in(dir, ChatdCert, ChatdKey, CACert))
	if err != nil {
		t.Fatal(err)
	}
	if serr, cerr := handshake(t, server, client); serr != nil || cerr != nil {
		t.Errorf("server %v, client %v", serr, cerr)
	}
	// vaultd's certificate served by chatd's place, and the other way round.
	if _, cerr := handshake(t, client, client); cerr == nil {
		t.Error("a client took chatd for vaultd")
	}
	if serr, _ := handshake(t, server, server); serr == nil {
		t.Error("vaultd took vaultd for chatd")
	}
	old := client.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if serr, cerr := handshake(t, server, old); serr == nil || cerr == nil {
		t.Error("TLS 1.2 was accepted")
	}
	bare := client.Clone()
	bare.GetClientCertificate = nil
	if serr, _ := handshake(t, server, bare); serr == nil {
		t.Error("no client certificate was accepted")
	}
}

// CheckPeer holds also under a config that verifies too little.
func TestCheckPeerTrustsNoConfig(t *testing.T) {
	dir := generated(t, Options{})
	server, err := ServerTLS(in(dir, VaultdCert, VaultdKey, CACert))
	if err != nil {
		t.Fatal(err)
	}
	client, err := ClientTLS(in(dir, ChatdCert, ChatdKey, CACert))
	if err != nil {
		t.Fatal(err)
	}
	lax := server.Clone()
	lax.ClientAuth = tls.RequireAnyClientCert
	if serr, _ := handshake(t, lax, client); !errors.Is(serr, ErrRole) {
		t.Errorf("not verified: %v", serr)
	}
	lax = server.Clone()
	lax.MinVersion = tls.VersionTLS12
	old := client.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if serr, _ := handshake(t, lax, old); !errors.Is(serr, ErrRole) {
		t.Errorf("TLS 1.2: %v", serr)
	}
	if err := CheckPeer(tls.ConnectionState{}, Chatd); !errors.Is(err, ErrRole) {
		t.Errorf("no handshake: %v", err)
	}
}

// A certificate of the CA with every key usage, but vaultd's name, is still not
// chatd's.
func TestRoleIsTheName(t *testing.T) {
	ca, err := newAuthority(Options{Validity: time.Hour, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	for _, role := range []Role{Vaultd, Chatd, "other.chatvault.internal", "chatd.example.org"} {
		der, _, err := ca.issue(role, x509.ExtKeyUsageAny)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chains, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if (err != nil) != (role == "chatd.example.org") {
			t.Errorf("%s: %v; the CA may certify names under %s only", role, err, domain)
		}
		err = CheckPeer(tls.ConnectionState{
			HandshakeComplete: true, Version: tls.VersionTLS13,
			PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: chains,
		}, Chatd)
		if (err == nil) != (role == Chatd) {
			t.Errorf("%s taken for chatd: %v", role, err)
		}
	}
}
