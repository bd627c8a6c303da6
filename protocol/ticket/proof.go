package ticket

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
)

// ProofSize is the size of a proof of possession in bytes: an ES256 signature
// r ‖ s, 32 bytes each, big-endian (RFC 7518 §3.4).
//
// ECDSA signatures are malleable: (r, n−s) verifies as well. Nothing may use
// a proof as an identifier.
const ProofSize = 64

// Each proof signs SHA-256 over its label and fields, every one preceded by
// its length as a big-endian u16:
//
//	relay-auth: lp("chatvault/1 relay-auth") ‖ lp(nonce) ‖ lp(host) ‖ lp(SHA-256(ticket))
//	vault-auth: lp("chatvault/1 vault-auth") ‖ lp(fleet) ‖ lp(h)    ‖ lp(SHA-256(ticket))
//
// The labels keep one from passing for the other: a relay that chose its nonce
// to look like a handshake hash gains nothing (A2).
const (
	labelRelayAuth = "chatvault/1 relay-auth"
	labelVaultAuth = "chatvault/1 vault-auth"

	maxHost = 255 + len(":65535")
)

// SignRelayAuth proves possession of the device key to a relay: nonce is that
// of its HELLO, host the one that the client dialled (see [Host]), so that a
// relay cannot pass the proof on to another.
func SignRelayAuth(key DeviceKey, nonce [32]byte, host string, ticketHash [32]byte) ([ProofSize]byte, error) {
	digest, ok := relayAuth(nonce, host, ticketHash)
	if !ok {
		return [ProofSize]byte{}, fmt.Errorf("ticket: the host must have 1 to %d bytes", maxHost)
	}
	return key.sign(digest)
}

// VerifyRelayAuth is the relay's side. It returns ErrDeviceKey for a key that
// is none, ErrProof for everything else that is wrong.
func VerifyRelayAuth(pub, proof []byte, nonce [32]byte, host string, ticketHash [32]byte) error {
	digest, ok := relayAuth(nonce, host, ticketHash)
	if !ok {
		return ErrProof
	}
	return verifyProof(pub, proof, digest)
}

// SignVaultAuth proves possession of the device key to a vault, inside the
// vault session whose handshake hash is h.
func SignVaultAuth(key DeviceKey, fleet string, h [32]byte, ticketHash [32]byte) ([ProofSize]byte, error) {
	digest, ok := vaultAuth(fleet, h, ticketHash)
	if !ok {
		return [ProofSize]byte{}, fmt.Errorf("ticket: the fleet id must have 1 to %d bytes", maxFleet)
	}
	return key.sign(digest)
}

// VerifyVaultAuth is the vault's side, with the errors of [VerifyRelayAuth].
func VerifyVaultAuth(pub, proof []byte, fleet string, h [32]byte, ticketHash [32]byte) error {
	digest, ok := vaultAuth(fleet, h, ticketHash)
	if !ok {
		return ErrProof
	}
	return verifyProof(pub, proof, digest)
}

func relayAuth(nonce [32]byte, host string, ticketHash [32]byte) ([32]byte, bool) {
	if host == "" || len(host) > maxHost {
		return [32]byte{}, false
	}
	return proofDigest(labelRelayAuth, nonce[:], []byte(host), ticketHash[:]), true
}

func vaultAuth(fleet string, h, ticketHash [32]byte) ([32]byte, bool) {
	if fleet == "" || len(fleet) > maxFleet {
		return [32]byte{}, false
	}
	return proofDigest(labelVaultAuth, []byte(fleet), h[:], ticketHash[:]), true
}

func proofDigest(label string, fields ...[]byte) [32]byte {
	b := appendLP(make([]byte, 0, 256), []byte(label))
	for _, f := range fields {
		b = appendLP(b, f)
	}
	return sha256.Sum256(b)
}

func (d DeviceKey) sign(digest [32]byte) (proof [ProofSize]byte, err error) {
	r, s, err := ecdsa.Sign(rand.Reader, d.key, digest[:])
	if err != nil {
		return proof, fmt.Errorf("ticket: signing with the device key: %w", err)
	}
	r.FillBytes(proof[:32])
	s.FillBytes(proof[32:])
	return proof, nil
}

func verifyProof(pub, proof []byte, digest [32]byte) error {
	key, err := parsePublic(pub)
	if err != nil {
		return err
	}
	if len(proof) != ProofSize {
		return ErrProof
	}
	r, s := new(big.Int).SetBytes(proof[:32]), new(big.Int).SetBytes(proof[32:])
	n := elliptic.P256().Params().N
	if r.Sign() == 0 || s.Sign() == 0 || r.Cmp(n) >= 0 || s.Cmp(n) >= 0 || !ecdsa.Verify(key, digest[:], r, s) {
		return ErrProof
	}
	return nil
}

// Host is the canonical host of a relay's URL, as both sides sign it: lower
// case, with the port unless it is the default one of the scheme (443 for wss
// and https, 80 for ws and http), as URL.host reads in a browser. It does not
// convert internationalised names: give them in their ASCII form.
func Host(relay string) (string, error) {
	u, err := url.Parse(relay)
	if err != nil || u.Hostname() == "" {
		return "", fmt.Errorf("ticket: a relay's URL must be like wss://host[:port]/path")
	}
	standard := map[string]string{"wss": "443", "https": "443", "ws": "80", "http": "80"}
	defaultPort, ok := standard[strings.ToLower(u.Scheme)]
	if !ok {
		return "", fmt.Errorf("ticket: a relay's URL must begin with wss:// or ws://")
	}
	host := strings.ToLower(u.Hostname())
	if port := u.Port(); port != "" && port != defaultPort {
		return net.JoinHostPort(host, port), nil
	}
	if strings.Contains(host, ":") {
		return "[" + host + "]", nil
	}
	return host, nil
}
