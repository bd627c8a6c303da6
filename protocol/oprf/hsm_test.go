package oprf

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"

	"chatvault/protocol/vectors"

	"filippo.io/nistec"
)

func sprint(v any) string { return fmt.Sprintf("%v %+v %#v %x %s", v, v, v, v, v) }

// xOnly stands for an HSM: it multiplies points and gives x alone.
func xOnly(t testing.TB, k PrivateKey) func([]byte) ([32]byte, error) {
	return func(peer []byte) (x [32]byte, err error) {
		if len(peer) != UncompressedSize {
			t.Errorf("the HSM was sent %d bytes", len(peer))
		}
		element, err := Compress(peer)
		if err != nil {
			return x, err
		}
		product, err := Evaluate(k, element)
		if err != nil {
			return x, err
		}
		return [32]byte(product[1:]), nil
	}
}

func public(t testing.TB, k PrivateKey) []byte {
	t.Helper()
	p, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func checkByX(t *testing.T, name string, k PrivateKey, point []byte) {
	t.Helper()
	want, err := Evaluate(k, point)
	if err != nil {
		t.Fatal(err)
	}
	got, err := EvaluateByX(xOnly(t, k), public(t, k), point)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	equal(t, name, got, want)
}

func TestEvaluateByXOfRandomPoints(t *testing.T) {
	signs := [2]int{}
	for i := range 600 {
		k, point := randomKey(t), public(t, randomKey(t))
		checkByX(t, fmt.Sprintf("random point %d", i), k, point)
		product, err := Evaluate(k, point)
		if err != nil {
			t.Fatal(err)
		}
		signs[product[0]-2]++
	}
	if signs[0] < 200 || signs[1] < 200 {
		t.Errorf("signs %v: one of them was hardly tested", signs)
	}
}

// multiple returns i*G, also for negative i.
func multiple(t *testing.T, i int) []byte {
	t.Helper()
	var k PrivateKey
	k.B[31] = byte(max(i, -i))
	element := public(t, k)
	if i < 0 {
		element[0] ^= 1
	}
	return element
}

func TestEvaluateByXOfSpecialPoints(t *testing.T) {
	one, two, minusOne := PrivateKey{}, PrivateKey{}, PrivateKey{}
	one.B[31], two.B[31] = 1, 2
	copy(minusOne.B[:], orderMinusTwo)
	minusOne.B[31]++
	keys := map[string]PrivateKey{"1": one, "2": two, "5": testKey, "n-1": minusOne, "random": randomKey(t)}
	for name, k := range keys {
		for _, i := range []int{1, -1, 2, -2, 3, -3} {
			checkByX(t, fmt.Sprintf("key %s, %d*G", name, i), k, multiple(t, i))
		}
		for _, v := range vectors.Elements() {
			if v.Valid {
				checkByX(t, "key "+name+", "+v.Name, k, v.Element)
			}
		}
	}
}

// The x-coordinates that an HSM returns may begin with zero bytes: make
// points whose first, and whose second, product has such an x.
func TestEvaluateByXOfLeadingZeros(t *testing.T) {
	leading := 0
	for _, v := range vectors.Elements() {
		if !v.Valid || v.Element[1] != 0 {
			continue
		}
		leading++
		k := randomKey(t)
		inverse, err := scalarInverse(k.Key)
		if err != nil {
			t.Fatal(err)
		}
		element, err := deserializeElement(v.Element)
		if err != nil {
			t.Fatal(err)
		}
		first, err := nistec.NewP256Point().ScalarMult(element, inverse[:])
		if err != nil {
			t.Fatal(err)
		}
		checkByX(t, "x(kP), "+v.Name, k, first.BytesCompressed())
		minusG := nistec.NewP256Point().Negate(nistec.NewP256Point().SetGenerator())
		checkByX(t, "x(k(P+G)), "+v.Name, k, nistec.NewP256Point().Add(first, minusG).BytesCompressed())
	}
	if leading == 0 {
		t.Error("no vector has a leading zero")
	}
}

func TestEvaluateByXAsksNothingForG(t *testing.T) {
	refuse := func([]byte) ([32]byte, error) {
		t.Error("the HSM was called")
		return [32]byte{}, nil
	}
	K := public(t, testKey)
	for _, i := range []int{1, -1} {
		got, err := EvaluateByX(refuse, K, multiple(t, i))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, fmt.Sprint(i), got, multiple(t, 5*i))
	}
}

func TestEvaluateByXNoticesAWrongHSM(t *testing.T) {
	point := public(t, randomKey(t))
	other := randomKey(t)
	good := xOnly(t, testKey)
	calls := 0
	on := func(call int, change func(*[32]byte)) func([]byte) ([32]byte, error) {
		calls = 0
		return func(peer []byte) ([32]byte, error) {
			x, err := good(peer)
			if calls++; calls == call {
				change(&x)
			}
			return x, err
		}
	}
	xOfK := func(x *[32]byte) { copy(x[:], public(t, testKey)[1:]) }
	for name, dh := range map[string]func([]byte) ([32]byte, error){
		"another key":      xOnly(t, other),
		"the peer's own x": func(peer []byte) ([32]byte, error) { return [32]byte(peer[1:33]), nil },
	} {
		wantError(t, name, second(EvaluateByX(dh, public(t, testKey), point)), ErrIntegrity)
	}
	for call := 1; call <= 2; call++ {
		for name, change := range map[string]func(*[32]byte){
			"flipped bit": func(x *[32]byte) { x[17] ^= 4 },
			"all zero":    func(x *[32]byte) { clear(x[:]) },
			"above p":     func(x *[32]byte) { copy(x[:], bytes.Repeat([]byte{0xff}, 32)) },
			"x of K":      xOfK,
		} {
			name := fmt.Sprintf("call %d: %s", call, name)
			wantError(t, name, second(EvaluateByX(on(call, change), public(t, testKey), point)), ErrIntegrity)
		}
		broken := errors.New("device removed")
		n := 0
		failing := func(peer []byte) ([32]byte, error) {
			if n++; n == call {
				return [32]byte{}, broken
			}
			return good(peer)
		}
		wantError(t, fmt.Sprintf("call %d fails", call), second(EvaluateByX(failing, public(t, testKey), point)), broken)
	}
}

func TestEvaluateByXOfRandomReplies(t *testing.T) {
	point := public(t, randomKey(t))
	for range 200 {
		random := func([]byte) (x [32]byte, err error) {
			_, err = rand.Read(x[:])
			return x, err
		}
		wantError(t, "random x", second(EvaluateByX(random, public(t, testKey), point)), ErrIntegrity)
	}
}
