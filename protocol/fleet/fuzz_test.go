package fleet

import (
	"encoding/json"
	"errors"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func FuzzParse(f *testing.F) {
	for n := range MaxPrevious + 2 {
		f.Add(newBundle(f, []string{"p1", "p2", "p3", "p4", "p5"}[:n]...).Text())
	}
	f.Add(bundleHeader + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("untyped: %v", err)
			}
			return
		}
		if b.Text() != text {
			t.Errorf("encodes to %q", b.Text())
		}
	})
}

func FuzzParseSigners(f *testing.F) {
	pins, _, _ := newPins(f)
	f.Add(Signers{1, pins.Signers}.Text())
	f.Add(Signers{1<<32 - 1, pins.Signers}.Text())
	f.Add(Signers{}.Text())
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSigners(text)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("untyped: %v", err)
			}
			return
		}
		if s.Text() != text {
			t.Errorf("encodes to %q", s.Text())
		}
	})
}

func FuzzParsePins(f *testing.F) {
	pins, _, _ := newPins(f)
	pins.Sequence = 2
	data, err := json.Marshal(pins)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"fleet":"f","min_epoch":1,"signers":["a","b"]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePins(data)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrPins) {
				t.Errorf("untyped: %v", err)
			}
			return
		}
		// JSON leaves white space and order free: what parses survives a round trip.
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := ParsePins(out); err != nil || q != p {
			t.Errorf("%s: %v, %v", out, q, err)
		}
	})
}

// What opens is what both signers signed, whatever else the bytes hold.
func FuzzOpen(f *testing.F) {
	pins, a, b := newPins(f)
	bundle := newBundle(f, "fleet-a.example")
	f.Add(mustSign(f, bundle, a, b))
	f.Add(mustSign(f, bundle, a))
	f.Add(mustSign(f, bundle, newSigner(f, "three.example"), a, b))
	f.Add([]byte(bundle.Text()))
	f.Fuzz(func(t *testing.T, signed []byte) {
		if _, err := AddSignature(signed, note.Signer(a)); err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("AddSignature: %v", err)
		}
		if _, err := Epoch(signed); err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("Epoch: %v", err)
		}
		if got, err := pins.Open(signed, now); err == nil && got.Text() != bundle.Text() {
			t.Errorf("opened %q", got.Text())
		}
	})
}
