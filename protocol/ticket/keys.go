package ticket

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// MaxJWKS is the size of the largest JWK set or key file, in bytes.
const MaxJWKS = 256 << 10

var errTooLarge = fmt.Errorf("larger than %d bytes", MaxJWKS)

// keySource finds the keys of one issuer.
type keySource interface {
	// key returns ErrKey when the issuer has none of that kid, and
	// ErrUnavailable when that cannot be known now.
	key(ctx context.Context, kid string, now time.Time) (crypto.PublicKey, error)
	reload() error
}

func newKeySource(c IssuerConfig, opts Options) (keySource, error) {
	sources := 0
	for _, s := range []string{c.KeyFile, c.JWKSFile, c.JWKSURL} {
		if s != "" {
			sources++
		}
	}
	if sources != 1 {
		return nil, errors.New("set exactly one of key-file, jwks-file, jwks-url")
	}
	if c.JWKSURL != "" {
		if opts.Fetch == nil {
			return nil, errors.New("jwks-url: this program dials nobody; set jwks-file or key-file")
		}
		if err := CheckURL(c.JWKSURL); err != nil {
			return nil, fmt.Errorf("jwks-url: %w", err)
		}
		report := func(err error) {
			if opts.Report != nil {
				opts.Report(c.Name, err)
			}
		}
		return &urlKeys{url: c.JWKSURL, fetch: opts.Fetch, report: report}, nil
	}
	f := &fileKeys{path: c.JWKSFile, parse: parseJWKS}
	if c.KeyFile != "" {
		f = &fileKeys{path: c.KeyFile, parse: parseKeyFile}
	}
	return f, f.reload()
}

// keySet is the keys of one issuer by kid. anyKid, if set, is the one key of
// a static issuer.
type keySet struct {
	byKid  map[string]crypto.PublicKey
	anyKid crypto.PublicKey
}

func (s *keySet) find(kid string) crypto.PublicKey {
	if s.anyKid != nil {
		return s.anyKid
	}
	return s.byKid[kid]
}

// fileKeys is a key file or a JWK set on disk.
type fileKeys struct {
	path  string
	parse func([]byte) (*keySet, error)
	set   atomic.Pointer[keySet]
}

func (f *fileKeys) key(_ context.Context, kid string, _ time.Time) (crypto.PublicKey, error) {
	if key := f.set.Load().find(kid); key != nil {
		return key, nil
	}
	return nil, ErrKey
}

func (f *fileKeys) reload() error {
	b, err := readFile(f.path)
	if err != nil {
		return err
	}
	set, err := f.parse(b)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.set.Store(set)
	return nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, MaxJWKS+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxJWKS {
		return nil, fmt.Errorf("%s: %w", path, errTooLarge)
	}
	return b, nil
}

// parseKeyFile reads one public key, PEM or JWK.
func parseKeyFile(b []byte) (*keySet, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		key, err := parsePEM(b)
		if err != nil {
			return nil, err
		}
		return &keySet{anyKid: key}, nil
	}
	key, kid, err := parseJWK(b)
	switch {
	case err != nil:
		return nil, err
	case key == nil:
		return nil, errKeyType
	case kid == "":
		return &keySet{anyKid: key}, nil
	}
	return &keySet{byKid: map[string]crypto.PublicKey{kid: key}}, nil
}

func parsePEM(b []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("want one PEM block PUBLIC KEY, or a JWK")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the PEM block: %w", err)
	}
	if _, err := algorithmOf(key); err != nil {
		return nil, err
	}
	return key, nil
}

// parseJWKS keeps the keys that can sign tickets, and leaves out those of
// other types and uses, and those without a kid (RFC 7517 §5).
func parseJWKS(b []byte) (*keySet, error) {
	var wire struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &wire); err != nil {
		return nil, errors.New("not a JWK set")
	}
	set := &keySet{byKid: map[string]crypto.PublicKey{}}
	for i, raw := range wire.Keys {
		key, kid, err := parseJWK(raw)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		if key == nil || kid == "" {
			continue
		}
		if set.byKid[kid] != nil {
			return nil, fmt.Errorf("key %d: another key has the same kid", i)
		}
		set.byKid[kid] = key
	}
	if len(set.byKid) == 0 {
		return nil, errors.New("the JWK set has no P-256 or Ed25519 key with a kid")
	}
	return set, nil
}

// parseJWK returns no key, without an error, for a JWK that is public but not
// for tickets.
func parseJWK(b []byte) (crypto.PublicKey, string, error) {
	var kind struct {
		Kty string `json:"kty"`
		Crv string `json:"crv"`
		Use string `json:"use"`
		Alg string `json:"alg"`
		D   string `json:"d"`
		K   string `json:"k"`
	}
	if err := json.Unmarshal(b, &kind); err != nil {
		return nil, "", errors.New("not a JWK")
	}
	if kind.D != "" || kind.K != "" {
		return nil, "", errors.New("holds a secret key: give the public one only")
	}
	if kind.Crv != "P-256" && kind.Crv != "Ed25519" || kind.Use != "" && kind.Use != "sig" {
		return nil, "", nil
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(b); err != nil {
		return nil, "", errors.New("not a valid JWK")
	}
	alg, err := algorithmOf(jwk.Key)
	if err != nil || kind.Alg != "" && kind.Alg != string(alg) {
		return nil, "", nil
	}
	if ec, ok := jwk.Key.(*ecdsa.PublicKey); ok {
		if _, err := ec.Bytes(); err != nil { // not on the curve
			return nil, "", errors.New("not a valid JWK")
		}
	}
	return jwk.Key, jwk.KeyID, nil
}

// CheckURL accepts https, and http on loopback only: whoever can change a JWK
// set on its way can sign tickets for every account of the issuer.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return errors.New("want https://host/path")
	}
	switch u.Scheme {
	case "https":
		return nil
	case "http":
		ip, err := netip.ParseAddr(u.Hostname())
		if u.Hostname() == "localhost" || err == nil && ip.IsLoopback() {
			return nil
		}
		return errors.New("http is for loopback only; use https")
	}
	return errors.New("want https://host/path")
}
