package password_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"chatvault/protocol/password"
	"chatvault/protocol/vectors"

	"golang.org/x/text/unicode/norm"
)

// classes are all refusals; every one must stand in the vectors.
var classes = map[string]error{
	"empty":        password.ErrEmpty,
	"too_long":     password.ErrTooLong,
	"encoding":     password.ErrEncoding,
	"control":      password.ErrControl,
	"noncharacter": password.ErrNoncharacter,
	"marks":        password.ErrMarks,
}

func TestVectors(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range vectors.Passwords() {
		t.Run(c.Name, func(t *testing.T) {
			raw := bytes.Clone(c.Raw)
			p, err := password.Normalize(raw)
			if !bytes.Equal(raw, c.Raw) {
				t.Error("the input was changed")
			}
			seen[c.Error] = true
			if c.Error == "" {
				if err != nil || !bytes.Equal(p.Bytes(), c.Normalised) {
					t.Fatalf("got %x, %v, want %x", []byte(p.Bytes()), err, c.Normalised)
				}
				again(t, p)
				return
			}
			var refusal *password.Error
			if !errors.As(err, &refusal) || string(refusal.Class) != c.Error || !errors.Is(err, classes[c.Error]) {
				t.Errorf("got %v, want class %s", err, c.Error)
			}
			if p.Bytes() != nil {
				t.Error("a refused password came back")
			}
		})
	}
	for class := range classes {
		if !seen[class] {
			t.Errorf("no vector of class %s", class)
		}
	}
}

// again checks that a normalised password normalises to itself.
func again(t *testing.T, p password.Password) {
	t.Helper()
	q, err := password.Normalize(p.Bytes())
	if err != nil || !p.Equal(q) {
		t.Errorf("normalising twice: %x, then %x, %v", []byte(p.Bytes()), []byte(q.Bytes()), err)
	}
}

func TestEveryCodePointAlone(t *testing.T) {
	spaces := 0
	for r := range rune(unicode.MaxRune + 1) {
		if !utf8.ValidRune(r) {
			continue
		}
		p, err := password.Normalize([]byte(string(r)))
		refused := unicode.IsControl(r) || r == 0x2028 || r == 0x2029 || r == 0xfffd ||
			r >= 0xfdd0 && r <= 0xfdef || r&0xffff >= 0xfffe
		if refused != (err != nil) {
			t.Errorf("%U: %v", r, err)
		}
		if err != nil {
			continue
		}
		if unicode.Is(unicode.Zs, r) {
			spaces++
			if string(p.Bytes()) != " " {
				t.Errorf("%U became %q", r, string(p.Bytes()))
			}
		} else if string(p.Bytes()) != norm.NFC.String(string(r)) {
			t.Errorf("%U became %q", r, string(p.Bytes()))
		}
		again(t, p)
	}
	if spaces != 17 {
		t.Errorf("%d spaces, want 17", spaces)
	}
}

// What the limits rest on: no decomposition is longer than four characters, and
// every character with a combining class is a mark. So 16 × 1,024 raw bytes
// are enough for all passwords, and what has at most twelve marks in a row never
// comes near the 30 after which x/text inserts U+034F.
func TestUnicodeFactsBehindTheLimits(t *testing.T) {
	for r := range rune(unicode.MaxRune + 1) {
		if !utf8.ValidRune(r) {
			continue
		}
		s := string(r)
		if n := utf8.RuneCountInString(norm.NFD.String(s)); n > 4 {
			t.Errorf("%U decomposes to %d characters", r, n)
		}
		if norm.NFC.PropertiesString(s).CCC() != 0 && !unicode.Is(unicode.M, r) {
			t.Errorf("%U has a combining class and is no mark", r)
		}
	}
}

// Random strings of what composes, decomposes and reorders.
func TestCanonicalEquivalentsNormaliseAlike(t *testing.T) {
	alphabet := []rune("aeqKшが가각ᄀ각\u0301\u0302\u0323\u0307\u0327\u0345\u0344\u0958\ufb2c\u212a\u1ec7\u00e9\u3000\u00a0\u200d🔑")
	rng := rand.New(rand.NewPCG(1, 2))
	accepted := 0
	for range 20000 {
		raw := make([]rune, 1+rng.IntN(20))
		for i := range raw {
			raw[i] = alphabet[rng.IntN(len(alphabet))]
		}
		p, err := password.Normalize([]byte(string(raw)))
		if err != nil {
			continue
		}
		accepted++
		again(t, p)
		for _, form := range []norm.Form{norm.NFC, norm.NFD} {
			q, err := password.Normalize(form.Bytes([]byte(string(raw))))
			if err != nil || !p.Equal(q) {
				t.Fatalf("%q: %x, but %x in another form, %v", string(raw), []byte(p.Bytes()), []byte(q.Bytes()), err)
			}
		}
	}
	if accepted < 15000 {
		t.Errorf("only %d of 20000 accepted", accepted)
	}
}

func TestHugeInputIsRefusedUnread(t *testing.T) {
	for _, raw := range [][]byte{make([]byte, 1<<20), bytes.Repeat([]byte("e\u0301"), 1<<16), bytes.Repeat([]byte{0xff}, 16*password.MaxSize+1)} {
		if _, err := password.Normalize(raw); !errors.Is(err, password.ErrTooLong) {
			t.Errorf("%d bytes: %v", len(raw), err)
		}
	}
}

func TestNothingPrintsAPassword(t *testing.T) {
	p, err := password.Normalize([]byte("PPPPPPPP"))
	if err != nil {
		t.Fatal(err)
	}
	holder := struct {
		Exported password.Password
		hidden   password.Password
	}{p, p}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
		fmt.Fprintf(&out, strings.Repeat(verb+" ", 4)+"\n", p, &p, holder, &holder)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "p", p, "h", holder)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "p", p, "h", holder)
	if err := json.NewEncoder(&out).Encode(holder); err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"PPPP", "5050", "80 80", "0x50, 0x50"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q was printed:\n%s", leak, out.String())
		}
	}
	if got := fmt.Sprint(p.Bytes()); got != "[redacted]" {
		t.Errorf("Bytes prints %s", got)
	}
}

func TestWipe(t *testing.T) {
	p, err := password.Normalize([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	b := p.Bytes()
	p.Wipe()
	if !bytes.Equal(b, make([]byte, 6)) {
		t.Errorf("after Wipe: %x", []byte(b))
	}
	var zero password.Password
	zero.Wipe()
	if zero.Bytes() != nil || zero.Equal(p) {
		t.Error("the zero Password holds something")
	}
}

func FuzzNormalize(f *testing.F) {
	for _, c := range vectors.Passwords() {
		f.Add([]byte(c.Raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		p, err := password.Normalize(raw)
		if !bytes.Equal(raw, before) {
			t.Error("the input was changed")
		}
		if err != nil {
			var refusal *password.Error
			if !errors.As(err, &refusal) || classes[string(refusal.Class)] == nil {
				t.Errorf("untyped: %v", err)
			}
			return
		}
		out := []byte(p.Bytes())
		if len(out) < 1 || len(out) > password.MaxSize || !utf8.Valid(out) || !norm.NFC.IsNormal(out) {
			t.Errorf("%x", out)
		}
		for _, r := range string(out) {
			if unicode.IsControl(r) || unicode.Is(unicode.Zs, r) && r != ' ' {
				t.Errorf("%U in %x", r, out)
			}
		}
		again(t, p)
		if q, err := password.Normalize(norm.NFD.Bytes(raw)); err != nil || !p.Equal(q) {
			t.Errorf("decomposed: %x, %v, want %x", []byte(q.Bytes()), err, out)
		}
	})
}
