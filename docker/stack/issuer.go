package stack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	"chatvault/protocol/ticket"
)

// issuer is the backend of an app, as far as the stack needs one.
type issuer struct{ key *ecdsa.PrivateKey }

// newIssuer makes its key: the private one for those who mint, the public one
// for chatd and vaultd.
func newIssuer(privateFile, publicFile string) (issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return issuer{}, fmt.Errorf("issuer key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return issuer{}, fmt.Errorf("issuer key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return issuer{}, fmt.Errorf("issuer key: %w", err)
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{privateFile, "PRIVATE KEY", private}, {publicFile, "PUBLIC KEY", public}} {
		text := pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der})
		if err := os.WriteFile(f.name, text, 0o600); err != nil {
			return issuer{}, err
		}
	}
	return issuer{key}, nil
}

// Ticket mints a ticket for an account's device, valid for 1 hour, which is
// the longest.
func (s *Stack) Ticket(sub string, device ticket.Thumbprint) (string, error) {
	now := time.Now()
	return s.Mint(ticket.Claims{
		Issuer: Issuer, Subject: sub, Audience: []string{Fleet},
		IssuedAt: now, Expires: now.Add(ticket.MaxLifetime), Device: device,
	})
}

// Mint signs any claims that package ticket lets be signed.
func (s *Stack) Mint(c ticket.Claims) (string, error) {
	return ticket.Mint(s.issuer.key, "", c)
}
