package oprf

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"chatvault/protocol/secret"
)

var (
	testKey   = PrivateKey{secret.Key{B: [32]byte{31: 5}}}
	generator = mustHex("036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296")
)

func second[T any](_ T, err error) error { return err }

func equal(t *testing.T, name string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s = %x, want %x", name, got, want)
	}
}

func wantError(t *testing.T, name string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", name, got, want)
	}
}

func randomKey(t testing.TB) PrivateKey {
	t.Helper()
	b, err := NewBlind(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return PrivateKey(b)
}

// outOfRange are scalars that no function may take.
var outOfRange = map[string]secret.Key{
	"zero":      {},
	"the order": {B: [32]byte(mustHex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"))},
	"2^256-1":   {B: [32]byte(bytes.Repeat([]byte{0xff}, 32))},
}

func TestScalarsOutOfRangeAreRefused(t *testing.T) {
	for name, k := range outOfRange {
		wantError(t, name+": BlindInput", second(BlindInput([]byte("x"), Blind{k})), ErrScalar)
		wantError(t, name+": Evaluate", second(Evaluate(PrivateKey{k}, generator)), ErrScalar)
		wantError(t, name+": Public", second(PrivateKey{k}.Public()), ErrScalar)
		other, err := Evaluate(testKey, generator)
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, name+": Finalize", second(Finalize(nil, Blind{k}, generator, other)), ErrScalar)
	}
}

func TestNewBlindRejectsAndDrawsAgain(t *testing.T) {
	var draws []byte
	for _, k := range outOfRange {
		draws = append(draws, k.B[:]...)
	}
	draws = append(draws, testKey.B[:]...)
	b, err := NewBlind(bytes.NewReader(draws))
	if err != nil || !b.Equal(testKey.Key) {
		t.Errorf("NewBlind took a scalar out of range, or failed: %v", err)
	}
}

func TestNewBlindOfBadRandomness(t *testing.T) {
	broken := errors.New("broken")
	wantError(t, "a failing reader", second(NewBlind(iotest.ErrReader(broken))), broken)
	if _, err := NewBlind(bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("31 bytes sufficed")
	}
	wantError(t, "a reader of zeros", second(NewBlind(zeros{})), ErrScalar)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestReflectedElementIsRefused(t *testing.T) {
	blind := Blind(randomKey(t))
	blinded, err := BlindInput([]byte("password"), blind)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "evaluated = blinded", second(Finalize([]byte("password"), blind, blinded, blinded)), ErrElement)
}

func TestInputLength(t *testing.T) {
	blind := Blind(testKey)
	longest := make([]byte, 65535)
	blinded, err := BlindInput(longest, blind)
	if err != nil {
		t.Fatal(err)
	}
	evaluated, err := Evaluate(testKey, blinded)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Finalize(longest, blind, blinded, evaluated); err != nil {
		t.Error(err)
	}
	tooLong := make([]byte, 65536)
	wantError(t, "BlindInput", second(BlindInput(tooLong, blind)), ErrInput)
	wantError(t, "Finalize", second(Finalize(tooLong, blind, blinded, evaluated)), ErrInput)
	if _, _, err := DeriveKeyPair(nil, tooLong); !errors.Is(err, ErrInput) {
		t.Errorf("DeriveKeyPair: %v", err)
	}
}

func TestDomainSeparationTagLength(t *testing.T) {
	for name, dst := range map[string][]byte{"empty": nil, "256 bytes": make([]byte, 256)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			HashToCurve([]byte("x"), dst)
		}()
	}
	if _, err := HashToCurve([]byte("x"), make([]byte, 255)); err != nil {
		t.Error(err)
	}
}

// The output must depend on input and key, and not on the blind.
func TestOutputIsAFunctionOfInputAndKey(t *testing.T) {
	evaluate := func(input string, key PrivateKey) string {
		blind := Blind(randomKey(t))
		blinded, err := BlindInput([]byte(input), blind)
		if err != nil {
			t.Fatal(err)
		}
		evaluated, err := Evaluate(key, blinded)
		if err != nil {
			t.Fatal(err)
		}
		output, err := Finalize([]byte(input), blind, blinded, evaluated)
		if err != nil {
			t.Fatal(err)
		}
		return string(output)
	}
	other := randomKey(t)
	first, second := evaluate("a", testKey), evaluate("a", testKey) // under two blinds
	if first != second {
		t.Error("the blind shows in the output")
	}
	if evaluate("a", testKey) == evaluate("b", testKey) || evaluate("a", testKey) == evaluate("a", other) {
		t.Error("the output ignores input or key")
	}
}

func TestSecretsAreRedacted(t *testing.T) {
	k := PrivateKey{secret.Key{B: [32]byte(bytes.Repeat([]byte{'K'}, 32))}}
	for _, s := range []string{sprint(k), sprint(Blind(k)), sprint(&k), sprint([]any{k})} {
		if strings.Contains(s, "KK") || strings.Contains(s, "75 75") || !strings.Contains(s, secret.Redacted) {
			t.Errorf("printed %s", s)
		}
	}
}

func FuzzCheckElement(f *testing.F) {
	f.Add(generator)
	f.Add([]byte{0})
	f.Add(append([]byte{2}, make([]byte, 32)...))
	f.Add(append([]byte{6}, make([]byte, 64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := CheckElement(b); err != nil {
			wantError(t, "CheckElement", err, ErrElement)
			wantError(t, "Decompress", second(Decompress(b)), ErrElement)
			return
		}
		uncompressed, err := Decompress(b)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Compress(uncompressed)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "round trip", back, b)
	})
}

func FuzzCompress(f *testing.F) {
	uncompressed, err := Decompress(generator)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uncompressed)
	f.Add(append([]byte{6}, uncompressed[1:]...))
	f.Add(generator)
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		element, err := Compress(b)
		if err != nil {
			wantError(t, "Compress", err, ErrElement)
			return
		}
		back, err := Decompress(element)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "round trip", back, b)
	})
}
