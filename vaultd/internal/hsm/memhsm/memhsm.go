// Package memhsm is an hsm.Module whose keys are in memory. It protects
// nothing: whoever reads the process reads the keys, and they end with it. It
// is for tests and for development (vaultd refuses it without
// --insecure-dev).
package memhsm

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync/atomic"

	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
	"chatvault/vaultd/internal/hsm"
)

// Module holds one software key per name of the hierarchy.
type Module struct {
	keys   *keyring // static after construction
	closed atomic.Bool
}

type keyring struct {
	aead map[hsm.Key]cipher.AEAD       // wrap and the sealing keys
	mac  map[hsm.Key]secret.Key        // lookup
	dh   map[hsm.Key]*ecdh.PrivateKey  // opaque, noise
	sign map[hsm.Key]*ecdsa.PrivateKey // receipt, audit
}

// A wrapped OPRF key is nonce ‖ AES-256-GCM(scalar ‖ zeros) ‖ tag, filled to
// the length that AES key wrap gives in a real module.
const (
	scalarSize  = 32
	wrapPadding = hsm.WrappedSize - hsm.SealOverhead - scalarSize
)

var wrapLabel = []byte("chatvault/memhsm/oprf-key/1")

// New makes a module with fresh keys.
func New() (*Module, error) {
	k := &keyring{
		aead: map[hsm.Key]cipher.AEAD{}, mac: map[hsm.Key]secret.Key{},
		dh: map[hsm.Key]*ecdh.PrivateKey{}, sign: map[hsm.Key]*ecdsa.PrivateKey{},
	}
	for _, name := range hsm.Keys() {
		if err := k.make(name); err != nil {
			return nil, fmt.Errorf("make key %s: %w", name, err)
		}
	}
	return &Module{keys: k}, nil
}

func (k *keyring) make(name hsm.Key) (err error) {
	switch name.Use() {
	case hsm.UseWrap, hsm.UseSeal:
		var key secret.Key
		rand.Read(key.B[:])
		k.aead[name], err = newGCM(key)
	case hsm.UseMAC:
		var key secret.Key
		rand.Read(key.B[:])
		k.mac[name] = key
	case hsm.UseDH, hsm.UseDHX:
		k.dh[name], err = ecdh.P256().GenerateKey(rand.Reader)
	case hsm.UseSign:
		k.sign[name], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return err
}

func newGCM(key secret.Key) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key.B[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Clone is another module with the same keys, open even if m is closed: the
// next vault of the fleet, or the same one after a restart.
func (m *Module) Clone() *Module { return &Module{keys: m.keys} }

// ready is the part that every operation begins with.
func (m *Module) ready(ctx context.Context, key hsm.Key, use hsm.Use) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.closed.Load() {
		return fmt.Errorf("%w: closed", hsm.ErrUnavailable)
	}
	return hsm.Check(key, use)
}

// NewOPRFKey implements hsm.Evaluator.
func (m *Module) NewOPRFKey(ctx context.Context) (wrapped, public []byte, err error) {
	if err := m.ready(ctx, hsm.Wrap, hsm.UseWrap); err != nil {
		return nil, nil, err
	}
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	public, err = oprf.Compress(key.PublicKey().Bytes())
	if err != nil {
		return nil, nil, fmt.Errorf("compress public key: %w", err)
	}
	padded := make([]byte, scalarSize+wrapPadding)
	defer clear(padded)
	copy(padded, key.Bytes())
	return seal(m.keys.aead[hsm.Wrap], wrapLabel, padded), public, nil
}

// Evaluate implements hsm.Evaluator.
func (m *Module) Evaluate(ctx context.Context, wrapped, public, point []byte) ([]byte, error) {
	if err := m.ready(ctx, hsm.Wrap, hsm.UseWrap); err != nil {
		return nil, err
	}
	if err := oprf.CheckElement(point); err != nil {
		return nil, fmt.Errorf("%w: blinded element: %w", hsm.ErrPoint, err)
	}
	if len(wrapped) != hsm.WrappedSize {
		return nil, fmt.Errorf("%w: wrapped key of %d bytes", hsm.ErrIntegrity, len(wrapped))
	}
	padded, err := open(m.keys.aead[hsm.Wrap], wrapLabel, wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrap: %w", err)
	}
	defer clear(padded)
	key := oprf.PrivateKey{Key: secret.Key{B: [scalarSize]byte(padded)}}
	own, err := key.Public()
	if err != nil || !bytes.Equal(own, public) {
		return nil, fmt.Errorf("%w: wrapped key and public key differ", hsm.ErrIntegrity)
	}
	return oprf.Evaluate(key, point)
}

// DH implements hsm.Agreer.
func (m *Module) DH(ctx context.Context, key hsm.Key, peer []byte) ([]byte, error) {
	if err := m.ready(ctx, key, hsm.UseDH); err != nil {
		return nil, err
	}
	if err := oprf.CheckElement(peer); err != nil {
		return nil, fmt.Errorf("%w: peer: %w", hsm.ErrPoint, err)
	}
	static := secret.Key{B: [scalarSize]byte(m.keys.dh[key].Bytes())}
	return oprf.Evaluate(oprf.PrivateKey{Key: static}, peer)
}

// DHX implements hsm.Agreer.
func (m *Module) DHX(ctx context.Context, key hsm.Key, peer []byte) ([]byte, error) {
	if err := m.ready(ctx, key, hsm.UseDHX); err != nil {
		return nil, err
	}
	p, err := ecdh.P256().NewPublicKey(peer)
	if err != nil {
		return nil, fmt.Errorf("%w: peer", hsm.ErrPoint)
	}
	return m.keys.dh[key].ECDH(p)
}

// Seal implements hsm.Sealer.
func (m *Module) Seal(ctx context.Context, epoch uint32, aad, plaintext []byte) ([]byte, error) {
	if err := m.ready(ctx, hsm.SealKey(epoch), hsm.UseSeal); err != nil {
		return nil, err
	}
	return seal(m.keys.aead[hsm.SealKey(epoch)], aad, plaintext), nil
}

// Open implements hsm.Sealer.
func (m *Module) Open(ctx context.Context, epoch uint32, aad, sealed []byte) ([]byte, error) {
	if err := m.ready(ctx, hsm.SealKey(epoch), hsm.UseSeal); err != nil {
		return nil, err
	}
	return open(m.keys.aead[hsm.SealKey(epoch)], aad, sealed)
}

// MAC implements hsm.Signer.
func (m *Module) MAC(ctx context.Context, key hsm.Key, data []byte) (mac [hsm.MACSize]byte, err error) {
	if err := m.ready(ctx, key, hsm.UseMAC); err != nil {
		return mac, err
	}
	k := m.keys.mac[key]
	h := hmac.New(sha256.New, k.B[:])
	h.Write(data)
	h.Sum(mac[:0])
	return mac, nil
}

// Sign implements hsm.Signer.
func (m *Module) Sign(ctx context.Context, key hsm.Key, digest [hsm.DigestSize]byte) (sig [hsm.SignatureSize]byte, err error) {
	if err := m.ready(ctx, key, hsm.UseSign); err != nil {
		return sig, err
	}
	r, s, err := ecdsa.Sign(rand.Reader, m.keys.sign[key], digest[:])
	if err != nil {
		return sig, fmt.Errorf("sign: %w", err)
	}
	r.FillBytes(sig[:hsm.SignatureSize/2])
	s.FillBytes(sig[hsm.SignatureSize/2:])
	return sig, nil
}

// Public implements hsm.Signer.
func (m *Module) Public(ctx context.Context, key hsm.Key) ([]byte, error) {
	if err := m.ready(ctx, key, key.Use()); err != nil {
		return nil, err
	}
	if k, ok := m.keys.dh[key]; ok {
		return k.PublicKey().Bytes(), nil
	}
	if k, ok := m.keys.sign[key]; ok {
		return k.PublicKey.Bytes()
	}
	return nil, fmt.Errorf("%w: %q has no public key", hsm.ErrNoKey, string(key))
}

// Healthy implements hsm.Module.
func (m *Module) Healthy(ctx context.Context) error {
	_, err := m.MAC(ctx, hsm.Lookup, nil)
	return err
}

// Close implements hsm.Module.
func (m *Module) Close() error {
	m.closed.Store(true)
	return nil
}

func seal(aead cipher.AEAD, aad, plaintext []byte) []byte {
	out := make([]byte, hsm.NonceSize, len(plaintext)+hsm.SealOverhead)
	rand.Read(out)
	return aead.Seal(out, out, plaintext, aad)
}

func open(aead cipher.AEAD, aad, sealed []byte) ([]byte, error) {
	if len(sealed) < hsm.SealOverhead {
		return nil, fmt.Errorf("%w: %d bytes are too short", hsm.ErrIntegrity, len(sealed))
	}
	plaintext, err := aead.Open(nil, sealed[:hsm.NonceSize], sealed[hsm.NonceSize:], aad)
	if err != nil {
		return nil, fmt.Errorf("%w: not sealed under this key and data", hsm.ErrIntegrity)
	}
	return plaintext, nil
}

var _ hsm.Module = (*Module)(nil)
