package fleet

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

var (
	notAfter = time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	now      = notAfter.Add(-time.Hour)
)

// signer is one signer, ready to use.
type signer struct {
	note.Signer
	vkey string
}

func newSigner(t testing.TB, name string) signer {
	t.Helper()
	skey, vkey, err := GenerateSigner(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := skey.Signer()
	if err != nil {
		t.Fatal(err)
	}
	return signer{s, vkey}
}

func point(t testing.TB) (raw [65]byte) {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return [65]byte(k.PublicKey().Bytes())
}

func newKeys(t testing.TB, id string) Keys {
	t.Helper()
	p := point(t)
	x, y := new(big.Int).SetBytes(p[1:33]), new(big.Int).SetBytes(p[33:])
	return Keys{Fleet: id, Noise: point(t), OPAQUE: [33]byte(elliptic.MarshalCompressed(elliptic.P256(), x, y)), Receipt: point(t)}
}

func newBundle(t testing.TB, previous ...string) Bundle {
	t.Helper()
	b := Bundle{Keys: newKeys(t, "fleet-b.example"), Epoch: 7, NotAfter: notAfter}
	for _, id := range previous {
		b.Previous = append(b.Previous, newKeys(t, id))
	}
	return b
}

func mustSign(t testing.TB, b Bundle, signers ...note.Signer) []byte {
	t.Helper()
	signed, err := Sign(b, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestBundleOpens(t *testing.T) {
	a, b := newSigner(t, "one.example/fleet"), newSigner(t, "two.example/fleet")
	for n := range MaxPrevious + 1 {
		bundle := newBundle(t, []string{"p1", "p2", "p3", "p4"}[:n]...)
		// The second signer signs elsewhere.
		signed, err := AddSignature(mustSign(t, bundle, a), b)
		if err != nil {
			t.Fatal(err)
		}
		for _, order := range [][2]string{{a.vkey, b.vkey}, {b.vkey, a.vkey}} {
			pins := Pins{Fleet: bundle.Fleet, MinEpoch: 7, Signers: order}
			got, err := pins.Open(signed, notAfter) // its last second still counts
			if err != nil || !reflect.DeepEqual(got, bundle) {
				t.Fatalf("%d previous: %v, %v", n, got, err)
			}
		}
		if epoch, err := Epoch(signed); err != nil || epoch != 7 {
			t.Errorf("Epoch: %d, %v", epoch, err)
		}
	}
}

// The exact text, for clients in other languages.
func TestText(t *testing.T) {
	b := newBundle(t, "fleet-a.example")
	b.NotAfter = notAfter.In(time.FixedZone("", 3600)).Add(time.Millisecond)
	e := base64.StdEncoding.EncodeToString
	p := b.Previous[0]
	want := "chatvault fleet bundle v1\nfleet fleet-b.example\nepoch 7\nnot_after 2027-01-31T12:00:00Z\n" +
		"noise " + e(b.Noise[:]) + "\nopaque " + e(b.OPAQUE[:]) + "\nreceipt " + e(b.Receipt[:]) + "\n" +
		"previous fleet-a.example\nnoise " + e(p.Noise[:]) + "\nopaque " + e(p.OPAQUE[:]) + "\nreceipt " + e(p.Receipt[:]) + "\n"
	if b.Text() != want {
		t.Errorf("got\n%s\nwant\n%s", b.Text(), want)
	}
}

func TestFind(t *testing.T) {
	b := newBundle(t, "fleet-a.example")
	if k, current, ok := b.Find("fleet-b.example"); k != b.Keys || !current || !ok {
		t.Error("the current fleet is not found as such")
	}
	if k, current, ok := b.Find("fleet-a.example"); k != b.Previous[0] || current || !ok {
		t.Error("the previous fleet is not found as such")
	}
	if k, _, ok := b.Find("fleet-c.example"); k != (Keys{}) || ok {
		t.Error("an unknown fleet was found")
	}
}

func TestParseRefuses(t *testing.T) {
	b := newBundle(t, "fleet-a.example")
	good := b.Text()
	if _, err := Parse(good); err != nil {
		t.Fatal(err)
	}
	e := base64.StdEncoding.EncodeToString
	noise := "noise " + e(b.Noise[:])
	opaque := "opaque " + e(b.OPAQUE[:])
	hybrid, off, identity := b.Noise, b.Noise, [65]byte{}
	hybrid[0], off[64] = 6|b.Noise[64]&1, off[64]^1
	badX := b.OPAQUE
	badX[0] = 5
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the text", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, text := range map[string]string{
		"empty":                  "",
		"header only":            bundleHeader + "\n",
		"other version":          swap("bundle v1", "bundle v2"),
		"no final newline":       strings.TrimSuffix(good, "\n"),
		"empty line at the end":  good + "\n",
		"unknown line":           good + "note hello\n",
		"carriage returns":       strings.ReplaceAll(good, "\n", "\r\n"),
		"lines swapped":          swap(noise+"\n"+opaque, opaque+"\n"+noise),
		"line missing":           swap(noise+"\n", ""),
		"line twice":             swap(noise+"\n", noise+"\n"+noise+"\n"),
		"two spaces":             swap("epoch 7", "epoch  7"),
		"epoch 0":                swap("epoch 7", "epoch 0"),
		"epoch 07":               swap("epoch 7", "epoch 07"),
		"epoch +7":               swap("epoch 7", "epoch +7"),
		"epoch too large":        swap("epoch 7", "epoch 4294967296"),
		"epoch empty":            swap("epoch 7", "epoch "),
		"fraction of a second":   swap("12:00:00Z", "12:00:00.5Z"),
		"offset":                 swap("12:00:00Z", "12:00:00+00:00"),
		"lower-case z":           swap("12:00:00Z", "12:00:00z"),
		"no such day":            swap("01-31", "02-31"),
		"fleet id empty":         swap("fleet fleet-b.example", "fleet "),
		"fleet id upper-case":    swap("fleet fleet-b.example", "fleet Fleet-b.example"),
		"fleet id with space":    swap("fleet fleet-b.example", "fleet fleet b"),
		"fleet id of 65":         swap("fleet fleet-b.example", "fleet "+strings.Repeat("f", 65)),
		"fleet id not ASCII":     swap("fleet fleet-b.example", "fleet flött"),
		"noise short":            swap(noise, "noise "+e(b.Noise[:64])),
		"noise hybrid":           swap(noise, "noise "+e(hybrid[:])),
		"noise off curve":        swap(noise, "noise "+e(off[:])),
		"noise identity":         swap(noise, "noise "+e(identity[:])),
		"noise compressed":       swap(noise, "noise "+e(b.OPAQUE[:])),
		"receipt off curve":      swap("receipt "+e(b.Receipt[:]), "receipt "+e(off[:])),
		"opaque uncompressed":    swap(opaque, "opaque "+e(b.Noise[:])),
		"opaque unknown prefix":  swap(opaque, "opaque "+e(badX[:])),
		"base64 of URLs":         swap(noise, "noise "+strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(e(b.Noise[:]))),
		"base64 with extra bits": swap(noise, strings.TrimSuffix(noise, "=")[:len(noise)-2]+"B="),
		"base64 broken by CR":    swap(noise, noise[:20]+"\r"+noise[20:]),
		"fleet twice":            swap("previous fleet-a.example", "previous fleet-b.example"),
		"five previous":          newBundle(t, "a", "b", "c", "d", "e").Text(),
		"too large":              good + strings.Repeat("x", MaxSize),
	} {
		if _, err := Parse(text); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := b
	bad.Epoch = 0
	if _, err := Sign(bad, newSigner(t, "one")); !errors.Is(err, ErrFormat) {
		t.Errorf("a bundle that does not parse was signed: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	a, b, c := newSigner(t, "one.example"), newSigner(t, "two.example"), newSigner(t, "three.example")
	bundle := newBundle(t, "fleet-a.example")
	both := mustSign(t, bundle, a, b)
	pins := Pins{Fleet: bundle.Fleet, MinEpoch: 7, Signers: [2]string{a.vkey, b.vkey}}
	with := func(change func(*Pins)) Pins {
		p := pins
		change(&p)
		return p
	}
	impostor := newSigner(t, "two.example") // the second signer's name, another key
	flipped := bytes.Replace(both, []byte("epoch 7"), []byte("epoch 9"), 1)
	for name, test := range map[string]struct {
		pins   Pins
		signed []byte
		now    time.Time
		want   error
	}{
		"first signer only":       {pins, mustSign(t, bundle, a), now, ErrOneSignature},
		"second signer only":      {pins, mustSign(t, bundle, b), now, ErrOneSignature},
		"one signer twice":        {pins, twice(mustSign(t, bundle, a)), now, ErrOneSignature},
		"one and a stranger":      {pins, mustSign(t, bundle, a, c), now, ErrOneSignature},
		"one and an impostor":     {pins, mustSign(t, bundle, a, impostor), now, ErrOneSignature},
		"strangers":               {pins, mustSign(t, bundle, c), now, ErrUnsigned},
		"changed text":            {pins, flipped, now, ErrBadSignature},
		"epoch back":              {with(func(p *Pins) { p.MinEpoch = 8 }), both, now, ErrEpochBack},
		"expired":                 {pins, both, notAfter.Add(time.Second), ErrExpired},
		"other fleet":             {with(func(p *Pins) { p.Fleet = "fleet-c.example" }), both, now, ErrFleet},
		"no note":                 {pins, []byte(bundle.Text()), now, ErrFormat},
		"empty":                   {pins, nil, now, ErrFormat},
		"too large":               {pins, append(bytes.Clone(both), make([]byte, MaxSize)...), now, ErrFormat},
		"cut":                     {pins, both[:len(both)-1], now, ErrFormat},
		"other text, both signed": {pins, signRaw(t, "hello\n", a, b), now, ErrFormat},
		"a change of signers":     {pins, signRaw(t, Signers{1, pins.Signers}.Text(), a, b), now, ErrFormat},
		"pins name one twice":     {with(func(p *Pins) { p.Signers[1] = a.vkey }), both, now, ErrPins},
		"pins without signers":    {Pins{Fleet: bundle.Fleet, MinEpoch: 7}, both, now, ErrPins},
		"pins without epoch":      {with(func(p *Pins) { p.MinEpoch = 0 }), both, now, ErrPins},
		"pins without fleet":      {with(func(p *Pins) { p.Fleet = "" }), both, now, ErrPins},
	} {
		got, err := test.pins.Open(test.signed, test.now)
		if !errors.Is(err, test.want) || !reflect.DeepEqual(got, Bundle{}) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if _, err := with(func(p *Pins) { p.Fleet = "fleet-a.example" }).Open(both, now); err != nil {
		t.Errorf("a pinned fleet that became a previous one: %v", err)
	}
	if _, err := pins.Open(mustSign(t, bundle, c, a, b), now); err != nil {
		t.Errorf("a further signature: %v", err)
	}
}

func TestEveryFlippedByteFails(t *testing.T) {
	a, b := newSigner(t, "one.example"), newSigner(t, "two.example")
	bundle := newBundle(t)
	signed := mustSign(t, bundle, a, b)
	pins := Pins{Fleet: bundle.Fleet, MinEpoch: 7, Signers: [2]string{a.vkey, b.vkey}}
	for n := range signed {
		bad := bytes.Clone(signed)
		bad[n] ^= 1
		if _, err := pins.Open(bad, now); err == nil {
			t.Errorf("byte %d (%q to %q) makes no difference", n, signed[n], bad[n])
		}
	}
}

// One key under two names is one signer.
func TestOneKeyUnderTwoNames(t *testing.T) {
	a := newSigner(t, "one.example")
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(a.vkey, "+", 3)[2])
	if err != nil {
		t.Fatal(err)
	}
	alias, err := note.NewEd25519VerifierKey("two.example", raw[1:])
	if err != nil {
		t.Fatal(err)
	}
	bundle := newBundle(t)
	pins := Pins{Fleet: bundle.Fleet, MinEpoch: 1, Signers: [2]string{a.vkey, alias}}
	if _, err := pins.Open(mustSign(t, bundle, a), now); !errors.Is(err, ErrPins) {
		t.Errorf("one key under two names: %v", err)
	}
}

func TestRaise(t *testing.T) {
	pins := Pins{Fleet: "f", MinEpoch: 5}
	if got := pins.Raise(Bundle{Epoch: 9}).MinEpoch; got != 9 {
		t.Errorf("raised to %d", got)
	}
	if got := pins.Raise(Bundle{Epoch: 4}).MinEpoch; got != 5 {
		t.Errorf("lowered to %d", got)
	}
}

func TestEpochRefusesWhatDoesNotParse(t *testing.T) {
	a := newSigner(t, "one.example")
	for name, signed := range map[string][]byte{
		"empty":      nil,
		"text alone": []byte(newBundle(t).Text()),
		"other text": signRaw(t, "hello\n", a),
		"too large":  append(mustSign(t, newBundle(t), a), make([]byte, MaxSize)...),
	} {
		if _, err := Epoch(signed); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := AddSignature(signed, a); !errors.Is(err, ErrFormat) {
			t.Errorf("AddSignature, %s: %v", name, err)
		}
	}
	if _, err := Sign(newBundle(t)); !errors.Is(err, ErrUnsigned) {
		t.Errorf("signed by nobody: %v", err)
	}
}

func TestSigningKeyIsASecret(t *testing.T) {
	skey, _, err := GenerateSigner("one.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%s", "%x", "%#v"} {
		if got := fmt.Sprintf(verb, struct{ K SigningKey }{skey}); strings.Contains(got, "PRIVATE") || !strings.Contains(got, "[redacted]") {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	for _, name := range []string{"", "a b", "a+b", "ä", "a\x00", strings.Repeat("a", 129)} {
		if _, _, err := GenerateSigner(name); !errors.Is(err, ErrPins) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := (SigningKey{}).Signer(); err == nil {
		t.Error("an empty key became a signer")
	}
}

// signRaw signs what Sign would refuse.
func signRaw(t *testing.T, text string, signers ...note.Signer) []byte {
	t.Helper()
	signed, err := note.Sign(&note.Note{Text: text}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// twice repeats the last signature line.
func twice(signed []byte) []byte {
	lines := bytes.SplitAfter(bytes.TrimSuffix(signed, []byte("\n")), []byte("\n"))
	return append(bytes.Clone(signed), append(lines[len(lines)-1], '\n')...)
}
