package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func newPins(t testing.TB) (Pins, signer, signer) {
	t.Helper()
	a, b := newSigner(t, "one.example"), newSigner(t, "two.example")
	return Pins{Fleet: "fleet-b.example", MinEpoch: 3, Signers: [2]string{a.vkey, b.vkey}}, a, b
}

func TestPinsJSON(t *testing.T) {
	first, a, b := newPins(t)
	later := first
	later.Sequence = 4
	for _, want := range []Pins{first, later} {
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParsePins(data); err != nil || got != want {
			t.Errorf("%s: %v, %v", data, got, err)
		}
	}
	byHand := fmt.Sprintf(" {\n\"signers\": [%q, %q],\n\"min_epoch\": 3, \"fleet\": \"fleet-b.example\" }\n", a.vkey, b.vkey)
	if got, err := ParsePins([]byte(byHand)); err != nil || got != first {
		t.Errorf("by hand: %v, %v", got, err)
	}
}

func TestPinsJSONRefuses(t *testing.T) {
	pins, a, b := newPins(t)
	data, err := json.Marshal(pins)
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	hash := strings.Split(a.vkey, "+")[1]
	for name, test := range map[string]struct {
		text string
		want error
	}{
		"empty":                 {"", ErrFormat},
		"null":                  {"null", ErrFormat},
		"list":                  {"[]", ErrFormat},
		"no fields":             {"{}", ErrPins},
		"cut":                   {good[:len(good)-1], ErrFormat},
		"something follows":     {good + "{}", ErrFormat},
		"unknown field":         {swap(`{`, `{"comment":"hi",`), ErrFormat},
		"repeated field":        {swap(`{`, `{"min_epoch":1,`), ErrFormat},
		"other case":            {swap(`"fleet"`, `"Fleet"`), ErrFormat},
		"fleet missing":         {swap(`"fleet":"fleet-b.example",`, ``), ErrPins},
		"fleet null":            {swap(`"fleet-b.example"`, `null`), ErrPins},
		"fleet unfit":           {swap(`fleet-b.example`, `FLEET`), ErrPins},
		"min_epoch missing":     {swap(`"min_epoch":3,`, ``), ErrPins},
		"min_epoch negative":    {swap(`"min_epoch":3`, `"min_epoch":-3`), ErrFormat},
		"min_epoch a string":    {swap(`"min_epoch":3`, `"min_epoch":"3"`), ErrFormat},
		"min_epoch too large":   {swap(`"min_epoch":3`, `"min_epoch":4294967296`), ErrFormat},
		"one signer":            {swap(`,"`+b.vkey+`"`, ``), ErrPins},
		"three signers":         {swap(`"`+b.vkey+`"`, `"`+b.vkey+`","`+a.vkey+`"`), ErrPins},
		"one signer twice":      {swap(b.vkey, a.vkey), ErrPins},
		"signer's hash changed": {swap(hash, "00000000"), ErrPins},
		"signer no key":         {swap(b.vkey, "two.example"), ErrPins},
		"signer line break":     {swap(b.vkey, b.vkey+`\n`), ErrPins},
		"too large":             {good + strings.Repeat(" ", MaxSize), ErrFormat},
	} {
		if got, err := ParsePins([]byte(test.text)); !errors.Is(err, test.want) || got != (Pins{}) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if _, err := json.Marshal(Pins{}); !errors.Is(err, ErrPins) {
		t.Errorf("unfit pins were written: %v", err)
	}
}

// change makes a change of signers, signed by the old pair.
func change(t testing.TB, sequence uint32, from, to [2]signer) []byte {
	t.Helper()
	one, err := SignSigners(Signers{sequence, [2]string{to[0].vkey, to[1].vkey}}, from[0])
	if err != nil {
		t.Fatal(err)
	}
	both, err := AddSignature(one, from[1])
	if err != nil {
		t.Fatal(err)
	}
	return both
}

func TestFollow(t *testing.T) {
	pins, a, b := newPins(t)
	first := [2]signer{a, b}
	second := [2]signer{b, newSigner(t, "three.example")} // b stays
	third := [2]signer{newSigner(t, "four.example"), newSigner(t, "five.example")}
	chain := [][]byte{change(t, 1, first, second), change(t, 2, second, third), change(t, 3, third, first)}

	vkeys := func(p [2]signer) [2]string { return [2]string{p[0].vkey, p[1].vkey} }
	for n, want := range [][2]signer{first, second, third, first} {
		got, err := pins.Follow(chain[:n])
		if err != nil || got.Signers != vkeys(want) || got.Sequence != uint32(n) || got.Fleet != pins.Fleet || got.MinEpoch != pins.MinEpoch {
			t.Fatalf("after %d: %v, %v", n, got, err)
		}
		// From there the rest can be followed, and what lies behind changes nothing.
		if end, err := got.Follow(chain); err != nil || end.Signers != vkeys(first) || end.Sequence != 3 {
			t.Errorf("from %d: %v, %v", n, end, err)
		}
		if same, err := got.Follow(chain[:n]); err != nil || same != got {
			t.Errorf("again from %d: %v, %v", n, same, err)
		}
	}

	stranger := newSigner(t, "six.example")
	impostor := newSigner(t, "one.example")
	for name, test := range map[string]struct {
		chain [][]byte
		want  error
	}{
		"gap":                         {[][]byte{chain[1]}, ErrChain},
		"out of order":                {[][]byte{chain[1], chain[0]}, ErrChain},
		"repeated":                    {[][]byte{chain[0], chain[0]}, ErrChain},
		"two changes with one number": {[][]byte{chain[0], change(t, 1, second, third)}, ErrChain},
		"by the new pair":             {[][]byte{change(t, 1, second, second)}, ErrOneSignature},
		"by one old signer":           {[][]byte{change(t, 1, [2]signer{a, stranger}, second)}, ErrOneSignature},
		"by an impostor":              {[][]byte{change(t, 1, [2]signer{impostor, b}, second)}, ErrOneSignature},
		"by strangers":                {[][]byte{change(t, 1, third, second)}, ErrUnsigned},
		"second step forged":          {[][]byte{chain[0], change(t, 2, first, third)}, ErrOneSignature},
		"not a note":                  {[][]byte{[]byte("x")}, ErrFormat},
		"a bundle":                    {[][]byte{mustSign(t, newBundle(t), a, b)}, ErrFormat},
		"too long":                    {make([][]byte, MaxChain+1), ErrChain},
	} {
		if got, err := pins.Follow(test.chain); !errors.Is(err, test.want) || got != pins {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if _, err := (Pins{}).Follow(nil); !errors.Is(err, ErrPins) {
		t.Errorf("unfit pins: %v", err)
	}

	// After three changes the pins name the first pair again: the first change,
	// which that pair signed, must not be played back.
	end, err := pins.Follow(chain)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := end.Follow(chain[:1]); err != nil || got != end {
		t.Errorf("an old change was followed again: %v, %v", got, err)
	}
}

func TestFollowedPinsOpenBundles(t *testing.T) {
	pins, a, b := newPins(t)
	next := [2]signer{newSigner(t, "three.example"), newSigner(t, "four.example")}
	followed, err := pins.Follow([][]byte{change(t, 1, [2]signer{a, b}, next)})
	if err != nil {
		t.Fatal(err)
	}
	byOld, byNew := mustSign(t, newBundle(t), a, b), mustSign(t, newBundle(t), next[0], next[1])
	if _, err := followed.Open(byNew, now); err != nil {
		t.Errorf("the new pair's bundle: %v", err)
	}
	if _, err := followed.Open(byOld, now); !errors.Is(err, ErrUnsigned) {
		t.Errorf("the old pair's bundle: %v", err)
	}
}

func TestParseSignersRefuses(t *testing.T) {
	_, a, b := newPins(t)
	good := Signers{2, [2]string{a.vkey, b.vkey}}.Text()
	if s, err := ParseSigners(good); err != nil || s.Text() != good {
		t.Fatalf("%v, %v", s, err)
	}
	for name, text := range map[string]string{
		"empty":          "",
		"sequence 0":     strings.Replace(good, "sequence 2", "sequence 0", 1),
		"sequence 02":    strings.Replace(good, "sequence 2", "sequence 02", 1),
		"one signer":     strings.Replace(good, "signer "+b.vkey+"\n", "", 1),
		"three signers":  good + "signer " + a.vkey + "\n",
		"one twice":      strings.Replace(good, b.vkey, a.vkey, 1),
		"no key":         strings.Replace(good, b.vkey, "two.example", 1),
		"other header":   strings.Replace(good, "signers v1", "signers v2", 1),
		"no newline":     strings.TrimSuffix(good, "\n"),
		"too large":      good + strings.Repeat("x", MaxSize),
		"text of bundle": newBundle(t).Text(),
	} {
		if _, err := ParseSigners(text); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := AddSignature(signRaw(t, strings.TrimSuffix(text, "\n")+"\n", a), b); text != "" && name != "no newline" && name != "text of bundle" && err == nil {
			t.Errorf("AddSignature, %s: signed", name)
		}
	}
	if _, err := SignSigners(Signers{0, [2]string{a.vkey, b.vkey}}, a); !errors.Is(err, ErrFormat) {
		t.Errorf("a change that does not parse was signed: %v", err)
	}
}
