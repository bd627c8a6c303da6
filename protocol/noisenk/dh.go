package noisenk

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"io"

	"github.com/flynn/noise"
)

// StaticDH multiplies the peer's point (65 bytes, uncompressed, already checked
// to be on the curve) by the static private key and returns the x-coordinate,
// 32 bytes. The key may be in an HSM.
type StaticDH func(peer []byte) (x []byte, err error)

// What travels in noise.DHKey.Private instead of a private key.
const (
	staticHandle    = "static"
	ephemeralHandle = "ephemeral"
)

// p256 is the noise.DHFunc of one handshake of one side. It holds the keys,
// flynn's state holds only their handles.
type p256 struct {
	static    StaticDH         // the responder's; nil on the initiator
	ephemeral *ecdh.PrivateKey // generated when nil; known-answer tests set it
	done      int              // DH operations so far
}

// steps are the DH tokens of NK in order, the same on both sides.
var steps = [...]string{"computing es", "computing ee"}

// GenerateKeypair makes the ephemeral key. The reader that flynn hands over is
// not used: crypto/ecdh takes its randomness from the system.
func (p *p256) GenerateKeypair(io.Reader) (noise.DHKey, error) {
	if p.ephemeral == nil {
		e, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			return noise.DHKey{}, failed("generating e", err)
		}
		p.ephemeral = e
	}
	return noise.DHKey{Private: []byte(ephemeralHandle), Public: p.ephemeral.PublicKey().Bytes()}, nil
}

// DH dispatches to the private key that the handle names. The peer's point is
// checked here, before an HSM sees it: modules accept the hybrid form (06, 07),
// which would make two encodings of one key.
func (p *p256) DH(handle, public []byte) ([]byte, error) {
	if p.done >= len(steps) {
		panic("noisenk: a third DH in NK")
	}
	step := steps[p.done]
	p.done++
	peer, err := ecdh.P256().NewPublicKey(public)
	if err != nil {
		return nil, failed(step, err)
	}
	switch string(handle) {
	case ephemeralHandle:
		x, err := p.ephemeral.ECDH(peer)
		if err != nil {
			return nil, failed(step, err)
		}
		return x, nil
	case staticHandle:
		x, err := p.static(peer.Bytes())
		if err != nil {
			return nil, failed(step, fmt.Errorf("%w: %w", ErrStaticDH, err))
		}
		if len(x) != DHSize {
			return nil, failed(step, fmt.Errorf("%w: %d bytes, want %d", ErrStaticDH, len(x), DHSize))
		}
		return x, nil
	}
	panic("noisenk: unknown key handle")
}

// DHLen is the size of a public key: flynn reads so many bytes for e.
func (*p256) DHLen() int { return PublicKeySize }

func (*p256) DHName() string { return "P256" }
