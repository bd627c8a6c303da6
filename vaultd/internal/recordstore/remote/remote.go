// Package remote has what the record stores behind a network have in common: how
// their addresses are written, and TLS from files.
package remote

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// ErrSpec is wrapped by every refusal of a value of --store.
var ErrSpec = errors.New("not a store specification")

// ErrPlaintext says that the store is on another machine and TLS is off. Somebody
// on the way could then answer that a charge was stored which never was: endless
// guesses. It needs no key to do so, for a store's acknowledgement is not sealed.
var ErrPlaintext = errors.New("plaintext to another machine: anybody on the way could acknowledge charges that were never stored")

// SystemRoots as the CA file stands for the machine's own list of CAs.
const SystemRoots = "system"

// MaxEndpoints is how many addresses a specification may name.
const MaxEndpoints = 32

// TLS is the files of a TLS client. They are read when a connection is opened, so
// that a renewed certificate needs no restart.
type TLS struct {
	// CA is a PEM file with the CAs that sign the store's certificates, or
	// SystemRoots. Empty: no TLS.
	CA string
	// Cert and Key are this vaultd's own certificate (PEM), if the store asks for
	// one: both or neither.
	Cert, Key string
	// Plaintext permits to go without TLS to another machine: only for networks
	// that end in this machine, such as containers and test namespaces.
	Plaintext bool
}

// Check refuses what Config or a connection would refuse, and plaintext to any
// host that is not this machine.
func (t TLS) Check(endpoints []string) error {
	if t.CA != "" {
		_, err := t.Config("")
		return err
	}
	if t.Cert != "" || t.Key != "" {
		return errors.New("a client certificate needs a CA file as well: without one there is no TLS")
	}
	for _, e := range endpoints {
		if host, _, err := net.SplitHostPort(e); err != nil || (!t.Plaintext && !loopback(host)) {
			return fmt.Errorf("%s: %w", e, ErrPlaintext)
		}
	}
	return nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.IsLoopback())
}

// Config makes the client's TLS 1.3 configuration for one host, whose name the
// certificate must carry. Nil without a CA.
func (t TLS) Config(host string) (*tls.Config, error) {
	if t.CA == "" {
		return nil, nil
	}
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS13}
	if t.CA != SystemRoots {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s: no certificate in it", t.CA)
		}
	}
	if t.Cert == "" && t.Key == "" {
		return c, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return c, nil
}

// ParseEndpoints parses "host:port,host:port": 1 to MaxEndpoints different ones,
// written in the one way that String of their parts gives back.
func ParseEndpoints(s string) ([]string, error) {
	list := strings.Split(s, ",")
	if len(list) > MaxEndpoints {
		return nil, fmt.Errorf("%w: more than %d addresses", ErrSpec, MaxEndpoints)
	}
	seen := make(map[string]bool)
	for _, e := range list {
		host, port, err := net.SplitHostPort(e)
		if err != nil {
			return nil, fmt.Errorf("%w: address %q: want host:port", ErrSpec, e)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != port || !validHost(host) || net.JoinHostPort(host, port) != e {
			return nil, fmt.Errorf("%w: address %q: want host:port", ErrSpec, e)
		}
		if seen[e] {
			return nil, fmt.Errorf("%w: address %q twice", ErrSpec, e)
		}
		seen[e] = true
	}
	return list, nil
}

// validHost accepts names and addresses, and nothing that means something in a URL
// or in a connection string.
func validHost(h string) bool {
	if _, err := netip.ParseAddr(h); err == nil {
		return !strings.Contains(h, "%")
	}
	if h == "" || len(h) > 253 || strings.Trim(h, "-.") != h {
		return false
	}
	return strings.IndexFunc(h, func(r rune) bool { return !nameRune(r) && r != '.' && r != '-' }) < 0
}

// ValidName says whether s is 1 to 63 of a-z 0-9 _ and begins with no digit.
func ValidName(s string) bool {
	if s == "" || len(s) > 63 || (s[0] >= '0' && s[0] <= '9') {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !nameRune(r) || (r >= 'A' && r <= 'Z') }) < 0
}

func nameRune(r rune) bool {
	return r == '_' || (r >= '0' && r <= '9') || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z')
}
