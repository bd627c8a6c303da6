package ticket

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

type keys = map[string]crypto.PublicKey

// CVE-2026-49998: both issuers name their key "1". With a cache keyed by kid
// alone, the one whose ticket came first would sign for the other.
func TestIssuersWithTheSameKidStayApart(t *testing.T) {
	keyA, keyB := newKey(t), newKey(t)
	d, pub := newDevice(t)
	fetch := func(_ context.Context, url string) ([]byte, error) {
		return jwks(t, keys{"1": map[string]crypto.PublicKey{"https://a/k": keyA.Public(), "https://b/k": keyB.Public()}[url]}), nil
	}
	fileA, fileB := writeFile(t, jwks(t, keys{"1": keyA.Public()})), writeFile(t, jwks(t, keys{"1": keyB.Public()}))
	for name, cfg := range map[string][]IssuerConfig{
		"URL":  {{Name: "a", Issuers: []string{"iss-a"}, JWKSURL: "https://a/k"}, {Name: "b", Issuers: []string{"iss-b"}, JWKSURL: "https://b/k"}},
		"file": {{Name: "a", Issuers: []string{"iss-a"}, JWKSFile: fileA}, {Name: "b", Issuers: []string{"iss-b"}, JWKSFile: fileB}},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, Options{Fetch: fetch}, cfg...)
			verify := func(key crypto.Signer, iss string) error {
				c := claimsFor(d)
				c.Issuer = iss
				_, err := v.Verify(context.Background(), mint(t, key, "1", c), pub, now)
				return err
			}
			for range 2 { // cold, then with both caches warm
				for _, c := range []struct {
					key  crypto.Signer
					iss  string
					want error
				}{{keyA, "iss-a", nil}, {keyA, "iss-b", ErrSignature}, {keyB, "iss-b", nil}, {keyB, "iss-a", ErrSignature}} {
					if err := verify(c.key, c.iss); !errors.Is(err, c.want) {
						t.Errorf("%s: got %v, want %v", c.iss, err, c.want)
					}
				}
			}
		})
	}
}

func TestARenamedIssuerKeepsItsAccounts(t *testing.T) {
	key := newKey(t)
	d, pub := newDevice(t)
	cfg := static(t, key.Public())
	cfg.Issuers = append(cfg.Issuers, "https://new.example")
	v := newVerifier(t, Options{}, cfg)
	c := claimsFor(d)
	before, err := v.Verify(context.Background(), mint(t, key, "", c), pub, now)
	if err != nil {
		t.Fatal(err)
	}
	c.Issuer = "https://new.example"
	after, err := v.Verify(context.Background(), mint(t, key, "", c), pub, now)
	if err != nil || before.Account != after.Account {
		t.Errorf("%v became %v, %v", before.Account, after.Account, err)
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	key := newKey(t)
	pemFile := writeFile(t, pemOf(t, key.Public()))
	file := func(b []byte) string { return writeFile(t, b) }
	private, err := json.Marshal(jose.JSONWebKey{Key: key, KeyID: "1"})
	if err != nil {
		t.Fatal(err)
	}
	ok := IssuerConfig{Name: "a", Issuers: []string{"iss-a"}, KeyFile: pemFile}
	fetch := func(context.Context, string) ([]byte, error) { return nil, errors.New("no") }
	twice := strings.TrimSuffix(string(jwks(t, keys{"1": key.Public()})), "]}") + "," +
		strings.TrimPrefix(string(jwks(t, keys{"1": newKey(t).Public()})), `{"keys":[`)
	for name, c := range map[string]struct {
		cfg  []IssuerConfig
		opts Options
	}{
		"none":              {},
		"no name":           {cfg: []IssuerConfig{{Issuers: ok.Issuers, KeyFile: pemFile}}},
		"a name twice":      {cfg: []IssuerConfig{ok, {Name: "a", Issuers: []string{"iss-b"}, KeyFile: pemFile}}},
		"no iss":            {cfg: []IssuerConfig{{Name: "a", KeyFile: pemFile}}},
		"iss of two names":  {cfg: []IssuerConfig{ok, {Name: "b", Issuers: []string{"iss-b", "iss-a"}, KeyFile: pemFile}}},
		"no source":         {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers}}},
		"two sources":       {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, KeyFile: pemFile, JWKSFile: pemFile}}},
		"URL not allowed":   {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, JWKSURL: "https://a/k"}}},
		"URL in the clear":  {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, JWKSURL: "http://a/k"}}, opts: Options{Fetch: fetch}},
		"missing file":      {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, KeyFile: filepath.Join(t.TempDir(), "none")}}},
		"private PEM":       {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, KeyFile: file(mustPEM(t, DeviceKey{key}))}}},
		"private JWK":       {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, KeyFile: file(private)}}},
		"private in a JWKS": {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, JWKSFile: file([]byte(`{"keys":[` + string(private) + `]}`))}}},
		"JWKS of nothing":   {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, JWKSFile: file([]byte(`{"keys":[]}`))}}},
		"JWKS without kid":  {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, JWKSFile: file(jwks(t, keys{"": key.Public()}))}}},
		"JWKS, a kid twice": {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, JWKSFile: file([]byte(twice))}}},
		"JWKS too large":    {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, JWKSFile: file(append(jwks(t, keys{"1": key.Public()}), make([]byte, MaxJWKS)...))}}},
		"point off curve":   {cfg: []IssuerConfig{{Name: "a", Issuers: ok.Issuers, KeyFile: file([]byte(`{"kty":"EC","crv":"P-256","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"}`))}}},
	} {
		if _, err := NewVerifier(c.cfg, []string{fleet}, c.opts); err == nil {
			t.Errorf("%s: was taken", name)
		} else if name == "JWKS, a kid twice" && !strings.Contains(err.Error(), "same kid") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewVerifier([]IssuerConfig{ok}, nil, Options{}); err == nil {
		t.Error("no fleet: was taken")
	}
	if _, err := NewVerifier([]IssuerConfig{ok}, []string{fleet}, Options{}); err != nil {
		t.Error(err)
	}
}

func mustPEM(t *testing.T, d DeviceKey) []byte {
	b, err := d.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAStaticJWKWithAKidBindsToIt(t *testing.T) {
	key := newEd(t)
	d, pub := newDevice(t)
	b, err := json.Marshal(jose.JSONWebKey{Key: key.Public(), KeyID: "1"})
	if err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, Options{}, IssuerConfig{Name: "a", Issuers: []string{"https://login.example"}, KeyFile: writeFile(t, b)})
	for kid, want := range map[string]error{"1": nil, "2": ErrKey, "": ErrKey} {
		if _, err := v.Verify(context.Background(), mint(t, key, kid, claimsFor(d)), pub, now); !errors.Is(err, want) {
			t.Errorf("kid %q: got %v, want %v", kid, err, want)
		}
	}
}

func TestAJWKSKeepsOnlyKeysForTickets(t *testing.T) {
	p256, ed := newKey(t), newEd(t)
	set := strings.TrimSuffix(string(jwks(t, keys{"ec": p256.Public(), "ed": ed.Public()})), "]}")
	enc, err := json.Marshal(jose.JSONWebKey{Key: newKey(t).Public(), KeyID: "enc", Use: "enc"})
	if err != nil {
		t.Fatal(err)
	}
	set += `,` + string(enc) + `,{"kty":"RSA","kid":"rsa","n":"AQAB","e":"AQAB"},{"kty":"new","kid":"new"}]}`
	got, err := parseJWKS([]byte(set))
	if err != nil || len(got.byKid) != 2 || got.find("ec") == nil || got.find("ed") == nil {
		t.Errorf("%v, %v", got, err)
	}
}

func TestReloadTakesNewKeysAndKeepsOldOnesOnFailure(t *testing.T) {
	old, fresh := newKey(t), newKey(t)
	d, pub := newDevice(t)
	cfg := static(t, old.Public())
	v := newVerifier(t, Options{}, cfg)
	verify := func(key crypto.Signer) error {
		_, err := v.Verify(context.Background(), mint(t, key, "", claimsFor(d)), pub, now)
		return err
	}
	if err := os.WriteFile(cfg.KeyFile, []byte("half a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.Reload(); err == nil || !strings.Contains(err.Error(), "example") {
		t.Errorf("reload of a broken file: %v", err)
	}
	if err := verify(old); err != nil {
		t.Errorf("the old key was lost: %v", err)
	}
	if err := os.WriteFile(cfg.KeyFile, pemOf(t, fresh.Public()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := verify(fresh); err != nil {
		t.Errorf("the new key: %v", err)
	}
	if err := verify(old); !errors.Is(err, ErrSignature) {
		t.Errorf("the old key still signs: %v", err)
	}
}

// origin is an issuer's JWKS endpoint.
type origin struct {
	mu      sync.Mutex
	set     []byte
	err     error
	fetches int
	entered chan struct{} // if set, told of each fetch
	hold    chan struct{} // if set, each fetch waits for it
}

func (o *origin) fetch(context.Context, string) ([]byte, error) {
	o.mu.Lock()
	o.fetches++
	set, err, entered, hold := o.set, o.err, o.entered, o.hold
	o.mu.Unlock()
	if entered != nil {
		entered <- struct{}{}
		<-hold
	}
	return set, err
}

func (o *origin) change(set []byte, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.set, o.err = set, err
}

func (o *origin) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.fetches
}

func urlIssuer() IssuerConfig {
	return IssuerConfig{Name: "a", Issuers: []string{"https://login.example"}, JWKSURL: "https://a/k"}
}

func TestUnknownKidsRefreshOnceAMinute(t *testing.T) {
	k1, k2 := newKey(t), newKey(t)
	d, pub := newDevice(t)
	o := &origin{set: jwks(t, keys{"1": k1.Public()})}
	v := newVerifier(t, Options{Fetch: o.fetch}, urlIssuer())
	step := func(after time.Duration, key crypto.Signer, kid string, want error, fetches int) {
		t.Helper()
		c := claimsFor(d)
		c.IssuedAt, c.Expires = now.Add(after), now.Add(after+time.Minute)
		_, err := v.Verify(context.Background(), mint(t, key, kid, c), pub, now.Add(after))
		if !errors.Is(err, want) || o.count() != fetches {
			t.Errorf("after %v: %v, %d fetches; want %v, %d", after, err, o.count(), want, fetches)
		}
	}
	step(0, k1, "1", nil, 1)
	step(time.Second, k1, "1", nil, 1)
	for range 5 { // a stranger making kids up
		step(2*time.Second, k1, "x", ErrKey, 1)
	}
	o.change(jwks(t, keys{"2": k2.Public()}), nil)
	step(59*time.Second, k2, "2", ErrKey, 1)
	step(60*time.Second, k2, "2", nil, 2)
	step(61*time.Second, k1, "1", ErrKey, 2) // withdrawn
	o.change(nil, errors.New("down"))
	step(121*time.Second, k1, "1", ErrKey, 3)
	step(122*time.Second, k2, "2", nil, 3) // the old set is kept
	o.change([]byte("not a set"), nil)
	step(182*time.Second, k1, "1", ErrKey, 4)
	step(183*time.Second, k2, "2", nil, 4)
	o.change(make([]byte, MaxJWKS+1), nil)
	step(243*time.Second, k1, "1", ErrKey, 5)
	step(244*time.Second, k2, "2", nil, 5)
}

func TestAnIssuerThatNeverAnsweredIsUnavailable(t *testing.T) {
	key := newKey(t)
	d, pub := newDevice(t)
	o := &origin{err: errors.New("down")}
	var reported []string
	v := newVerifier(t, Options{Fetch: o.fetch, Report: func(issuer string, err error) {
		reported = append(reported, issuer+": "+err.Error())
	}}, urlIssuer())
	s := mint(t, key, "1", claimsFor(d))
	for range 3 {
		if _, err := v.Verify(context.Background(), s, pub, now); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	}
	if o.count() != 1 || len(reported) != 1 || reported[0] != "a: down" {
		t.Errorf("%d fetches, reported %q", o.count(), reported)
	}
	o.change(jwks(t, keys{"1": key.Public()}), nil)
	if _, err := v.Verify(context.Background(), s, pub, now.Add(time.Minute)); err != nil {
		t.Errorf("after the issuer came back: %v", err)
	}
}

func TestAWithdrawnKeyStopsWorking(t *testing.T) {
	k1, k2 := newKey(t), newKey(t)
	d, pub := newDevice(t)
	o := &origin{set: jwks(t, keys{"1": k1.Public()})}
	v := newVerifier(t, Options{Fetch: o.fetch}, urlIssuer())
	source := v.named[0].keys.(*urlKeys)
	s := mint(t, k1, "1", claimsFor(d))
	if _, err := v.Verify(context.Background(), s, pub, now); err != nil {
		t.Fatal(err)
	}
	o.change(jwks(t, keys{"2": k2.Public()}), nil)
	later := now.Add(refreshAge)
	c := claimsFor(d)
	c.IssuedAt, c.Expires = later, later.Add(time.Minute)
	s = mint(t, k1, "1", c)
	// The first one starts the refresh and does not wait for it.
	if _, err := v.Verify(context.Background(), s, pub, later); err != nil {
		t.Fatal(err)
	}
	if done := source.refresh(later); done != nil {
		<-done
	}
	if _, err := v.Verify(context.Background(), s, pub, later); !errors.Is(err, ErrKey) {
		t.Errorf("got %v", err)
	}
}

func TestOneFetchServesEveryWaiter(t *testing.T) {
	key := newKey(t)
	d, pub := newDevice(t)
	o := &origin{set: jwks(t, keys{"1": key.Public()}), entered: make(chan struct{}), hold: make(chan struct{})}
	v := newVerifier(t, Options{Fetch: o.fetch}, urlIssuer())
	s := mint(t, key, "1", claimsFor(d))

	// The caller that starts the fetch gives up; the fetch goes on.
	first, cancel := context.WithCancel(context.Background())
	gaveUp := make(chan error)
	go func() {
		_, err := v.Verify(first, s, pub, now)
		gaveUp <- err
	}()
	<-o.entered
	cancel()
	if err := <-gaveUp; !errors.Is(err, ErrUnavailable) {
		t.Errorf("the one who gave up: %v", err)
	}
	var waiters sync.WaitGroup
	for range 20 {
		waiters.Go(func() {
			if _, err := v.Verify(context.Background(), s, pub, now); err != nil {
				t.Errorf("a waiter: %v", err)
			}
		})
	}
	close(o.hold)
	waiters.Wait()
	if o.count() != 1 {
		t.Errorf("%d fetches", o.count())
	}
}

func TestCheckURL(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://login.example/jwks.json": true, "http://127.0.0.1:80/k": true, "http://[::1]/k": true, "http://localhost:8080/k": true,
		"http://login.example/k": false, "http://127.0.0.1.evil/k": false, "http://localhost.evil/k": false, "ftp://localhost/k": false,
		"file:///etc/passwd": false, "https://": false, "https://u:p@h/k": false, "": false, "login.example/k": false, "http://0.0.0.0/k": false,
	} {
		if err := CheckURL(url); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func FuzzParseJWKS(f *testing.F) {
	f.Add(jwks(f, keys{"1": newKey(f).Public(), "2": newEd(f).Public()}))
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"rsa","n":"AQAB","e":"AQAB"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"1"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := parseJWKS(b)
		if err != nil {
			return
		}
		again, err := parseJWKS(jwks(t, set.byKid))
		if err != nil || len(again.byKid) != len(set.byKid) {
			t.Fatalf("%d keys became %v, %v", len(set.byKid), again, err)
		}
		for kid, key := range set.byKid {
			if !key.(interface{ Equal(crypto.PublicKey) bool }).Equal(again.byKid[kid]) {
				t.Fatal("a key did not survive")
			}
		}
	})
}

func FuzzParseKeyFile(f *testing.F) {
	f.Add(pemOf(f, newKey(f).Public()))
	f.Add(pemOf(f, newEd(f).Public()))
	b, err := json.Marshal(jose.JSONWebKey{Key: newKey(f).Public(), KeyID: "1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := parseKeyFile(b)
		if err != nil {
			return
		}
		if set.anyKid == nil && len(set.byKid) != 1 {
			t.Fatal("a key file without a key")
		}
		if set.anyKid != nil {
			if again, err := parseKeyFile(pemOf(t, set.anyKid)); err != nil || again.anyKid == nil {
				t.Fatal("the key did not survive")
			}
		}
	})
}
