package oprf

import (
	"math/rand/v2"
	"testing"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"
)

// The vectors of RFC 9497 alone do not suffice: a wrong constant in the
// non-square branch of SSWU passes them. circl is a second implementation.
func TestAgreesWithCircl(t *testing.T) {
	const seed = 9497
	r := rand.New(rand.NewPCG(seed, seed))
	client := oprf.NewClient(oprf.SuiteP256)
	for i := range 2000 {
		input := make([]byte, r.IntN(200))
		fill(r, input)
		key, blind := draw(t, r), Blind(draw(t, r))

		theirBlind := group.P256.NewScalar()
		must(t, theirBlind.UnmarshalBinary(blind.B[:]))
		finalizeData, request, err := client.DeterministicBlind([][]byte{input}, []oprf.Blind{theirBlind})
		must(t, err)
		theirBlinded, err := request.Elements[0].MarshalBinaryCompress()
		must(t, err)
		blinded, err := BlindInput(input, blind)
		must(t, err)
		equal(t, "blinded element", blinded, theirBlinded)

		var theirKey oprf.PrivateKey
		must(t, theirKey.UnmarshalBinary(oprf.SuiteP256, key.B[:]))
		evaluation, err := oprf.NewServer(oprf.SuiteP256, &theirKey).Evaluate(request)
		must(t, err)
		theirEvaluated, err := evaluation.Elements[0].MarshalBinaryCompress()
		must(t, err)
		evaluated, err := Evaluate(key, blinded)
		must(t, err)
		equal(t, "evaluated element", evaluated, theirEvaluated)

		theirOutputs, err := client.Finalize(finalizeData, evaluation)
		must(t, err)
		output, err := Finalize(input, blind, blinded, evaluated)
		must(t, err)
		equal(t, "output", output, theirOutputs[0])
		if t.Failed() {
			t.Fatalf("seed %d, input %d: %x", seed, i, input)
		}
	}
}

func TestDeriveKeyPairAgreesWithCircl(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		seed, info := make([]byte, 32), make([]byte, r.IntN(60))
		fill(r, seed)
		fill(r, info)
		theirs, err := oprf.DeriveKey(oprf.SuiteP256, oprf.BaseMode, seed, info)
		must(t, err)
		theirKey, err := theirs.MarshalBinary()
		must(t, err)
		theirPublic, err := theirs.Public().MarshalBinary()
		must(t, err)
		skS, pkS, err := DeriveKeyPair(seed, info)
		must(t, err)
		equal(t, "skS", skS.B[:], theirKey)
		equal(t, "pkS", pkS, theirPublic)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fill(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}

func draw(t *testing.T, r *rand.Rand) PrivateKey {
	t.Helper()
	b, err := NewBlind(reader{r})
	must(t, err)
	return PrivateKey(b)
}

type reader struct{ r *rand.Rand }

func (r reader) Read(p []byte) (int, error) {
	fill(r.r, p)
	return len(p), nil
}
