// Package docs_test holds the code that the README and these pages show, so that
// it compiles and does what they say.
package docs_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/protocol/backupfile"
	"chatvault/protocol/fleet"
	"chatvault/protocol/secret"
	"chatvault/protocol/ticket"
)

// mintTicket is the app's backend, behind its own login: it lets account use the
// vault from one device for ten minutes.
func mintTicket(key crypto.Signer, account string, device ticket.Thumbprint) (string, error) {
	now := time.Now()
	return ticket.Mint(key, "key-2026-11", ticket.Claims{
		Issuer:   "https://login.app.example",
		Subject:  account,
		Audience: []string{"fleet-1.example"},
		IssuedAt: now,
		Expires:  now.Add(10 * time.Minute),
		Device:   device,
	})
}

// errNotice: a POST that is not from chatd, or too old.
var errNotice = errors.New("not a notice of ours")

// verifyNotice is the app's backend, when chatd says that a doorbell rang which no
// device of the account heard: it returns the account. seen says whether an id
// was there before.
func verifyNotice(key []byte, now time.Time, header http.Header, body []byte, seen func(id string) bool) (account string, err error) {
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	sent, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || now.Sub(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return "", errNotice
	}
	mac := hmac.New(sha256.New, key)
	io.WriteString(mac, id+"."+timestamp+".")
	mac.Write(body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	signed := false
	for got := range strings.FieldsSeq(header.Get("webhook-signature")) {
		signed = signed || hmac.Equal([]byte(got), []byte(want))
	}
	var notice struct {
		Type string
		Data struct{ Sub string }
	}
	if !signed || json.Unmarshal(body, &notice) != nil || notice.Type != "chatvault.notice" || seen(id) {
		return "", errNotice
	}
	return notice.Data.Sub, nil
}

// connect is the phone. askBackend calls the app's own ticket endpoint.
func connect(pins fleet.Pins, device ticket.DeviceKey, stateDir string,
	askBackend func(context.Context, ticket.Thumbprint) (string, error)) (*client.Client, error) {
	store, err := client.NewFileStore(stateDir)
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{
		URL: "wss://vault.app.example/v1/ws", Pins: pins, Device: device, Store: store,
		Tickets: func(ctx context.Context) (string, error) { return askBackend(ctx, device.Thumbprint()) },
	})
}

// protect puts the key of a new backup under the person's password.
func protect(ctx context.Context, c *client.Client, password secret.Bytes, plain io.Reader, cloud io.Writer) error {
	key := client.NewBackupKey()
	if _, err := c.Register(ctx, password, key, client.RegisterOptions{}); err != nil {
		return err
	}
	w, err := client.EncryptTo(cloud, key, backupfile.Options{})
	if err != nil {
		return err
	}
	defer w.Abort() // does nothing after Close
	if _, err := io.Copy(w, plain); err != nil {
		return err
	}
	return w.Close()
}

// restore is the next phone. left is how many attempts a wrong password leaves.
func restore(ctx context.Context, c *client.Client, password secret.Bytes, cloud io.Reader, plain io.Writer) (left int, err error) {
	recovered, err := c.Recover(ctx, password)
	var failed *client.Error
	if errors.As(err, &failed) && errors.Is(err, client.ErrWrongPassword) {
		return failed.AttemptsLeft, err
	}
	if err != nil {
		return client.Unknown, err
	}
	r, err := client.DecryptFrom(cloud, recovered.Key, backupfile.ReaderOptions{})
	if err != nil {
		return client.Unknown, err
	}
	_, err = io.Copy(plain, r)
	return client.Unknown, err
}

// TestMintedTicketOpensAVerifier mints as the README does, and verifies as relay
// and vault do.
func TestMintedTicketOpensAVerifier(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "issuer.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := ticket.NewVerifier([]ticket.IssuerConfig{
		{Name: "app", Issuers: []string{"https://login.app.example"}, KeyFile: file},
	}, []string{"fleet-1.example"}, ticket.Options{})
	if err != nil {
		t.Fatal(err)
	}
	device, err := ticket.NewDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	minted, err := mintTicket(key, "user-3f9a", device.Thumbprint())
	if err != nil {
		t.Fatal(err)
	}
	public := device.Public()
	got, err := v.Verify(t.Context(), minted, public[:], time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if want := (ticket.Account{Issuer: "app", Subject: "user-3f9a"}); got.Account != want {
		t.Errorf("account %v, want %v", got.Account, want)
	}
}

// TestConnectNeedsNoNetwork makes the Client of the README; it dials when it is
// first asked for something.
func TestConnectNeedsNoNetwork(t *testing.T) {
	var pins fleet.Pins
	pins.Fleet, pins.MinEpoch = "fleet-1.example", 1
	for i, name := range []string{"ops.app.example", "audit.partner.example"} {
		_, vkey, err := fleet.GenerateSigner(name)
		if err != nil {
			t.Fatal(err)
		}
		pins.Signers[i] = vkey
	}
	device, err := ticket.NewDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	c, err := connect(pins, device, filepath.Join(t.TempDir(), "state"), func(context.Context, ticket.Thumbprint) (string, error) {
		asked++
		return "", errors.New("no backend here")
	})
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := protect(gone, c, secret.Bytes("password"), nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("protect, cancelled: %v", err)
	}
	if left, err := restore(gone, c, secret.Bytes("password"), nil, nil); !errors.Is(err, context.Canceled) || left != client.Unknown {
		t.Errorf("restore, cancelled: %d left, %v", left, err)
	}
	if err := c.Close(); err != nil || asked != 0 {
		t.Errorf("asked for %d tickets, %v", asked, err)
	}
}

// TestVerifyNotice verifies the example of integrate.md, and nothing that differs
// from it.
func TestVerifyNotice(t *testing.T) {
	page := read(t, "protocol/docs/integrate.md")
	line := func(name string) string {
		m := regexp.MustCompile(`(?m)^    ` + name + `: (.*)$`).FindStringSubmatch(page)
		if m == nil {
			t.Fatalf("integrate.md shows no %s", name)
		}
		return m[1]
	}
	header := http.Header{}
	for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
		header.Set(name, line(name))
	}
	body := regexp.MustCompile(`(?m)^    (\{"type":"chatvault.notice".*)$`).FindStringSubmatch(page)
	secret := regexp.MustCompile("`whsec_([^`]*)`").FindAllStringSubmatch(page, -1)
	if body == nil || len(secret) == 0 {
		t.Fatal("integrate.md shows no body, or no key")
	}
	key, err := base64.StdEncoding.DecodeString(secret[len(secret)-1][1])
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1795305600, 0)
	seen := map[string]bool{}
	check := func(now time.Time, header http.Header, body string) (string, error) {
		return verifyNotice(key, now, header, []byte(body), func(id string) bool {
			before := seen[id]
			seen[id] = true
			return before
		})
	}
	forged := header.Clone()
	forged.Set("webhook-id", "msg_other")
	if _, err := check(now, forged, body[1]); err == nil {
		t.Error("another id under the same signature")
	}
	if _, err := check(now, header, body[1]+" "); err == nil {
		t.Error("another body under the same signature")
	}
	if _, err := check(now.Add(time.Hour), header, body[1]); err == nil {
		t.Error("an old one")
	}
	two := header.Clone()
	two.Set("webhook-signature", "v1,AAAA "+header.Get("webhook-signature"))
	if account, err := check(now, two, body[1]); err != nil || account != "user-3f9a" {
		t.Errorf("%q, %v", account, err)
	}
	if _, err := check(now, header, body[1]); err == nil {
		t.Error("a repeat")
	}
}
