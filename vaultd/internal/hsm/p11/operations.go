package p11

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"chatvault/protocol/oprf"
	"chatvault/vaultd/internal/hsm"
)

// NewOPRFKey implements hsm.Evaluator.
func (m *Module) NewOPRFKey(ctx context.Context) (wrapped, public []byte, err error) {
	err = m.do(ctx, func(c *call) error {
		kek, err := c.key(hsm.Wrap)
		if err != nil {
			return err
		}
		wrapped, public, err = c.newOPRFKey(kek)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("new OPRF key: %w", err)
	}
	return wrapped, public, nil
}

// Evaluate implements hsm.Evaluator.
func (m *Module) Evaluate(ctx context.Context, wrapped, public, point []byte) ([]byte, error) {
	if err := oprf.CheckElement(point); err != nil {
		return nil, fmt.Errorf("%w: blinded element: %w", hsm.ErrPoint, err)
	}
	if err := oprf.CheckElement(public); err != nil {
		return nil, fmt.Errorf("%w: public key: %w", hsm.ErrIntegrity, err)
	}
	if len(wrapped) != hsm.WrappedSize {
		return nil, fmt.Errorf("%w: wrapped key of %d bytes", hsm.ErrIntegrity, len(wrapped))
	}
	var product []byte
	err := m.do(ctx, func(c *call) error {
		kek, err := c.key(hsm.Wrap)
		if err != nil {
			return err
		}
		key, err := c.unwrap(kek, wrapped)
		if err != nil {
			return err
		}
		return c.with(key, func() (err error) {
			product, err = c.multiply(key, public, point)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("evaluate: %w", err)
	}
	return product, nil
}

// DH implements hsm.Agreer.
func (m *Module) DH(ctx context.Context, key hsm.Key, peer []byte) ([]byte, error) {
	if err := hsm.Check(key, hsm.UseDH); err != nil {
		return nil, err
	}
	if err := oprf.CheckElement(peer); err != nil {
		return nil, fmt.Errorf("%w: peer: %w", hsm.ErrPoint, err)
	}
	var product []byte
	err := m.do(ctx, func(c *call) error {
		base, err := c.key(key)
		if err != nil {
			return err
		}
		public, err := oprf.Compress(c.keys.public[key])
		if err != nil {
			return fmt.Errorf("%w: public key: %w", hsm.ErrIntegrity, err)
		}
		product, err = c.multiply(base, public, peer)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("DH %s: %w", key, err)
	}
	return product, nil
}

// DHX implements hsm.Agreer.
func (m *Module) DHX(ctx context.Context, key hsm.Key, peer []byte) ([]byte, error) {
	if err := hsm.Check(key, hsm.UseDHX); err != nil {
		return nil, err
	}
	if _, err := ecdh.P256().NewPublicKey(peer); err != nil {
		return nil, fmt.Errorf("%w: peer: %w", hsm.ErrPoint, err)
	}
	var x [hsm.ShareSize]byte
	err := m.do(ctx, func(c *call) error {
		base, err := c.key(key)
		if err != nil {
			return err
		}
		x, err = c.ecdh(base, peer)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("DH %s: %w", key, err)
	}
	return x[:], nil
}

// Seal implements hsm.Sealer.
func (m *Module) Seal(ctx context.Context, epoch uint32, aad, plaintext []byte) (sealed []byte, err error) {
	key := hsm.SealKey(epoch)
	if err := hsm.Check(key, hsm.UseSeal); err != nil {
		return nil, err
	}
	err = m.do(ctx, func(c *call) error {
		handle, err := c.key(key)
		if err != nil {
			return err
		}
		sealed, err = c.seal(handle, aad, plaintext)
		return err
	})
	return sealed, err
}

// Open implements hsm.Sealer.
func (m *Module) Open(ctx context.Context, epoch uint32, aad, sealed []byte) (plaintext []byte, err error) {
	key := hsm.SealKey(epoch)
	if err := hsm.Check(key, hsm.UseSeal); err != nil {
		return nil, err
	}
	if len(sealed) < hsm.SealOverhead {
		return nil, fmt.Errorf("%w: %d bytes are too short", hsm.ErrIntegrity, len(sealed))
	}
	err = m.do(ctx, func(c *call) error {
		handle, err := c.key(key)
		if err != nil {
			return err
		}
		plaintext, err = c.open(handle, aad, sealed)
		return err
	})
	return plaintext, err
}

// MAC implements hsm.Signer.
func (m *Module) MAC(ctx context.Context, key hsm.Key, data []byte) (mac [hsm.MACSize]byte, err error) {
	if err := hsm.Check(key, hsm.UseMAC); err != nil {
		return mac, err
	}
	err = m.do(ctx, func(c *call) error {
		handle, err := c.key(key)
		if err != nil {
			return err
		}
		out, err := c.sign(pkcs11.CKM_SHA256_HMAC, handle, data, hsm.MACSize)
		copy(mac[:], out)
		return err
	})
	return mac, err
}

// Sign implements hsm.Signer. The signature is verified before it is given
// out, so that a module that computes wrongly does not leak its key.
func (m *Module) Sign(ctx context.Context, key hsm.Key, digest [hsm.DigestSize]byte) (sig [hsm.SignatureSize]byte, err error) {
	if err := hsm.Check(key, hsm.UseSign); err != nil {
		return sig, err
	}
	err = m.do(ctx, func(c *call) error {
		handle, err := c.key(key)
		if err != nil {
			return err
		}
		out, err := c.sign(pkcs11.CKM_ECDSA, handle, digest[:], hsm.SignatureSize)
		if err != nil {
			return err
		}
		if !verify(c.keys.public[key], digest[:], out) {
			return &doubt{errors.New("the signature does not verify")}
		}
		copy(sig[:], out)
		return nil
	})
	return sig, err
}

func verify(public, digest, sig []byte) bool {
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), public)
	if err != nil {
		return false
	}
	half := len(sig) / 2
	return ecdsa.Verify(key, digest, new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:]))
}

// Public implements hsm.Signer. It was read at Open.
func (m *Module) Public(ctx context.Context, key hsm.Key) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("%w: closed", hsm.ErrUnavailable)
	}
	public, ok := m.identity.public[key]
	if !ok {
		return nil, fmt.Errorf("%w: %q has no public key", hsm.ErrNoKey, string(key))
	}
	return append([]byte(nil), public...), nil
}

// Healthy implements hsm.Module: a MAC through the token, compared with the
// one it gave at Open.
func (m *Module) Healthy(ctx context.Context) error {
	return m.do(ctx, func(c *call) error {
		mac, err := c.canary()
		if err == nil && mac != m.identity.canary {
			return errCanary
		}
		return err
	})
}
