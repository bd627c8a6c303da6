package p11

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"chatvault/protocol/oprf"
	"chatvault/vaultd/internal/hsm"
)

// A call is one HSM session lent to one goroutine.
type call struct {
	api     cryptoki
	lib     *library
	session pkcs11.SessionHandle
	keys    keyring
}

// key is the handle of a key, or ErrNoKey.
func (c *call) key(key hsm.Key) (pkcs11.ObjectHandle, error) {
	handle, ok := c.keys.handles[key]
	if !ok {
		return 0, fmt.Errorf("%w: the token does not hold %s", hsm.ErrNoKey, key)
	}
	return handle, nil
}

// with runs f on a session object and destroys it, whatever f does. An object
// that cannot be destroyed is an error: it may be a private key.
func (c *call) with(object pkcs11.ObjectHandle, f func() error) error {
	err := f()
	if gone := c.api.DestroyObject(c.session, object); gone != nil && err == nil {
		err = fmt.Errorf("destroy object: %w", gone)
	}
	return err
}

// ecdh returns the x-coordinate of base times peer, which is uncompressed and
// was decoded in Go: modules also take forms that the protocols refuse.
func (c *call) ecdh(base pkcs11.ObjectHandle, peer []byte) (x [hsm.ShareSize]byte, err error) {
	c.lib.created.Add(1)
	share, err := c.api.DeriveKey(c.session,
		mechanism(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, peer)),
		base, shareTemplate())
	if err != nil {
		return x, fmt.Errorf("ECDH: %w", err)
	}
	err = c.with(share, func() error {
		got, err := c.api.GetAttributeValue(c.session, share, attributes{attr(pkcs11.CKA_VALUE, nil)})
		if err != nil {
			return fmt.Errorf("read share: %w", err)
		}
		defer clear(got[0].Value)
		if len(got[0].Value) != hsm.ShareSize {
			return fmt.Errorf("%w: a share of %d bytes", hsm.ErrUnfit, len(got[0].Value))
		}
		copy(x[:], got[0].Value)
		return nil
	})
	return x, err
}

// multiply returns base times peer, both elements, where public is base's.
func (c *call) multiply(base pkcs11.ObjectHandle, public, peer []byte) ([]byte, error) {
	var fault error
	product, err := oprf.EvaluateByX(func(peer []byte) (x [32]byte, err error) {
		x, err = c.ecdh(base, peer)
		fault = err
		return x, err
	}, public, peer)
	switch {
	case fault != nil:
		return nil, fault
	case err != nil: // oprf.ErrIntegrity: the points were checked before
		return nil, &doubt{err}
	}
	return product, nil
}

// unwrap makes a session object of a wrapped OPRF key. It refuses a module
// that would leave the key readable: opencryptoki ignores both the template
// and the wrap key's, but lets a key be tightened afterwards.
func (c *call) unwrap(kek pkcs11.ObjectHandle, wrapped []byte) (pkcs11.ObjectHandle, error) {
	c.lib.created.Add(1)
	key, err := c.api.UnwrapKey(c.session, mechanism(pkcs11.CKM_AES_KEY_WRAP, nil), kek, wrapped, unwrapTemplate(false))
	if err != nil {
		return 0, fmt.Errorf("unwrap: %w", doubtful(err))
	}
	if err := c.tighten(key); err != nil {
		c.api.DestroyObject(c.session, key)
		return 0, err
	}
	return key, nil
}

func (c *call) tighten(key pkcs11.ObjectHandle) error {
	if safe, err := readGuards(c.api, c.session, key); err != nil || safe {
		return err
	}
	err := c.api.SetAttributeValue(c.session, key, attributes{
		attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, false),
	})
	if err != nil {
		return fmt.Errorf("%w: an unwrapped key is readable and cannot be tightened: %w", hsm.ErrUnfit, err)
	}
	if safe, err := readGuards(c.api, c.session, key); err != nil {
		return err
	} else if !safe {
		return fmt.Errorf("%w: an unwrapped key stays readable", hsm.ErrUnfit)
	}
	return nil
}

// newOPRFKey makes a key pair and leaves only its wrapped form.
func (c *call) newOPRFKey(kek pkcs11.ObjectHandle) (wrapped, public []byte, err error) {
	c.lib.created.Add(2)
	pub, priv, err := c.api.GenerateKeyPair(c.session, mechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil),
		publicTemplate(hsm.UseDH, false), oprfPrivateTemplate())
	if err != nil {
		return nil, nil, fmt.Errorf("generate key pair: %w", err)
	}
	err = c.with(priv, func() error {
		return c.with(pub, func() error {
			uncompressed, err := readPoint(c.api, c.session, pub)
			if err != nil {
				return err
			}
			if public, err = oprf.Compress(uncompressed); err != nil {
				return fmt.Errorf("%w: %w", hsm.ErrUnfit, err)
			}
			wrapped, err = c.api.WrapKey(c.session, mechanism(pkcs11.CKM_AES_KEY_WRAP, nil), kek, priv)
			if err != nil {
				return fmt.Errorf("wrap: %w", err)
			}
			if len(wrapped) != hsm.WrappedSize {
				return fmt.Errorf("%w: wrapped keys are %d bytes, not %d", hsm.ErrUnfit, len(wrapped), hsm.WrappedSize)
			}
			return nil
		})
	})
	return wrapped, public, err
}

// readPoint returns the uncompressed point of a public key object.
func readPoint(api cryptoki, session pkcs11.SessionHandle, public pkcs11.ObjectHandle) ([]byte, error) {
	got, err := api.GetAttributeValue(session, public, attributes{attr(pkcs11.CKA_EC_POINT, nil)})
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	key, err := ecdh.P256().NewPublicKey(point(got[0].Value))
	if err != nil {
		return nil, fmt.Errorf("%w: public key: %w", hsm.ErrUnfit, err)
	}
	return key.Bytes(), nil
}

func (c *call) seal(key pkcs11.ObjectHandle, aad, plaintext []byte) ([]byte, error) {
	nonce := make([]byte, hsm.NonceSize)
	rand.Read(nonce)
	params := pkcs11.NewGCMParams(nonce, aad, 8*hsm.TagSize)
	defer params.Free()
	if err := c.api.EncryptInit(c.session, mechanism(pkcs11.CKM_AES_GCM, params), key); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	ciphertext, err := c.api.Encrypt(c.session, plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	// Some modules put a nonce of their own in place of ours.
	if used := params.IV(); len(used) > 0 {
		nonce = used
	}
	if len(nonce) != hsm.NonceSize || len(ciphertext) != len(plaintext)+hsm.TagSize {
		return nil, fmt.Errorf("%w: sealed %d bytes to %d under a nonce of %d",
			hsm.ErrUnfit, len(plaintext), len(ciphertext), len(nonce))
	}
	return append(nonce, ciphertext...), nil
}

func (c *call) open(key pkcs11.ObjectHandle, aad, sealed []byte) ([]byte, error) {
	params := pkcs11.NewGCMParams(sealed[:hsm.NonceSize], aad, 8*hsm.TagSize)
	defer params.Free()
	if err := c.api.DecryptInit(c.session, mechanism(pkcs11.CKM_AES_GCM, params), key); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	plaintext, err := c.api.Decrypt(c.session, sealed[hsm.NonceSize:])
	if err != nil {
		return nil, fmt.Errorf("open: %w", doubtful(err))
	}
	if len(plaintext) != len(sealed)-hsm.SealOverhead {
		return nil, fmt.Errorf("%w: opened %d bytes to %d", hsm.ErrUnfit, len(sealed), len(plaintext))
	}
	return plaintext, nil
}

func (c *call) sign(kind uint, key pkcs11.ObjectHandle, data []byte, size int) ([]byte, error) {
	if err := c.api.SignInit(c.session, mechanism(kind, nil), key); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	out, err := c.api.Sign(c.session, data)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if len(out) != size {
		return nil, fmt.Errorf("%w: signature of %d bytes, not %d", hsm.ErrUnfit, len(out), size)
	}
	return out, nil
}

// canary is a MAC that the module must always give the same.
func (c *call) canary() (mac [hsm.MACSize]byte, err error) {
	key, err := c.key(hsm.Lookup)
	if err != nil {
		return mac, err
	}
	out, err := c.sign(pkcs11.CKM_SHA256_HMAC, key, canaryLabel, hsm.MACSize)
	copy(mac[:], out)
	return mac, err
}

var canaryLabel = []byte("chatvault/hsm-canary/1")

var errCanary = errors.New("the token gives another MAC than before")
