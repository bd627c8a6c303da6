// Package hsmtest holds the suite that every hsm.Module passes, and makes
// SoftHSM tokens for tests.
package hsmtest

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"testing"

	"filippo.io/nistec"

	"chatvault/protocol/oprf"
	"chatvault/vaultd/internal/hsm"
)

// Run tests a module. open makes one with all its keys; it may return the
// same keys each time, but a module that was closed is not used again.
func Run(t *testing.T, open func(t *testing.T) hsm.Module) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, hsm.Module)
	}{
		{"NewOPRFKey", testNewOPRFKey},
		{"EvaluateAgreesWithSoftware", testEvaluate},
		{"EvaluateRefusesPoints", testEvaluatePoints},
		{"EvaluateRefusesTamperedKeys", testEvaluateTampered},
		{"DH", testDH},
		{"DHX", testDHX},
		{"Seal", testSeal},
		{"OpenRefuses", testOpenRefuses},
		{"MAC", testMAC},
		{"Sign", testSign},
		{"OneUseEach", testOneUse},
		{"Context", testContext},
		{"Parallel", testParallel},
		{"Close", testClose},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := open(t)
			t.Cleanup(func() {
				if err := m.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test.run(t, m)
		})
	}
}

// must fails the test on an error, else passes the value on.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// scalar is a random private key in software, with its public key compressed.
func scalar(t testing.TB) (oprf.PrivateKey, *ecdh.PrivateKey, []byte) {
	t.Helper()
	key := must[*ecdh.PrivateKey](t)(ecdh.P256().GenerateKey(rand.Reader))
	var s oprf.PrivateKey
	copy(s.B[:], key.Bytes())
	return s, key, must[[]byte](t)(oprf.Compress(key.PublicKey().Bytes()))
}

func testNewOPRFKey(t *testing.T, m hsm.Module) {
	ctx := t.Context()
	seen := map[string]bool{}
	for range 4 {
		wrapped, public, err := m.NewOPRFKey(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(wrapped) != hsm.WrappedSize || len(public) != hsm.PointSize {
			t.Fatalf("wrapped %d bytes, public %d", len(wrapped), len(public))
		}
		if err := oprf.CheckElement(public); err != nil {
			t.Errorf("public key: %v", err)
		}
		if seen[string(public)] || seen[string(wrapped)] {
			t.Error("the same key twice")
		}
		seen[string(public)], seen[string(wrapped)] = true, true
	}
}

// k(sG) is s(kG): the module knows k, the test s.
func testEvaluate(t *testing.T, m hsm.Module) {
	ctx := t.Context()
	wrapped, public, err := m.NewOPRFKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		s, _, point := scalar(t)
		want := must[[]byte](t)(oprf.Evaluate(s, public))
		for range 2 { // repeating is harmless
			if got, err := m.Evaluate(ctx, wrapped, public, point); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("Evaluate(%x) = %x, %v, want %x", point, got, err, want)
			}
		}
	}
	// P = ±G and -2G are where telling the sign of the product is special.
	g := nistec.NewP256Point().SetGenerator()
	minusG := nistec.NewP256Point().Negate(g)
	minus2G := nistec.NewP256Point().Double(minusG)
	k := must[*nistec.P256Point](t)(nistec.NewP256Point().SetBytes(public))
	minusK := nistec.NewP256Point().Negate(k)
	minus2K := nistec.NewP256Point().Double(minusK)
	for _, test := range []struct {
		name        string
		point, want *nistec.P256Point
	}{{"G", g, k}, {"-G", minusG, minusK}, {"-2G", minus2G, minus2K}} {
		got, err := m.Evaluate(ctx, wrapped, public, test.point.BytesCompressed())
		if err != nil || !bytes.Equal(got, test.want.BytesCompressed()) {
			t.Errorf("Evaluate(%s) = %x, %v", test.name, got, err)
		}
	}
}

// badElements are encodings that no operation may take for an element.
func badElements(t testing.TB) map[string][]byte {
	_, key, good := scalar(t)
	uncompressed := key.PublicKey().Bytes()
	change := func(b []byte, first byte) []byte {
		out := bytes.Clone(b)
		out[0] = first
		return out
	}
	offCurve := bytes.Clone(good)
	for oprf.CheckElement(offCurve) == nil {
		offCurve[32]++
	}
	notCanonical := append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...)
	return map[string][]byte{
		"nothing": nil, "identity": {0}, "identity padded": make([]byte, 33),
		"short": good[:32], "long": append(bytes.Clone(good), 0),
		"uncompressed": uncompressed, "hybrid": change(uncompressed, 6+uncompressed[64]&1),
		"prefix 04": change(good, 4), "prefix 05": change(good, 5), "prefix 06": change(good, 6),
		"off curve": offCurve, "x not below p": notCanonical,
	}
}

func testEvaluatePoints(t *testing.T, m hsm.Module) {
	ctx := t.Context()
	wrapped, public, err := m.NewOPRFKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for name, point := range badElements(t) {
		if out, err := m.Evaluate(ctx, wrapped, public, point); !errors.Is(err, hsm.ErrPoint) || out != nil {
			t.Errorf("%s: %x, %v, want ErrPoint", name, out, err)
		}
	}
}

// 640 changes of one bit, and every length.
func testEvaluateTampered(t *testing.T, m hsm.Module) {
	ctx := t.Context()
	wrapped, public, err := m.NewOPRFKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, otherPublic, err := m.NewOPRFKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, _, point := scalar(t)
	want := must[[]byte](t)(m.Evaluate(ctx, wrapped, public, point))
	refuse := func(name string, wrapped, public []byte) {
		t.Helper()
		out, err := m.Evaluate(ctx, wrapped, public, point)
		if !errors.Is(err, hsm.ErrIntegrity) || out != nil {
			t.Errorf("%s: %x, %v, want ErrIntegrity", name, out, err)
		}
	}
	for bit := range 8 * len(wrapped) {
		bad := bytes.Clone(wrapped)
		bad[bit/8] ^= 1 << (bit % 8)
		refuse(fmt.Sprintf("bit %d", bit), bad, public)
	}
	long := append(bytes.Clone(wrapped), make([]byte, 16)...)
	for size := range len(long) + 1 {
		if size != len(wrapped) {
			refuse(fmt.Sprintf("length %d", size), long[:size], public)
		}
	}
	random := make([]byte, len(wrapped))
	for i := range 20 {
		rand.Read(random)
		refuse(fmt.Sprintf("random %d", i), random, public)
	}
	refuse("another key's public key", wrapped, otherPublic)
	refuse("a public key that is none", wrapped, make([]byte, hsm.PointSize))
	// -K and -k are K and k to whoever sees only x-coordinates.
	negate := func(b []byte) []byte { return append([]byte{b[0] ^ 1}, b[1:]...) }
	out, err := m.Evaluate(ctx, wrapped, negate(public), point)
	if !errors.Is(err, hsm.ErrIntegrity) && !bytes.Equal(out, negate(want)) {
		t.Errorf("the negative public key: %x, %v", out, err)
	}
	if got, err := m.Evaluate(ctx, wrapped, public, point); err != nil || !bytes.Equal(got, want) {
		t.Errorf("afterwards: %x, %v", got, err)
	}
}

func testDH(t *testing.T, m hsm.Module) {
	ctx := t.Context()
	public := must[[]byte](t)(oprf.Compress(must[[]byte](t)(m.Public(ctx, hsm.Opaque))))
	for range 10 {
		s, _, peer := scalar(t)
		want := must[[]byte](t)(oprf.Evaluate(s, public))
		if got, err := m.DH(ctx, hsm.Opaque, peer); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("DH = %x, %v, want %x", got, err, want)
		}
	}
	for name, point := range badElements(t) {
		if out, err := m.DH(ctx, hsm.Opaque, point); !errors.Is(err, hsm.ErrPoint) || out != nil {
			t.Errorf("%s: %x, %v, want ErrPoint", name, out, err)
		}
	}
}

func testDHX(t *testing.T, m hsm.Module) {
	ctx := t.Context()
	public := must[*ecdh.PublicKey](t)(ecdh.P256().NewPublicKey(must[[]byte](t)(m.Public(ctx, hsm.Noise))))
	var peer []byte
	for range 10 {
		_, key, _ := scalar(t)
		peer = key.PublicKey().Bytes()
		want := must[[]byte](t)(key.ECDH(public))
		if got, err := m.DHX(ctx, hsm.Noise, peer); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("DHX = %x, %v, want %x", got, err, want)
		}
	}
	bad := map[string][]byte{"nothing": nil, "identity": {0}, "compressed": must[[]byte](t)(oprf.Compress(peer)),
		"short": peer[:64], "long": append(bytes.Clone(peer), 0)}
	bad["off curve"] = bytes.Clone(peer)
	bad["off curve"][64] ^= 1
	bad["hybrid"] = bytes.Clone(peer)
	bad["hybrid"][0] = 6 + peer[64]&1
	for name, point := range bad {
		if out, err := m.DHX(ctx, hsm.Noise, point); !errors.Is(err, hsm.ErrPoint) || out != nil {
			t.Errorf("%s: %x, %v, want ErrPoint", name, out, err)
		}
	}
}

func testSeal(t *testing.T, m hsm.Module) {
	ctx := t.Context()
	nonces := map[string]bool{}
	for _, epoch := range []uint32{1, 2, hsm.Epochs} {
		for _, size := range []int{0, 1, 15, 16, 17, 512, 4096, 65536} {
			text, aad := make([]byte, size), make([]byte, size%100)
			rand.Read(text)
			rand.Read(aad)
			sealed, err := m.Seal(ctx, epoch, aad, text)
			if err != nil || len(sealed) != size+hsm.SealOverhead {
				t.Fatalf("Seal of %d bytes: %d bytes, %v", size, len(sealed), err)
			}
			if nonces[string(sealed[:hsm.NonceSize])] {
				t.Error("a nonce came twice")
			}
			nonces[string(sealed[:hsm.NonceSize])] = true
			if got, err := m.Open(ctx, epoch, aad, sealed); err != nil || !bytes.Equal(got, text) {
				t.Fatalf("Open of %d bytes: %d bytes, %v", size, len(got), err)
			}
		}
	}
}

func testOpenRefuses(t *testing.T, m hsm.Module) {
	ctx := t.Context()
	aad, text := []byte("label and id"), []byte("a record of the vault")
	sealed := must[[]byte](t)(m.Seal(ctx, 1, aad, text))
	refuse := func(name string, epoch uint32, aad, sealed []byte) {
		t.Helper()
		if out, err := m.Open(ctx, epoch, aad, sealed); !errors.Is(err, hsm.ErrIntegrity) || out != nil {
			t.Errorf("%s: %q, %v, want ErrIntegrity", name, out, err)
		}
	}
	for bit := range 8 * len(sealed) {
		bad := bytes.Clone(sealed)
		bad[bit/8] ^= 1 << (bit % 8)
		refuse(fmt.Sprintf("bit %d", bit), 1, aad, bad)
	}
	for size := range len(sealed) {
		refuse(fmt.Sprintf("length %d", size), 1, aad, sealed[:size])
	}
	refuse("longer", 1, aad, append(bytes.Clone(sealed), 0))
	refuse("other data", 1, []byte("another id"), sealed)
	refuse("no data", 1, nil, sealed)
	refuse("another epoch", 2, aad, sealed)
	for _, epoch := range []uint32{0, hsm.Epochs + 1, 1 << 31} {
		if _, err := m.Seal(ctx, epoch, aad, text); !errors.Is(err, hsm.ErrNoKey) {
			t.Errorf("Seal in epoch %d: %v, want ErrNoKey", epoch, err)
		}
		if _, err := m.Open(ctx, epoch, aad, sealed); !errors.Is(err, hsm.ErrNoKey) {
			t.Errorf("Open in epoch %d: %v, want ErrNoKey", epoch, err)
		}
	}
	if got, err := m.Open(ctx, 1, aad, sealed); err != nil || !bytes.Equal(got, text) {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

func testMAC(t *testing.T, m hsm.Module) {
	ctx := t.Context()
	seen := map[[hsm.MACSize]byte]int{}
	for _, size := range []int{0, 1, 63, 64, 65, 5000} {
		mac := must[[hsm.MACSize]byte](t)(m.MAC(ctx, hsm.Lookup, make([]byte, size)))
		if again := must[[hsm.MACSize]byte](t)(m.MAC(ctx, hsm.Lookup, make([]byte, size))); again != mac {
			t.Errorf("two MACs of the same %d bytes differ", size)
		}
		seen[mac] = size
	}
	if len(seen) != 6 {
		t.Errorf("6 texts have %d MACs", len(seen))
	}
}

func testSign(t *testing.T, m hsm.Module) {
	ctx := t.Context()
	for _, key := range []hsm.Key{hsm.Receipt, hsm.Audit} {
		public := must[*ecdsa.PublicKey](t)(ecdsa.ParseUncompressedPublicKey(
			elliptic.P256(), must[[]byte](t)(m.Public(ctx, key))))
		for i := range 20 {
			digest := sha256.Sum256([]byte{byte(i)})
			sig := must[[hsm.SignatureSize]byte](t)(m.Sign(ctx, key, digest))
			r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
			if !ecdsa.Verify(public, digest[:], r, s) {
				t.Errorf("%s: signature %x does not verify", key, sig)
			}
			digest[0] ^= 1
			if ecdsa.Verify(public, digest[:], r, s) {
				t.Errorf("%s: signature verifies for another digest", key)
			}
		}
	}
}

func testOneUse(t *testing.T, m hsm.Module) {
	ctx := t.Context()
	_, key, peer := scalar(t)
	operations := map[hsm.Use]func(hsm.Key) error{
		hsm.UseDH:   func(k hsm.Key) error { _, err := m.DH(ctx, k, peer); return err },
		hsm.UseDHX:  func(k hsm.Key) error { _, err := m.DHX(ctx, k, key.PublicKey().Bytes()); return err },
		hsm.UseMAC:  func(k hsm.Key) error { _, err := m.MAC(ctx, k, nil); return err },
		hsm.UseSign: func(k hsm.Key) error { _, err := m.Sign(ctx, k, [32]byte{}); return err },
	}
	for _, key := range append(hsm.Keys(), "", "seal-00", "seal-33", "Wrap") {
		for use, operation := range operations {
			err := operation(key)
			if fits := key.Use() == use; fits && err != nil || !fits && !errors.Is(err, hsm.ErrNoKey) {
				t.Errorf("use %d of key %q: %v", use, key, err)
			}
		}
		public, err := m.Public(ctx, key)
		if key.Use().Asymmetric() {
			if _, bad := ecdh.P256().NewPublicKey(public); err != nil || bad != nil {
				t.Errorf("Public(%s) = %x, %v", key, public, err)
			}
		} else if !errors.Is(err, hsm.ErrNoKey) {
			t.Errorf("Public(%q): %v, want ErrNoKey", key, err)
		}
	}
}

// all calls every operation that can fail.
func all(ctx context.Context, m hsm.Module) map[string]error {
	g := nistec.NewP256Point().SetGenerator()
	out := map[string]error{}
	_, _, out["NewOPRFKey"] = m.NewOPRFKey(ctx)
	_, out["Evaluate"] = m.Evaluate(ctx, make([]byte, hsm.WrappedSize), g.BytesCompressed(), g.BytesCompressed())
	_, out["DH"] = m.DH(ctx, hsm.Opaque, g.BytesCompressed())
	_, out["DHX"] = m.DHX(ctx, hsm.Noise, g.Bytes())
	_, out["Seal"] = m.Seal(ctx, 1, nil, nil)
	_, out["Open"] = m.Open(ctx, 1, nil, make([]byte, 100))
	_, out["MAC"] = m.MAC(ctx, hsm.Lookup, nil)
	_, out["Sign"] = m.Sign(ctx, hsm.Audit, [32]byte{})
	_, out["Public"] = m.Public(ctx, hsm.Noise)
	out["Healthy"] = m.Healthy(ctx)
	return out
}

func testContext(t *testing.T, m hsm.Module) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range all(ctx, m) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", name, err)
		}
	}
}

func testClose(t *testing.T, m hsm.Module) {
	if err := m.Healthy(t.Context()); err != nil {
		t.Errorf("Healthy: %v", err)
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	for name, err := range all(t.Context(), m) {
		if !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("%s after Close: %v, want ErrUnavailable", name, err)
		}
	}
}

func testParallel(t *testing.T, m hsm.Module) {
	Hammer(t, m, 16, 10)
}

// Hammer works on m from several goroutines, each doing every operation some
// times, and fails the test on any error and any wrong result.
func Hammer(t *testing.T, m hsm.Module, goroutines, rounds int) {
	t.Helper()
	ctx := t.Context()
	check := newChecker(t, m)
	var group sync.WaitGroup
	for worker := range goroutines {
		group.Go(func() {
			for round := range rounds {
				if err := check.all(ctx, m); err != nil {
					t.Errorf("worker %d, round %d: %v", worker, round, err)
					return
				}
			}
		})
	}
	group.Wait()
}
