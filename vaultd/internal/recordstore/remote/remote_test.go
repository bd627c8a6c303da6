package remote_test

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chatvault/vaultd/internal/recordstore/engines/certs"
	"chatvault/vaultd/internal/recordstore/remote"
)

func TestPlaintextStaysOnThisMachine(t *testing.T) {
	for endpoint, here := range map[string]bool{
		"127.0.0.1:1": true, "127.8.9.1:1": true, "[::1]:1": true, "localhost:1": true,
		"10.0.0.1:1": false, "0.0.0.0:1": false, "[::]:1": false, "example.com:1": false, "localhost.example.com:1": false,
		"127.0.0.1.example.com:1": false, "[::ffff:127.0.0.1]:1": true,
	} {
		if err := (remote.TLS{}).Check([]string{"127.0.0.1:2", endpoint}); errors.Is(err, remote.ErrPlaintext) == here {
			t.Errorf("%s: %v", endpoint, err)
		}
		if err := (remote.TLS{Plaintext: true}).Check([]string{endpoint}); err != nil {
			t.Errorf("%s, permitted: %v", endpoint, err)
		}
	}
}

func TestFilesAreChecked(t *testing.T) {
	ca := certs.NewCA(t)
	pair := ca.Issue(t, "vaultd")
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	far := []string{"example.com:1"}
	for name, files := range map[string]remote.TLS{
		"CA only":      {CA: ca.File},
		"all":          {CA: ca.File, Cert: pair.Cert, Key: pair.Key},
		"system roots": {CA: remote.SystemRoots},
	} {
		if err := files.Check(far); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, files := range map[string]remote.TLS{
		"no CA":              {Cert: pair.Cert, Key: pair.Key},
		"missing CA":         {CA: junk + "?"},
		"CA is junk":         {CA: junk},
		"no key":             {CA: ca.File, Cert: pair.Cert},
		"no certificate":     {CA: ca.File, Key: pair.Key},
		"key of another":     {CA: ca.File, Cert: pair.Cert, Key: ca.Issue(t, "other").Key},
		"certificate a junk": {CA: ca.File, Cert: junk, Key: pair.Key},
	} {
		if err := files.Check(far); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A certificate that was renewed on disk is used by the next connection.
func TestRenewedCertificate(t *testing.T) {
	ca := certs.NewCA(t)
	server, first, second := ca.Issue(t, "server"), ca.Issue(t, "first"), ca.Issue(t, "second")
	config, err := remote.TLS{CA: ca.File, Cert: first.Cert, Key: first.Key}.Config("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if got := seenName(t, ca, server, config); got != "first" {
		t.Errorf("the server saw %q", got)
	}
	for from, to := range map[string]string{second.Cert: first.Cert, second.Key: first.Key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if got := seenName(t, ca, server, config); got != "second" {
		t.Errorf("after the renewal the server saw %q", got)
	}
}

// seenName is the name in the certificate that a server gets to see.
func seenName(t *testing.T, ca *certs.CA, server certs.Pair, client *tls.Config) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(server.Cert, server.Key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	name := make(chan string, 1)
	go func() {
		defer close(name)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if err := c.(*tls.Conn).Handshake(); err != nil {
			return
		}
		name <- c.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
		c.Write([]byte("x"))
	}()
	c, err := tls.DialWithDialer(&net.Dialer{}, "tcp", l.Addr().String(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return <-name
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "_a1": true, strings.Repeat("a", 63): true,
		"": false, "1a": false, "A": false, "a-b": false, "ä": false, "a b": false, `a"`: false, strings.Repeat("a", 64): false,
	} {
		if got := remote.ValidName(name); got != want {
			t.Errorf("ValidName(%q) = %t", name, got)
		}
	}
}

func FuzzParseEndpoints(f *testing.F) {
	for _, s := range []string{"a:1", "a:1,b:2", "[::1]:2379", "127.0.0.1:65535", "a:01", "a:1,", "a:1,a:1", "a%b:1", "[a]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		list, err := remote.ParseEndpoints(in)
		if err != nil {
			return
		}
		if strings.Join(list, ",") != in {
			t.Errorf("%q came back as %q", in, list)
		}
		for _, e := range list {
			if _, err := net.ResolveTCPAddr("tcp", "127.0.0.1"+e[strings.LastIndex(e, ":"):]); err != nil {
				t.Errorf("%q: %v", e, err)
			}
			if strings.ContainsAny(e, " @/?#=&'\"\\%") {
				t.Errorf("%q would mean something in a URL", e)
			}
		}
	})
}
