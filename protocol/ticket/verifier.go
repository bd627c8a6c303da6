package ticket

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"
)

// IssuerConfig is one issuer as the daemons' configuration files name it.
// Exactly one of KeyFile, JWKSFile and JWKSURL is set.
type IssuerConfig struct {
	// Name becomes part of every account for ever: it must never change. Up
	// to 128 bytes.
	Name string `yaml:"name"`
	// Issuers are the iss values that stand for this name, each belonging to
	// one name only. To move an issuer to another URL, list both.
	Issuers []string `yaml:"issuers"`
	// KeyFile holds one public key, PEM (PKIX) or JWK, P-256 or Ed25519.
	// Tickets may then have any kid or none, unless the JWK itself has one.
	KeyFile string `yaml:"key-file,omitempty"`
	// JWKSFile holds a JWK set (RFC 7517 §5); tickets must name a kid of it.
	JWKSFile string `yaml:"jwks-file,omitempty"`
	// JWKSURL is where the issuer publishes its JWK set: https, or http on
	// loopback. Only for programs that may dial.
	JWKSURL string `yaml:"jwks-url,omitempty"`
}

// FetchFunc gets a JWK set, at most [MaxJWKS] bytes, from a URL that passed
// [CheckURL]. Package jwksurl has the one for production.
type FetchFunc func(ctx context.Context, url string) ([]byte, error)

// Options of a verifier.
type Options struct {
	// Fetch gets the JWK sets of issuers with a JWKSURL. Without it such
	// issuers are refused: a vault dials nobody.
	Fetch FetchFunc
	// Report, if set, hears of each failed fetch: the issuer's name and why.
	// It is called from another goroutine.
	Report func(issuer string, err error)
}

// Verifier verifies tickets for one program. It may be used concurrently.
type Verifier struct {
	issuers map[string]*issuer // by iss value
	named   []*issuer          // in the order of the configuration
	fleets  []string
}

// issuer holds its own keys: there is no cache that two issuers share, so a
// kid of one never finds the key of another (CVE-2026-49998: a cache keyed by
// kid alone let issuer A sign for issuer B).
type issuer struct {
	name string
	keys keySource
}

// Verified is what a verified ticket says.
type Verified struct {
	Account    Account
	Fleets     []string // the verifier's own fleets that aud names, in the verifier's order
	IssuedAt   time.Time
	Expires    time.Time
	Thumbprint Thumbprint
	TicketHash [32]byte // SHA-256 of the ticket, as the proofs sign it
}

// NewVerifier loads the keys of every issuer that has them in a file. fleets
// are the fleet ids that the caller serves.
func NewVerifier(cfg []IssuerConfig, fleets []string, opts Options) (*Verifier, error) {
	if len(cfg) == 0 {
		return nil, errors.New("issuers: none is configured")
	}
	if len(fleets) == 0 {
		return nil, errors.New("issuers: no fleet to verify tickets for")
	}
	v := &Verifier{issuers: map[string]*issuer{}, fleets: append([]string(nil), fleets...)}
	for _, fleet := range fleets {
		if fleet == "" || len(fleet) > maxFleet {
			return nil, fmt.Errorf("fleet id %q: must have 1 to %d bytes", fleet, maxFleet)
		}
	}
	names := map[string]bool{}
	for i, c := range cfg {
		if c.Name == "" || len(c.Name) > maxName || names[c.Name] {
			return nil, fmt.Errorf("issuers[%d]: name must be unique and have 1 to %d bytes", i, maxName)
		}
		names[c.Name] = true
		if err := v.add(c, opts); err != nil {
			return nil, fmt.Errorf("issuer %q: %w", c.Name, err)
		}
	}
	return v, nil
}

func (v *Verifier) add(c IssuerConfig, opts Options) error {
	keys, err := newKeySource(c, opts)
	if err != nil {
		return err
	}
	iss := &issuer{name: c.Name, keys: keys}
	if len(c.Issuers) == 0 {
		return errors.New("issuers: wants at least one iss value")
	}
	for _, value := range c.Issuers {
		if value == "" || len(value) > maxIssuer {
			return fmt.Errorf("issuers: an iss value must have 1 to %d bytes", maxIssuer)
		}
		if other := v.issuers[value]; other != nil {
			return fmt.Errorf("issuers: %q belongs to issuer %q already", value, other.name)
		}
		v.issuers[value] = iss
	}
	v.named = append(v.named, iss)
	return nil
}

// Reload reads all key files again. Whatever fails keeps its old keys; the
// error names each. Issuers with a JWKSURL refresh by themselves.
func (v *Verifier) Reload() error {
	var errs []error
	for _, iss := range v.named {
		if err := iss.keys.reload(); err != nil {
			errs = append(errs, fmt.Errorf("issuer %q: %w", iss.name, err))
		}
	}
	return errors.Join(errs...)
}

// Verify verifies a ticket that comes with the device's public key of
// [PublicKeySize] bytes. It proves that the issuer made the ticket for that
// key, not that the sender holds it: that takes [VerifyRelayAuth] or
// [VerifyVaultAuth].
//
// ctx bounds the wait for an issuer's JWKSURL. Verify may be called again
// with a later now for the same ticket: it keeps nothing but keys.
func (v *Verifier) Verify(ctx context.Context, ticket string, devicePub []byte, now time.Time) (Verified, error) {
	u, err := v.Find(ctx, ticket, now)
	if err != nil {
		return Verified{}, err
	}
	return u.Verify(devicePub, now)
}

// Unverified is a ticket with the key that must have signed it. Nothing that it
// says is believed yet.
type Unverified struct {
	tok    token
	issuer *issuer
	key    crypto.PublicKey
	fleets []string // the verifier's own
}

// Find is the part of [Verifier.Verify] that may wait: it takes a ticket apart
// and finds the key of its issuer, fetching a JWKSURL if need be. ctx bounds the
// wait.
func (v *Verifier) Find(ctx context.Context, ticket string, now time.Time) (*Unverified, error) {
	tok, err := parse(ticket)
	if err != nil {
		return nil, err
	}
	if err := tok.header.Check(); err != nil {
		return nil, err
	}
	iss := v.issuers[tok.claims.Issuer]
	if iss == nil {
		return nil, ErrIssuer
	}
	key, err := iss.keys.key(ctx, tok.header.KeyID, now)
	if err != nil {
		return nil, err
	}
	return &Unverified{tok: tok, issuer: iss, key: key, fleets: v.fleets}, nil
}

// Verify is the other part, which computes and never waits.
func (u *Unverified) Verify(devicePub []byte, now time.Time) (Verified, error) {
	tok := &u.tok
	if err := tok.verifySignature(u.key); err != nil {
		return Verified{}, err
	}
	if err := tok.claims.Check(now, u.fleets); err != nil {
		return Verified{}, err
	}
	device, err := ThumbprintOf(devicePub)
	if err != nil {
		return Verified{}, err
	}
	// Somebody else's ticket, read off the wire, opens nothing (A2).
	if device != tok.claims.Device {
		return Verified{}, ErrDevice
	}
	return Verified{
		Account:    Account{Issuer: u.issuer.name, Subject: tok.claims.Subject},
		Fleets:     intersect(u.fleets, tok.claims.Audience),
		IssuedAt:   tok.claims.IssuedAt,
		Expires:    tok.claims.Expires,
		Thumbprint: device,
		TicketHash: Hash(tok.raw),
	}, nil
}
