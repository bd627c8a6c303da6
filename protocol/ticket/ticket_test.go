package ticket

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

func TestMintedTicketsVerify(t *testing.T) {
	d, pub := newDevice(t)
	for name, key := range map[string]crypto.Signer{"ES256": newKey(t), "EdDSA": newEd(t)} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, Options{}, static(t, key.Public()))
			c := claimsFor(d)
			c.Audience = []string{"fleet-old", fleet}
			s := mint(t, key, "2027-01", c)
			got, err := v.Verify(context.Background(), s, pub, now)
			if err != nil {
				t.Fatal(err)
			}
			if got.Account != (Account{"example", "anna"}) || len(got.Fleets) != 1 || got.Fleets[0] != fleet ||
				!got.Expires.Equal(c.Expires) || got.Thumbprint != d.Thumbprint() || got.TicketHash != sha256.Sum256([]byte(s)) {
				t.Errorf("verified as %+v", got)
			}
			_, h, err := Inspect(s)
			if err != nil || h != (Header{name, Type, "2027-01"}) {
				t.Errorf("header %+v, %v", h, err)
			}
		})
	}
}

// good is a payload that verifies; the attacks replace one part of it.
func good(d DeviceKey) string {
	return fmt.Sprintf(`{"iss":"https://login.example","sub":"anna","aud":"fleet-a","iat":%d,"exp":%d,"cnf":{"jkt":"%s"}}`,
		now.Unix(), now.Unix()+600, d.Thumbprint())
}

const goodHeader = `{"alg":"ES256","typ":"chatvault-ticket+jwt"}`

func TestAttacksOnClaims(t *testing.T) {
	key := newKey(t)
	d, pub := newDevice(t)
	other, _ := newDevice(t)
	v := newVerifier(t, Options{}, static(t, key.Public()))
	at := func(seconds int64) string { return fmt.Sprint(now.Unix() + seconds) }
	iat, exp := `"iat":`+at(0), `"exp":`+at(600)

	for _, c := range []struct {
		name, old, new string
		want           error
	}{
		{"unchanged", "", "", nil},
		{"unknown claim", `"iss"`, `"jti":"x","iss"`, nil},
		{"aud as an array", `"fleet-a"`, `["x","fleet-a"]`, nil},
		{"iat 60 s ahead", iat, `"iat":` + at(60), nil},
		{"exp 1 h after iat", exp, `"exp":` + at(3600), nil},
		{"nbf passed", iat, iat + `,"nbf":` + at(0), nil},

		{"exp missing", "," + exp, "", ErrNoExpiry},
		{"exp null", exp, `"exp":null`, ErrNoExpiry},
		{"exp under another case", `"exp"`, `"EXP"`, ErrNoExpiry},
		{"exp twice", exp, exp + "," + exp, ErrMalformed},
		{"exp a string", exp, `"exp":"` + at(600) + `"`, ErrMalformed},
		{"exp a fraction", exp, `"exp":` + at(600) + ".5", ErrMalformed},
		{"exp past year 9999", exp, `"exp":253402300800`, ErrMalformed},
		{"exp negative", exp, `"exp":-1`, ErrMalformed},
		{"exp now", iat + "," + exp, `"iat":` + at(-600) + `,"exp":` + at(0), ErrExpired},
		{"exp over 1 h", exp, `"exp":` + at(3601), ErrLifetime},
		{"exp before iat", exp, `"exp":` + at(0), ErrLifetime},
		{"iat missing", iat + ",", "", ErrLifetime},
		{"iat 61 s ahead", iat, `"iat":` + at(61), ErrNotYet},
		{"nbf 61 s ahead", iat, iat + `,"nbf":` + at(61), ErrNotYet},

		{"aud missing", `"aud":"fleet-a",`, "", ErrAudience},
		{"aud of another fleet", `"fleet-a"`, `"fleet-b"`, ErrAudience},
		{"aud of three", `"fleet-a"`, `["fleet-a","b","c"]`, ErrAudience},
		{"aud empty", `"fleet-a"`, `[]`, ErrAudience},
		{"aud with an empty entry", `"fleet-a"`, `["fleet-a",""]`, ErrAudience},
		{"aud a number", `"fleet-a"`, `7`, ErrMalformed},
		{"aud a prefix", `"fleet-a"`, `"fleet"`, ErrAudience},

		{"iss missing", `"iss":"https://login.example",`, "", ErrIssuer},
		{"iss unknown", "login.example", "login.evil", ErrIssuer},
		{"iss twice", `"sub"`, `"iss":"https://login.example","sub"`, ErrMalformed},
		{"sub missing", `"sub":"anna",`, "", ErrSubject},
		{"sub empty", `"anna"`, `""`, ErrSubject},
		{"sub of 256 bytes", "anna", strings.Repeat("a", 256), nil},
		{"sub of 257 bytes", "anna", strings.Repeat("a", 257), ErrSubject},
		{"sub with a lone surrogate", "anna", `\ud800`, ErrSubject},
		{"sub not UTF-8", "anna", "\xff", ErrMalformed},
		{"sub a number", `"anna"`, `7`, ErrMalformed},

		{"cnf missing", `,"cnf":{"jkt":"` + d.Thumbprint().String() + `"}`, "", ErrDevice},
		{"another device", d.Thumbprint().String(), other.Thumbprint().String(), ErrDevice},
		{"jkt short", d.Thumbprint().String(), "AAAA", ErrMalformed},
		{"jkt padded", d.Thumbprint().String(), d.Thumbprint().String() + "=", ErrMalformed},
		{"jkt twice", `{"jkt"`, `{"jkt":"` + other.Thumbprint().String() + `","jkt"`, ErrMalformed},

		{"trailing data", `"}}`, `"}}{}`, ErrMalformed},
		{"an array", good(d), `[]`, ErrMalformed},
		{"null", good(d), `null`, ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			payload := strings.Replace(good(d), c.old, c.new, 1)
			if payload == good(d) && c.name != "unchanged" {
				t.Fatal("the attack changed nothing")
			}
			_, err := v.Verify(context.Background(), signRaw(t, key, goodHeader, payload), pub, now)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "anna") || strings.Contains(err.Error(), "login.e")) {
				t.Errorf("the error echoes the ticket: %v", err)
			}
		})
	}
}

func TestAttacksOnTheHeader(t *testing.T) {
	key := newKey(t)
	d, pub := newDevice(t)
	v := newVerifier(t, Options{}, static(t, key.Public()))
	for _, c := range []struct {
		name, header string
		want         error
	}{
		{"good", goodHeader, nil},
		{"any kid for a static key", `{"alg":"ES256","kid":"../../x","typ":"chatvault-ticket+jwt"}`, nil},
		{"alg none", `{"alg":"none","typ":"chatvault-ticket+jwt"}`, ErrAlgorithm},
		{"alg None", `{"alg":"None","typ":"chatvault-ticket+jwt"}`, ErrAlgorithm},
		{"alg missing", `{"typ":"chatvault-ticket+jwt"}`, ErrAlgorithm},
		{"alg EdDSA under a P-256 key", `{"alg":"EdDSA","typ":"chatvault-ticket+jwt"}`, ErrAlgorithm},
		{"alg RS256", `{"alg":"RS256","typ":"chatvault-ticket+jwt"}`, ErrAlgorithm},
		{"alg ES384", `{"alg":"ES384","typ":"chatvault-ticket+jwt"}`, ErrAlgorithm},
		{"alg twice", `{"alg":"ES256","alg":"ES256","typ":"chatvault-ticket+jwt"}`, ErrMalformed},
		{"typ missing", `{"alg":"ES256"}`, ErrType},
		{"typ JWT", `{"alg":"ES256","typ":"JWT"}`, ErrType},
		{"typ in capitals", `{"alg":"ES256","typ":"CHATVAULT-TICKET+JWT"}`, ErrType},
		{"own key inside", `{"alg":"ES256","jwk":{},"typ":"chatvault-ticket+jwt"}`, ErrMalformed},
		{"own key by URL", `{"alg":"ES256","jku":"https://evil","typ":"chatvault-ticket+jwt"}`, ErrMalformed},
		{"crit", `{"alg":"ES256","crit":["b64"],"b64":false,"typ":"chatvault-ticket+jwt"}`, ErrMalformed},
		{"kid a number", `{"alg":"ES256","kid":7,"typ":"chatvault-ticket+jwt"}`, ErrMalformed},
		{"kid of 257 bytes", `{"alg":"ES256","kid":"` + strings.Repeat("k", 257) + `","typ":"chatvault-ticket+jwt"}`, ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := v.Verify(context.Background(), signRaw(t, key, c.header, good(d)), pub, now)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// The oldest attack on JWT libraries: the public key taken for an HMAC secret.
func TestHMACWithThePublicKeyIsRefused(t *testing.T) {
	key := newKey(t)
	d, pub := newDevice(t)
	cfg := static(t, key.Public())
	v := newVerifier(t, Options{}, cfg)
	public, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{pemOf(t, key.Public()), public} {
		b64 := base64.RawURLEncoding
		signed := b64.EncodeToString([]byte(`{"alg":"HS256","typ":"chatvault-ticket+jwt"}`)) + "." + b64.EncodeToString([]byte(good(d)))
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(signed))
		s := signed + "." + b64.EncodeToString(mac.Sum(nil))
		if _, err := v.Verify(context.Background(), s, pub, now); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("got %v", err)
		}
	}
}

func TestRSATicketsAreRefused(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	d, pub := newDevice(t)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, new(jose.SignerOptions).WithType(Type))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign([]byte(good(d)))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := jws.CompactSerialize()
	v := newVerifier(t, Options{}, static(t, newKey(t).Public()))
	if _, err := v.Verify(context.Background(), s, pub, now); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("got %v", err)
	}
	if _, err := Mint(key, "", claimsFor(d)); err == nil {
		t.Error("minted with RSA")
	}
	cfg := static(t, newKey(t).Public())
	cfg.KeyFile = writeFile(t, pemOf(t, key.Public()))
	if _, err := NewVerifier([]IssuerConfig{cfg}, []string{fleet}, Options{}); err == nil {
		t.Error("took an RSA key")
	}
}

func TestAttacksOnTheForm(t *testing.T) {
	key := newKey(t)
	d, pub := newDevice(t)
	v := newVerifier(t, Options{}, static(t, key.Public()))
	s := mint(t, key, "", claimsFor(d))
	part := strings.Split(s, ".")
	flip := []byte(part[2])
	if flip[0]++; flip[0] != 'B' {
		flip[0] = 'A'
	}
	for _, c := range []struct {
		name, ticket string
		want         error
	}{
		{"empty", "", ErrMalformed},
		{"garbage", "garbage", ErrMalformed},
		{"two parts", part[0] + "." + part[1], ErrMalformed},
		{"four parts", s + ".", ErrMalformed},
		{"five parts, a JWE", s + "..", ErrMalformed},
		{"JSON serialization", `{"payload":"` + part[1] + `"}`, ErrMalformed},
		{"oversized", s + strings.Repeat("A", MaxSize), ErrMalformed},
		{"line break inside", part[0] + "." + part[1] + ".\n" + part[2], ErrMalformed},
		{"line break behind", s + "\n", ErrMalformed},
		{"space before", " " + s, ErrMalformed},
		{"padding", s + "=", ErrMalformed},
		{"no signature", part[0] + "." + part[1] + ".", ErrSignature},
		{"signature cut", s[:len(s)-6], ErrSignature},
		{"signature changed", part[0] + "." + part[1] + "." + string(flip), ErrSignature},
		{"another key", mint(t, newKey(t), "", claimsFor(d)), ErrSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := v.Verify(context.Background(), c.ticket, pub, now); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if _, err := v.Verify(context.Background(), s, pub[:64], now); !errors.Is(err, ErrDeviceKey) {
		t.Errorf("short device key: %v", err)
	}
}

func TestMintRefusesWhatNoVerifierTakes(t *testing.T) {
	key := newKey(t)
	d, _ := newDevice(t)
	for name, c := range map[string]struct {
		change func(*Claims)
		want   error
	}{
		"no iss":         {func(c *Claims) { c.Issuer = "" }, ErrIssuer},
		"no sub":         {func(c *Claims) { c.Subject = "" }, ErrSubject},
		"three fleets":   {func(c *Claims) { c.Audience = []string{"a", "b", "c"} }, ErrAudience},
		"no exp":         {func(c *Claims) { c.Expires = time.Time{} }, ErrNoExpiry},
		"over an hour":   {func(c *Claims) { c.Expires = now.Add(time.Hour + time.Second) }, ErrLifetime},
		"under a second": {func(c *Claims) { c.Expires = c.IssuedAt.Add(time.Millisecond) }, ErrLifetime},
		"no device":      {func(c *Claims) { c.Device = Thumbprint{} }, ErrDevice},
	} {
		claims := claimsFor(d)
		c.change(&claims)
		if _, err := Mint(key, "", claims); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Mint(p384, "", claimsFor(d)); err == nil {
		t.Error("minted with P-384")
	}
	if _, err := Mint(key, strings.Repeat("k", 257), claimsFor(d)); !errors.Is(err, ErrKey) {
		t.Errorf("long kid: %v", err)
	}
}

func TestTheLargestMintedTicketFits(t *testing.T) {
	key := newKey(t)
	d, pub := newDevice(t)
	c := claimsFor(d)
	c.Subject = strings.Repeat("s", MaxSubject)
	c.Issuer = strings.Repeat("i", maxIssuer)
	c.Audience = []string{strings.Repeat("f", maxFleet), fleet}
	cfg := static(t, key.Public())
	cfg.Issuers = []string{c.Issuer}
	v := newVerifier(t, Options{}, cfg)
	if _, err := v.Verify(context.Background(), mint(t, key, strings.Repeat("k", maxKeyID), c), pub, now); err != nil {
		t.Error(err)
	}
}

func TestAccountBytes(t *testing.T) {
	a := Account{"ab", "c"}
	if got := string(a.Bytes()); got != "\x00\x02ab\x00\x01c" {
		t.Errorf("%q", got)
	}
	if a.Hash() == (Account{"a", "bc"}).Hash() {
		t.Error("two accounts, one hash")
	}
	if a.Hash() != sha256.Sum256(a.Bytes()) {
		t.Error("not the hash of Bytes")
	}
}

func FuzzParse(f *testing.F) {
	key, d := newEd(f), func() DeviceKey { d, _ := newDevice(f); return d }()
	f.Add(mint(f, key, "", claimsFor(d)))
	f.Add(mint(f, key, "kid", claimsFor(d)))
	f.Add(signRaw(f, nil, `{"alg":"none","typ":"chatvault-ticket+jwt"}`, good(d)))
	f.Add(signRaw(f, nil, goodHeader, `{"aud":["a","b","c"],"exp":-1,"exp":1}`))
	f.Add(signRaw(f, nil, goodHeader, `{"sub":"\ud800","nbf":1}`))
	f.Add("..")
	f.Add(strings.Repeat("A", MaxSize) + "..")
	v := newVerifier(f, Options{}, static(f, key.Public()))
	_, pub := newDevice(f)
	f.Fuzz(func(t *testing.T, s string) {
		// The device is a stranger's: no input may verify.
		if _, err := v.Verify(context.Background(), s, pub, now); err == nil {
			t.Fatal("verified")
		}
		c, h, err := Inspect(s)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		for _, part := range strings.Split(s, ".") {
			b, err := base64.RawURLEncoding.DecodeString(part)
			if err != nil || base64.RawURLEncoding.EncodeToString(b) != part {
				t.Fatal("a part has two spellings")
			}
		}
		if h.Check() != nil || c.Check(now, nil) != nil {
			return
		}
		// What holds as a ticket survives minting unchanged.
		again, h2, err := Inspect(mint(t, key, h.KeyID, c))
		if err != nil || h2.KeyID != h.KeyID || fmt.Sprint(again) != fmt.Sprint(c) {
			t.Fatalf("%+v became %+v, %v", c, again, err)
		}
	})
}

// The header that is kept is that of its own spelling and of nothing else, and one
// that is not good is not kept.
func TestTheKeptHeaderIsNobodyElses(t *testing.T) {
	good := []Header{{"ES256", Type, "a"}, {"ES256", Type, "b"}, {"EdDSA", Type, ""}}
	bad := []Header{{"none", Type, "a"}, {"ES256", "JWT", "a"}}
	spell := func(h Header) string {
		b := `{"alg":"` + h.Algorithm + `","typ":"` + h.Type + `"`
		if h.KeyID != "" {
			b += `,"kid":"` + h.KeyID + `"`
		}
		return strict64.EncodeToString([]byte(b+"}")) + "." + strict64.EncodeToString([]byte(`{"sub":"s"}`)) + ".AAAA"
	}
	for range 2 {
		for _, h := range slices.Concat(good, bad, good) {
			for range 2 {
				if got, err := parse(spell(h)); err != nil || got.header != h {
					t.Errorf("%+v became %+v, %v", h, got.header, err)
				}
			}
		}
	}
	parse(spell(good[0]))
	for _, h := range bad {
		parse(spell(h))
		if kept := lastHeader.Load(); kept.header != good[0] || !strings.HasPrefix(spell(good[0]), kept.text+".") {
			t.Errorf("after %+v, %+v is kept", h, kept)
		}
	}
}

// A string that is read without package json means what it means there.
func TestPlainStringsAreJSON(t *testing.T) {
	plain := 0
	for _, text := range []string{`""`, `"a"`, `"fleet-1.example"`, `"a b"`, `"\u0061"`, `"a\"b"`, `"\\"`, `"ä"`, "\"a\x7f\"", "\"a\nb\"", `"`, ``, `a`, `["a"]`, `"a" `, `"a"b"`} {
		got, ok := plainString([]byte(text))
		var want string
		if err := json.Unmarshal([]byte(text), &want); ok && (err != nil || got != want) {
			t.Errorf("%s: %q, json has %q, %v", text, got, want, err)
		}
		if ok {
			plain++
		}
	}
	if plain != 4 {
		t.Errorf("%d were read, want 4", plain)
	}
}
