package phones

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"chatvault/protocol/ticket"
)

func issuer(t testing.TB) (*Issuer, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	signer, err := ParseIssuerKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return &Issuer{Key: signer, Name: "iss", Fleet: "dev", Lifetime: time.Hour, Prefix: "p"}, text
}

func claims(t *testing.T, p Phone) ticket.Claims {
	t.Helper()
	text, err := p.Ticket(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := ticket.Inspect(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(time.Now(), []string{"dev"}); err != nil || c.Device != p.Device.Thumbprint() || c.Subject != p.Subject {
		t.Errorf("a ticket that nobody takes: %+v, %v", c, err)
	}
	return c
}

func TestIssuer(t *testing.T) {
	i, _ := issuer(t)
	a, err1 := i.New()
	b, err2 := i.New()
	again, err3 := i.Again(a)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if claims(t, a).Subject != "p-1" || claims(t, b).Subject != "p-2" || claims(t, again).Subject != "p-1" {
		t.Error("accounts are not numbered")
	}
	if claims(t, again).Device == claims(t, a).Device || i.Left() >= 0 {
		t.Error("a new phone has the lost one's key, or phones end")
	}
	if one, two := RandomPrefix(), RandomPrefix(); one == two {
		t.Error("two runs share accounts")
	}
	if _, err := ParseIssuerKey([]byte("no key")); !errors.Is(err, ErrIssuerKey) {
		t.Errorf("no key: %v", err)
	}
}

func TestFile(t *testing.T) {
	i, _ := issuer(t)
	var b bytes.Buffer
	if err := Write(&b, i, 2); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	f, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if f.Left() != 2 {
		t.Errorf("%d phones", f.Left())
	}
	for _, want := range []string{"p-1", "p-2"} {
		p, err := f.New()
		if err != nil || claims(t, p).Subject != want {
			t.Errorf("%q, %v, want %s", p.Subject, err, want)
		}
		if same, err := f.Again(p); err != nil || same.Device.Thumbprint() != p.Device.Thumbprint() {
			t.Errorf("again: another device, %v", err)
		}
	}
	if _, err := f.New(); !errors.Is(err, ErrUsedUp) || f.Left() != 0 {
		t.Errorf("a third of two: %v", err)
	}
	first, second, _ := strings.Cut(text, "\n")
	device, _, _ := strings.Cut(strings.SplitAfter(first, `"device":"`)[1], `"`)
	other, _, _ := strings.Cut(strings.SplitAfter(second, `"device":"`)[1], `"`)
	for name, bad := range map[string]string{
		"empty": "", "not JSON": "x\n", "no key": `{"sub":"a","device":"","ticket":"t"}`,
		"no ticket":      strings.Split(first, `"ticket"`)[0] + `"ticket":""}`,
		"another device": strings.Replace(first, device, other, 1),
		"another sub":    strings.Replace(first, `"p-1"`, `"p-2"`, 1),
		"endless line":   strings.Repeat("a", 1<<20),
	} {
		if _, err := Read(strings.NewReader(bad)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

func FuzzRead(f *testing.F) {
	i, _ := issuer(f)
	var b bytes.Buffer
	if err := Write(&b, i, 2); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"sub":"a","device":"b","ticket":"c"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		source, err := Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		for range source.Left() {
			if p, err := source.New(); err != nil || p.Device.IsZero() || p.Subject == "" {
				t.Fatalf("%+v, %v", p, err)
			}
		}
	})
}

func TestParseAddresses(t *testing.T) {
	got, err := ParseAddresses("127.0.0.2,127.0.0.254-127.0.1.1,::1")
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, a := range got {
		texts = append(texts, a.String())
	}
	if s := strings.Join(texts, " "); s != "127.0.0.2 127.0.0.254 127.0.0.255 127.0.1.0 127.0.1.1 ::1" {
		t.Error(s)
	}
	for _, bad := range []string{"", "localhost", "127.0.0.1,", "127.0.0.9-127.0.0.2", "127.0.0.1-::1", "127.0.0.1-", "10.0.0.0-10.255.0.0"} {
		if a, err := ParseAddresses(bad); err == nil {
			t.Errorf("%q: %v", bad, a)
		}
	}
}

// On Linux all of 127.0.0.0/8 is this machine; elsewhere there is one address to
// dial from.
func TestDialsFromEachAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := []string{"127.0.0.1"}
	if runtime.GOOS == "linux" {
		want = []string{"127.0.0.3", "127.0.9.9", "127.0.0.2"}
	}
	d := &Dialer{}
	for _, a := range want {
		d.Addresses = append(d.Addresses, netip.MustParseAddr(a))
	}
	for i := range 2 * len(want) {
		c, err := d.Dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if host, _, _ := net.SplitHostPort(c.LocalAddr().String()); host != want[i%len(want)] {
			t.Errorf("connection %d is from %s, want %s", i, host, want[i%len(want)])
		}
		c.Close()
	}
}
