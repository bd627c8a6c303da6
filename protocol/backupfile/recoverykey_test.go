package backupfile

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

func TestRecoveryKeyFormat(t *testing.T) {
	key := testKey(7)
	text := string(FormatRecoveryKey(key))
	if !regexp.MustCompile(`^([0-9a-f]{4} ){16}- [0-9]{4}$`).MatchString(text) || len(text) != 86 {
		t.Errorf("%q", text)
	}
	got, checked, err := ParseRecoveryKey(text)
	if err != nil || !checked || !got.Equal(key.Key) {
		t.Errorf("its own format does not parse: %v", err)
	}
	if s := fmt.Sprintf("%v %s %x", FormatRecoveryKey(key), FormatRecoveryKey(key), key); strings.Contains(s, text[:4]) {
		t.Errorf("printed: %s", s)
	}
}

func TestRecoveryKeyAsPeopleTypeIt(t *testing.T) {
	key := testKey(7)
	key.B[0], key.B[1] = 0x01, 0x10
	group := CheckGroup(key)
	hexa := strings.ReplaceAll(string(FormatRecoveryKey(key))[:79], " ", "")
	for name, c := range map[string]struct {
		text    string
		checked bool
	}{
		"digits only":           {hexa, false},
		"with check group":      {hexa + string(group[:]), true},
		"upper case":            {strings.ToUpper(hexa), false},
		"dashes":                {regexp.MustCompile(`.{4}`).ReplaceAllString(hexa, "$0-") + string(group[:]), true},
		"dashes of a text tool": {strings.Join([]string{hexa[:20], hexa[20:40], hexa[40:], string(group[:])}, " \u2013 "), true},
		"lines":                 {"\ufeff " + hexa[:16] + "\r\n" + hexa[16:32] + "\n\t" + hexa[32:] + "\u00a0\n", false},
		"O and l":               {"Ol1o" + hexa[4:], false},
		"o and I":               {"oIl0" + hexa[4:], false},
	} {
		got, checked, err := ParseRecoveryKey(c.text)
		if err != nil || checked != c.checked || !got.Equal(key.Key) {
			t.Errorf("%s: checked %v, %v", name, checked, err)
		}
	}
}

func TestRecoveryKeyMistakes(t *testing.T) {
	key := testKey(7)
	full := strings.ReplaceAll(strings.ReplaceAll(string(FormatRecoveryKey(key)), " ", ""), "-", "")
	for _, n := range []int{0, 1, 60, 63, 65, 66, 67} {
		var le *KeyLengthError
		if _, _, err := ParseRecoveryKey(full[:n]); !errors.As(err, &le) || le.Digits != n {
			t.Errorf("%d digits: %v", n, err)
		}
	}
	var le *KeyLengthError
	if _, _, err := ParseRecoveryKey(full + strings.Repeat("1", 1000)); !errors.As(err, &le) || le.Digits != 1068 {
		t.Errorf("far too long: %v", err)
	}
	for _, c := range []struct {
		text            string
		position, digit int
	}{
		{"g" + full[1:], 1, 1},
		{"01 2x", 5, 4},
		{"é1", 1, 1},
		{"0é", 2, 2},
		{"\xff", 1, 1},
		{"0\u0131", 2, 2}, // dotless i is no I
		{full[:64] + "a000", 65, 65},
		{full[:64] + " 00b0", 68, 67},
	} {
		var ce *KeyCharError
		if _, _, err := ParseRecoveryKey(c.text); !errors.As(err, &ce) || ce.Position != c.position || ce.Digit != c.digit {
			t.Errorf("%q: %v", c.text, err)
		}
	}
}

// Every single wrong digit must be noticed for this key, and nearly every one
// for all keys.
func TestCheckGroupFindsTypos(t *testing.T) {
	missed, tried := 0, 0
	for seed := range byte(20) {
		full := []byte(strings.NewReplacer(" ", "", "-", "").Replace(string(FormatRecoveryKey(testKey(seed)))))
		for i := range full {
			for _, d := range []byte("0123456789abcdef") {
				if d == full[i] || (i >= keyDigits && d > '9') {
					continue
				}
				bad := bytes.Clone(full)
				bad[i] = d
				tried++
				if _, _, err := ParseRecoveryKey(string(bad)); err == nil {
					missed++
				} else if !errors.Is(err, ErrCheckGroup) {
					t.Fatal(err)
				}
			}
		}
	}
	if missed > tried/1000 {
		t.Errorf("%d of %d typos missed", missed, tried)
	}
}

func FuzzRecoveryKey(f *testing.F) {
	f.Add(string(FormatRecoveryKey(testKey(1))))
	f.Add(strings.Repeat("Ol", 32))
	f.Add(strings.Repeat("0", 63) + "\u2212g")
	f.Fuzz(func(t *testing.T, text string) {
		key, _, err := ParseRecoveryKey(text)
		if err != nil {
			return
		}
		again, checked, err := ParseRecoveryKey(string(FormatRecoveryKey(key)))
		if err != nil || !checked || !again.Equal(key.Key) {
			t.Errorf("%q: %v", text, err)
		}
		// Without separators and misread letters, what parses is what is written.
		hexa := strings.NewReplacer(" ", "", "-", "").Replace(string(FormatRecoveryKey(key)))
		if plain := strings.ToLower(text); regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(plain) && plain != hexa[:64] {
			t.Errorf("%q became %q", text, hexa)
		}
	})
}
