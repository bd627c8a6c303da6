package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrRole says that a peer's certificate is not one of the private CA's for the
// role that it should have.
var ErrRole = errors.New("certificate is not of the required role")

// ServerTLS loads vaultd's side of the uplink: TLS 1.3 only, a client certificate
// of the CA is required. The files are PEM; the certificate must be the CA's, for
// the role Vaultd, and not over.
func ServerTLS(certFile, keyFile, caFile string) (*tls.Config, error) {
	return load(certFile, keyFile, caFile, Vaultd, x509.ExtKeyUsageServerAuth)
}

// ClientTLS loads chatd's side of the uplink, for tests and probes of vaultd's:
// TLS 1.3 only, the other side must be vaultd.
func ClientTLS(certFile, keyFile, caFile string) (*tls.Config, error) {
	return load(certFile, keyFile, caFile, Chatd, x509.ExtKeyUsageClientAuth)
}

func load(certFile, keyFile, caFile string, role Role, use x509.ExtKeyUsage) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("loading certificate %s with its key: %w", certFile, err)
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("loading CA certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("loading CA certificate: no certificate in %s", caFile)
	}
	// A wrong file should be told at the start, not by every peer later.
	if err := verify(cert.Leaf, pool, role, use); err != nil {
		return nil, fmt.Errorf("loading certificate %s: %w", certFile, err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Functions, so that a later reload replaces the certificate alone.
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
		RootCAs:              pool,
		ServerName:           string(Vaultd),
		ClientCAs:            pool,
		ClientAuth:           tls.RequireAndVerifyClientCert,
		// Resumption would skip the certificates, and uplinks are few and long.
		SessionTicketsDisabled: true,
	}, nil
}

func verify(leaf *x509.Certificate, pool *x509.CertPool, role Role, use x509.ExtKeyUsage) error {
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: pool, DNSName: string(role), KeyUsages: []x509.ExtKeyUsage{use}, CurrentTime: time.Now(),
	})
	if err != nil {
		return fmt.Errorf("%w %s: %w", ErrRole, role, err)
	}
	return nil
}

// CheckPeer says whether the other end of a finished handshake has the role. It
// trusts nothing to how the config was made: TLS below 1.3, or a certificate that
// was not verified, is ErrRole too.
func CheckPeer(state tls.ConnectionState, role Role) error {
	switch {
	case !state.HandshakeComplete || state.Version < tls.VersionTLS13:
		return fmt.Errorf("%w %s: TLS version %#x", ErrRole, role, state.Version)
	case len(state.VerifiedChains) == 0:
		return fmt.Errorf("%w %s: no verified certificate", ErrRole, role)
	}
	if err := state.PeerCertificates[0].VerifyHostname(string(role)); err != nil {
		return fmt.Errorf("%w %s: %w", ErrRole, role, err)
	}
	return nil
}
