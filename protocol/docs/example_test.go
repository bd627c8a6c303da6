// Package docs_test holds the code that the README and these pages show, so that
// it compiles and does what they say.
package docs_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
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
