package ticket

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// RFC 9449 §4.1 (the key) and §6.1 (its thumbprint as cnf.jkt).
func TestThumbprintOfRFC9449(t *testing.T) {
	pub := []byte{4}
	for _, s := range []string{"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs", "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"} {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		pub = append(pub, b...)
	}
	got, err := ThumbprintOf(pub)
	if err != nil || got.String() != "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestThumbprintAgreesWithGoJose(t *testing.T) {
	for range 50 {
		d, _ := newDevice(t)
		want, err := (&jose.JSONWebKey{Key: &d.key.PublicKey}).Thumbprint(crypto.SHA256)
		if got := d.Thumbprint(); err != nil || !bytes.Equal(got[:], want) {
			t.Fatalf("%x, want %x, %v", got, want, err)
		}
	}
}

func TestThumbprintRefusesWhatIsNoKey(t *testing.T) {
	d, pub := newDevice(t)
	off := bytes.Clone(pub)
	off[64] ^= 1
	hybrid := bytes.Clone(pub)
	hybrid[0] = 6 | pub[64]&1
	p384, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	compressed := elliptic.MarshalCompressed(elliptic.P256(), d.key.X, d.key.Y)
	above := append([]byte{4}, bytes.Repeat([]byte{0xff}, 64)...)
	for name, b := range map[string][]byte{
		"nothing": nil, "identity": {0}, "compressed": compressed, "off curve": off, "hybrid": hybrid,
		"long": append(bytes.Clone(pub), 0), "another curve": p384.PublicKey().Bytes(), "coordinates over p": above,
		"zeros": make([]byte, 65), "04 and zeros": append([]byte{4}, make([]byte, 64)...),
	} {
		if _, err := ThumbprintOf(b); !errors.Is(err, ErrDeviceKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeviceKeyPEM(t *testing.T) {
	d, _ := newDevice(t)
	b, err := d.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseDeviceKeyPEM(b)
	if err != nil || again.Public() != d.Public() {
		t.Fatalf("not the same key: %v", err)
	}
	wrap := func(kind string, key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "no PEM": []byte("x"), "Ed25519": wrap("PRIVATE KEY", newEd(t)), "P-384": wrap("PRIVATE KEY", p384),
		"another label": wrap("EC PRIVATE KEY", d.key), "trailing": append(bytes.Clone(b), 'x'),
		"a public key": pemOf(t, &d.key.PublicKey),
	} {
		if _, err := ParseDeviceKeyPEM(b); !errors.Is(err, ErrPrivateKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseDeviceKeyPEM(f *testing.F) {
	d, _ := newDevice(f)
	b, err := d.MarshalPEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(b))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDeviceKeyPEM(b)
		if err != nil {
			return
		}
		out, err := d.MarshalPEM()
		if err != nil {
			t.Fatal(err)
		}
		// PEM and PKCS #8 have many spellings: the key is what must survive.
		if again, err := ParseDeviceKeyPEM(out); err != nil || !again.key.Equal(d.key) {
			t.Fatal("the key did not survive")
		}
	})
}

func TestDeviceKeyPrintsRedacted(t *testing.T) {
	d, _ := newDevice(t)
	in := struct{ Key DeviceKey }{d}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, d, &d, in)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", d, "in", in)
	json.NewEncoder(&out).Encode(in)
	scalar, err := d.key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{fmt.Sprintf("%x", scalar), new(big.Int).SetBytes(scalar).String()} {
		if strings.Contains(out.String(), leak) {
			t.Error("the key was printed")
		}
	}
	if !strings.Contains(out.String(), "[redacted]") {
		t.Error("nothing printed")
	}
}

func TestParseThumbprintHasOneSpelling(t *testing.T) {
	d, _ := newDevice(t)
	s := d.Thumbprint().String()
	if got, err := ParseThumbprint(s); err != nil || got != d.Thumbprint() {
		t.Fatal(err)
	}
	last := strings.Map(func(r rune) rune { return r + 1 }, s[42:]) // sets a trailing bit
	for _, bad := range []string{"", s[:42], s + "A", s + "=", s[:42] + last, s[:10] + "\n" + s[10:]} {
		if _, err := ParseThumbprint(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
