package chatdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chatvault/protocol/ticket"
)

// Fleet is the fleet id of every test.
const Fleet = "test-fleet"

// Issuer mints tickets, as the backend of an app would.
type Issuer struct {
	t   testing.TB
	key *ecdsa.PrivateKey
	// Config is how a relay that trusts it is configured.
	Config []ticket.IssuerConfig
}

// NewIssuer makes an issuer with a fresh key.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "issuer.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Issuer{t: t, key: key, Config: []ticket.IssuerConfig{
		{Name: "app", Issuers: []string{"https://app.example"}, KeyFile: file},
	}}
}

// Claims are those of a good ticket of 10 minutes.
func (i *Issuer) Claims(now time.Time, sub string, device ticket.DeviceKey) ticket.Claims {
	return ticket.Claims{
		Issuer: "https://app.example", Subject: sub, Audience: []string{Fleet},
		IssuedAt: now, Expires: now.Add(10 * time.Minute), Device: device.Thumbprint(),
	}
}

// Mint signs claims.
func (i *Issuer) Mint(c ticket.Claims) string {
	i.t.Helper()
	s, err := ticket.Mint(i.key, "", c)
	if err != nil {
		i.t.Fatal(err)
	}
	return s
}

// Ticket mints a good one.
func (i *Issuer) Ticket(now time.Time, sub string, device ticket.DeviceKey) string {
	return i.Mint(i.Claims(now, sub, device))
}

// Sign makes a token of any header and claims, signed with ES256 whatever the
// header says: for what Mint refuses to make.
func (i *Issuer) Sign(header, claims string) string {
	i.t.Helper()
	signed := b64([]byte(header)) + "." + b64([]byte(claims))
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, digest[:])
	if err != nil {
		i.t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + b64(sig)
}

// Unsigned makes a token of alg none.
func (i *Issuer) Unsigned(claims string) string {
	return b64([]byte(`{"alg":"none","typ":"`+ticket.Type+`"}`)) + "." + b64([]byte(claims)) + "."
}

var b64 = base64.RawURLEncoding.EncodeToString

// Verifier trusts the issuer.
func (i *Issuer) Verifier() *ticket.Verifier {
	i.t.Helper()
	v, err := ticket.NewVerifier(i.Config, []string{Fleet}, ticket.Options{})
	if err != nil {
		i.t.Fatal(err)
	}
	return v
}

// NewDevice makes a device key.
func NewDevice(t testing.TB) ticket.DeviceKey {
	t.Helper()
	d, err := ticket.NewDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	return d
}
