package ticket

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const fleet = "fleet-a"

var now = time.Unix(1_800_000_000, 0)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEd(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newDevice(t testing.TB) (DeviceKey, []byte) {
	t.Helper()
	d, err := NewDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	pub := d.Public()
	return d, pub[:]
}

func claimsFor(d DeviceKey) Claims {
	return Claims{
		Issuer: "https://login.example", Subject: "anna", Audience: []string{fleet},
		IssuedAt: now.UTC(), Expires: now.Add(10 * time.Minute).UTC(), Device: d.Thumbprint(),
	}
}

func mint(t testing.TB, key crypto.Signer, kid string, c Claims) string {
	t.Helper()
	s, err := Mint(key, kid, c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func writeFile(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pemOf(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func jwks(t testing.TB, keys map[string]crypto.PublicKey) []byte {
	t.Helper()
	var set jose.JSONWebKeySet
	for kid, key := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key, KeyID: kid})
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newVerifier(t testing.TB, opts Options, cfg ...IssuerConfig) *Verifier {
	t.Helper()
	v, err := NewVerifier(cfg, []string{fleet}, opts)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// static is an issuer with one PEM key, whose only iss is that of claimsFor.
func static(t testing.TB, pub crypto.PublicKey) IssuerConfig {
	return IssuerConfig{Name: "example", Issuers: []string{"https://login.example"}, KeyFile: writeFile(t, pemOf(t, pub))}
}

// signRaw signs any header and payload with ES256, also those that Mint
// refuses. A nil key leaves the signature empty.
func signRaw(t testing.TB, key *ecdsa.PrivateKey, header, payload string) string {
	t.Helper()
	b64 := base64.RawURLEncoding
	signed := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload))
	if key == nil {
		return signed + "."
	}
	digest := sha256.Sum256([]byte(signed))
	proof, err := DeviceKey{key}.sign(digest)
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64.EncodeToString(proof[:])
}
