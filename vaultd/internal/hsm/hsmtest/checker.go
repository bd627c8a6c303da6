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
	"testing"

	"chatvault/protocol/oprf"
	"chatvault/vaultd/internal/hsm"
)

// A checker knows what a module must answer.
type checker struct {
	wrapped, public       []byte
	element, uncompressed []byte
	evaluated, product, x []byte
	sealed                []byte
	mac                   [hsm.MACSize]byte
	receipt               *ecdsa.PublicKey
	scalar                oprf.PrivateKey
}

var checkAAD, checkText = []byte("associated data"), bytes.Repeat([]byte("record "), 80)

func newChecker(t testing.TB, m hsm.Module) *checker {
	t.Helper()
	ctx := t.Context()
	bytesOf := must[[]byte](t)
	s, key, element := scalar(t)
	c := &checker{scalar: s, element: element, uncompressed: key.PublicKey().Bytes()}
	var err error
	if c.wrapped, c.public, err = m.NewOPRFKey(ctx); err != nil {
		t.Fatal(err)
	}
	c.evaluated = bytesOf(oprf.Evaluate(s, c.public))
	c.product = bytesOf(oprf.Evaluate(s, bytesOf(oprf.Compress(bytesOf(m.Public(ctx, hsm.Opaque))))))
	c.x = bytesOf(key.ECDH(must[*ecdh.PublicKey](t)(ecdh.P256().NewPublicKey(bytesOf(m.Public(ctx, hsm.Noise))))))
	c.sealed = bytesOf(m.Seal(ctx, 7, checkAAD, checkText))
	c.mac = must[[hsm.MACSize]byte](t)(m.MAC(ctx, hsm.Lookup, checkText))
	c.receipt = must[*ecdsa.PublicKey](t)(ecdsa.ParseUncompressedPublicKey(
		elliptic.P256(), bytesOf(m.Public(ctx, hsm.Receipt))))
	return c
}

// all does every operation once and returns the first thing that is wrong.
func (c *checker) all(ctx context.Context, m hsm.Module) error {
	for _, operation := range c.operations(m) {
		if err := operation.Run(ctx); err != nil {
			return fmt.Errorf("%s: %w", operation.Name, err)
		}
	}
	return nil
}

func same(got []byte, err error, want []byte) error {
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("wrong result")
	}
	return err
}

func (c *checker) evaluate(ctx context.Context, m hsm.Module) error {
	got, err := m.Evaluate(ctx, c.wrapped, c.public, c.element)
	return same(got, err, c.evaluated)
}

func (c *checker) open(ctx context.Context, m hsm.Module) error {
	got, err := m.Open(ctx, 7, checkAAD, c.sealed)
	return same(got, err, checkText)
}

func (c *checker) refused(ctx context.Context, m hsm.Module) error {
	if _, err := m.Open(ctx, 7, []byte("other"), c.sealed); !errors.Is(err, hsm.ErrIntegrity) {
		return fmt.Errorf("%w instead of ErrIntegrity", err)
	}
	return nil
}

func (c *checker) dh(ctx context.Context, m hsm.Module) error {
	got, err := m.DH(ctx, hsm.Opaque, c.element)
	return same(got, err, c.product)
}

func (c *checker) dhx(ctx context.Context, m hsm.Module) error {
	got, err := m.DHX(ctx, hsm.Noise, c.uncompressed)
	return same(got, err, c.x)
}

func (c *checker) checkMAC(ctx context.Context, m hsm.Module) error {
	got, err := m.MAC(ctx, hsm.Lookup, checkText)
	return same(got[:], err, c.mac[:])
}

func (c *checker) sign(ctx context.Context, m hsm.Module) error {
	var seed [16]byte
	rand.Read(seed[:])
	digest := sha256.Sum256(seed[:])
	sig, err := m.Sign(ctx, hsm.Receipt, digest)
	if err != nil {
		return err
	}
	if !ecdsa.Verify(c.receipt, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return errors.New("wrong signature")
	}
	return nil
}

func (c *checker) seal(ctx context.Context, m hsm.Module) error {
	sealed, err := m.Seal(ctx, 9, checkAAD, checkText)
	if err != nil {
		return err
	}
	got, err := m.Open(ctx, 9, checkAAD, sealed)
	return same(got, err, checkText)
}

func (c *checker) newKey(ctx context.Context, m hsm.Module) error {
	wrapped, public, err := m.NewOPRFKey(ctx)
	if err != nil {
		return err
	}
	want, err := oprf.Evaluate(c.scalar, public)
	if err != nil {
		return err
	}
	got, err := m.Evaluate(ctx, wrapped, public, c.element)
	return same(got, err, want)
}

func healthy(ctx context.Context, m hsm.Module) error { return m.Healthy(ctx) }

// An Operation does one thing with a module and checks the result.
type Operation struct {
	Name string
	Run  func(context.Context) error
}

// Operations are all of a module, an evaluation first.
func Operations(t testing.TB, m hsm.Module) []Operation {
	t.Helper()
	return newChecker(t, m).operations(m)
}

func (c *checker) operations(m hsm.Module) []Operation {
	bind := func(name string, run func(context.Context, hsm.Module) error) Operation {
		return Operation{name, func(ctx context.Context) error { return run(ctx, m) }}
	}
	return []Operation{
		bind("Evaluate", c.evaluate), bind("Open", c.open), bind("DH", c.dh), bind("DHX", c.dhx),
		bind("MAC", c.checkMAC), bind("Sign", c.sign), bind("Seal", c.seal), bind("NewOPRFKey", c.newKey),
		bind("Healthy", healthy), bind("wrong AAD", c.refused),
	}
}
