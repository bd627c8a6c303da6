package ticket

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
	// Case-sensitive, and refuses duplicate members: encoding/json would read
	// "EXP" as exp, and the last of two.
	"github.com/go-jose/go-jose/v4/json"
)

// Header is the protected header of a ticket.
type Header struct {
	Algorithm string
	Type      string
	KeyID     string // "" when the ticket has no kid
}

// Check applies the rules of the header that need no key.
func (h Header) Check() error {
	// alg none and the HMAC family end here, before any key is looked up.
	if h.Algorithm != string(jose.ES256) && h.Algorithm != string(jose.EdDSA) {
		return ErrAlgorithm
	}
	if h.Type != Type {
		return ErrType
	}
	return nil
}

// Inspect decodes a ticket WITHOUT verifying anything: for a person who wants
// to know what is in it. Ask Header.Check and Claims.Check what is wrong.
func Inspect(ticket string) (Claims, Header, error) {
	tok, err := parse(ticket)
	return tok.claims, tok.header, err
}

// token is a ticket taken apart, not yet believed.
type token struct {
	raw    string
	header Header
	claims Claims
}

// strict64 refuses set trailing bits: a ticket has one spelling.
var strict64 = base64.RawURLEncoding.Strict()

// parse checks size and syntax only.
func parse(ticket string) (token, error) {
	if len(ticket) > MaxSize {
		return token{}, ErrMalformed
	}
	header, rest, _ := strings.Cut(ticket, ".")
	payload, signature, three := strings.Cut(rest, ".")
	// Go's decoder skips line breaks wherever they stand.
	if !three || strings.ContainsAny(ticket, "\r\n") {
		return token{}, ErrMalformed
	}
	tok := token{raw: ticket}
	var err error
	if tok.header, err = headerOf(header); err != nil {
		return token{}, err
	}
	claims, err := strict64.DecodeString(payload)
	if err != nil || !utf8.Valid(claims) {
		return token{}, ErrMalformed
	}
	// A further dot is no letter of base64url.
	if _, err := strict64.DecodeString(signature); err != nil {
		return token{}, ErrMalformed
	}
	if tok.claims, err = parseClaims(claims); err != nil {
		return token{}, err
	}
	return tok, nil
}

// lastHeader is the good header that was read last: the tickets of an issuer all
// have the same one.
var lastHeader atomic.Pointer[spelledHeader]

// spelledHeader is a header with its spelling in a ticket.
type spelledHeader struct {
	text   string
	header Header
}

// headerOf reads the first part of a ticket.
func headerOf(text string) (Header, error) {
	if last := lastHeader.Load(); last != nil && last.text == text {
		return last.header, nil
	}
	b, err := strict64.DecodeString(text)
	if err != nil || !utf8.Valid(b) {
		return Header{}, ErrMalformed
	}
	h, err := parseHeader(b)
	if err == nil && h.Check() == nil {
		lastHeader.Store(&spelledHeader{strings.Clone(text), h})
	}
	return h, err
}

// parseHeader knows three members. The others of RFC 7515 bring keys, URLs or
// processing rules (jwk, jku, x5u, crit, b64): a ticket has no use for them.
func parseHeader(b []byte) (Header, error) {
	var members map[string]string
	if err := json.Unmarshal(b, &members); err != nil || members == nil {
		return Header{}, ErrMalformed
	}
	var h Header
	for name, value := range members {
		switch name {
		case "alg":
			h.Algorithm = value
		case "typ":
			h.Type = value
		case "kid":
			h.KeyID = value
		default:
			return Header{}, ErrMalformed
		}
	}
	if len(h.KeyID) > maxKeyID {
		return Header{}, ErrMalformed
	}
	return h, nil
}

// wireClaims is the JSON form. Pointers tell a missing claim from a zero one.
type wireClaims struct {
	Iss string      `json:"iss,omitempty"`
	Sub string      `json:"sub,omitempty"`
	Aud *audience   `json:"aud,omitempty"`
	Iat *int64      `json:"iat,omitempty"`
	Nbf *int64      `json:"nbf,omitempty"`
	Exp *int64      `json:"exp,omitempty"`
	Cnf *wireDevice `json:"cnf,omitempty"`
}

type wireDevice struct {
	Jkt string `json:"jkt,omitempty"`
}

// audience is one string or an array of them (RFC 7519 §4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	if one, ok := plainString(b); ok {
		*a = audience{one}
		return nil
	}
	var one string
	if err := json.Unmarshal(b, &one); err == nil {
		*a = audience{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil {
		return err
	}
	*a = many
	return nil
}

// plainString reads a JSON string that stands for itself: ASCII without escapes.
func plainString(b []byte) (s string, ok bool) {
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return "", false
	}
	b = b[1 : len(b)-1]
	for _, c := range b {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return "", false
		}
	}
	return string(b), true
}

func (a audience) MarshalJSON() ([]byte, error) {
	if len(a) == 1 {
		return json.Marshal(a[0])
	}
	return json.Marshal([]string(a))
}

func parseClaims(b []byte) (Claims, error) {
	var w *wireClaims
	if err := json.Unmarshal(b, &w); err != nil || w == nil {
		return Claims{}, ErrMalformed
	}
	c := Claims{Issuer: w.Iss, Subject: w.Sub}
	if w.Aud != nil {
		c.Audience = *w.Aud
	}
	for _, t := range []struct {
		seconds *int64
		to      *time.Time
	}{{w.Iat, &c.IssuedAt}, {w.Nbf, &c.NotBefore}, {w.Exp, &c.Expires}} {
		if t.seconds == nil {
			continue
		}
		// Beyond year 9999, time.Time's own arithmetic is no longer safe.
		if *t.seconds < 1 || *t.seconds > 253402300799 {
			return Claims{}, ErrMalformed
		}
		*t.to = time.Unix(*t.seconds, 0).UTC()
	}
	if w.Cnf != nil && w.Cnf.Jkt != "" {
		device, err := ParseThumbprint(w.Cnf.Jkt)
		if err != nil {
			return Claims{}, ErrMalformed
		}
		c.Device = device
	}
	return c, nil
}

func (c Claims) marshal() ([]byte, error) {
	w := wireClaims{Iss: c.Issuer, Sub: c.Subject, Aud: (*audience)(&c.Audience), Cnf: &wireDevice{c.Device.String()}}
	for _, t := range []struct {
		from time.Time
		to   **int64
	}{{c.IssuedAt, &w.Iat}, {c.NotBefore, &w.Nbf}, {c.Expires, &w.Exp}} {
		if !t.from.IsZero() {
			seconds := t.from.Unix()
			*t.to = &seconds
		}
	}
	return json.Marshal(w)
}

// Mint signs a ticket with an ECDSA P-256 or Ed25519 key; kid may be empty
// where the issuer has one static key. Times are cut to whole seconds. Mint
// refuses, with the verifier's own errors, claims that no verifier would take.
func Mint(key crypto.Signer, kid string, c Claims) (string, error) {
	alg, err := algorithmOf(key.Public())
	if err != nil {
		return "", err
	}
	c.IssuedAt, c.NotBefore, c.Expires = wholeSeconds(c.IssuedAt), wholeSeconds(c.NotBefore), wholeSeconds(c.Expires)
	if err := c.checkShape(); err != nil {
		return "", err
	}
	if len(kid) > maxKeyID {
		return "", ErrKey
	}
	payload, err := c.marshal()
	if err != nil {
		return "", fmt.Errorf("ticket: encoding the claims: %w", err)
	}
	opts := new(jose.SignerOptions).WithType(Type)
	if kid != "" {
		opts = opts.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: cryptosigner.Opaque(key)}, opts)
	if err != nil {
		return "", fmt.Errorf("ticket: preparing the signer: %w", err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("ticket: signing: %w", err)
	}
	ticket, err := jws.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("ticket: serializing: %w", err)
	}
	if len(ticket) > MaxSize {
		return "", ErrMalformed
	}
	return ticket, nil
}

func wholeSeconds(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return time.Unix(t.Unix(), 0).UTC()
}

// errKeyType is a matter of configuration, not of a ticket.
var errKeyType = errors.New("ticket: an issuer's key must be ECDSA P-256 or Ed25519")

// algorithmOf lets the key decide the algorithm, never the ticket.
func algorithmOf(key crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return jose.ES256, nil
		}
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return jose.EdDSA, nil
		}
	}
	return "", errKeyType
}

// verifySignature checks the ticket under the issuer's key, with the
// algorithm of the key.
func (t token) verifySignature(key crypto.PublicKey) error {
	alg, err := algorithmOf(key)
	if err != nil || t.header.Algorithm != string(alg) {
		return ErrAlgorithm
	}
	jws, err := jose.ParseSignedCompact(t.raw, []jose.SignatureAlgorithm{alg})
	if err != nil {
		return ErrMalformed
	}
	if _, err := jws.Verify(key); err != nil {
		return ErrSignature
	}
	return nil
}
