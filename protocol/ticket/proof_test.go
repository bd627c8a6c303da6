package ticket

import (
	"bytes"
	"crypto/elliptic"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"
)

func TestRelayAuth(t *testing.T) {
	d, pub := newDevice(t)
	_, otherPub := newDevice(t)
	nonce, hash := [32]byte{1}, [32]byte{2}
	proof, err := SignRelayAuth(d, nonce, "relay.example", hash)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		pub         []byte
		nonce, hash [32]byte
		host        string
		want        error
	}{
		{"good", pub, nonce, hash, "relay.example", nil},
		{"replayed under another nonce", pub, [32]byte{9}, hash, "relay.example", ErrProof},
		{"passed on to another relay", pub, nonce, hash, "relay.evil", ErrProof},
		{"with another ticket", pub, nonce, [32]byte{9}, "relay.example", ErrProof},
		{"under another device", otherPub, nonce, hash, "relay.example", ErrProof},
		{"no host", pub, nonce, hash, "", ErrProof},
		{"no key", nil, nonce, hash, "relay.example", ErrDeviceKey},
	} {
		if err := VerifyRelayAuth(c.pub, proof[:], c.nonce, c.host, c.hash); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := SignRelayAuth(d, nonce, strings.Repeat("h", 262), hash); err == nil {
		t.Error("signed a host that is none")
	}
}

func TestVaultAuth(t *testing.T) {
	d, pub := newDevice(t)
	h, hash := [32]byte{1}, [32]byte{2}
	proof, err := SignVaultAuth(d, fleet, h, hash)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		fleet   string
		h, hash [32]byte
		want    error
	}{
		{"good", fleet, h, hash, nil},
		{"in another session", fleet, [32]byte{9}, hash, ErrProof},
		{"for another fleet", "fleet-b", h, hash, ErrProof},
		{"with another ticket", fleet, h, [32]byte{9}, ErrProof},
		{"no fleet", "", h, hash, ErrProof},
	} {
		if err := VerifyVaultAuth(pub, proof[:], c.fleet, c.h, c.hash); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := SignVaultAuth(d, "", h, hash); err == nil {
		t.Error("signed for no fleet")
	}
}

// A corrupt relay sends h as its nonce, and names itself as the fleet.
func TestOneProofNeverPassesForTheOther(t *testing.T) {
	d, pub := newDevice(t)
	x, hash := [32]byte{7}, [32]byte{2}
	relay, err := SignRelayAuth(d, x, fleet, hash)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyVaultAuth(pub, relay[:], fleet, x, hash); !errors.Is(err, ErrProof) {
		t.Error("relay-auth passed for vault-auth")
	}
	vault, err := SignVaultAuth(d, fleet, x, hash)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyRelayAuth(pub, vault[:], x, fleet, hash); !errors.Is(err, ErrProof) {
		t.Error("vault-auth passed for relay-auth")
	}
}

// The bytes that are signed, for other implementations.
func TestProofDigests(t *testing.T) {
	nonce, hash := [32]byte(bytes.Repeat([]byte{0x11}, 32)), [32]byte(bytes.Repeat([]byte{0x22}, 32))
	field := func(b byte) string { return "0020" + strings.Repeat(hex.EncodeToString([]byte{b}), 32) }
	relay := "0016" + hex.EncodeToString([]byte(labelRelayAuth)) + field(0x11) + "0003" + "612e62" + field(0x22)
	vault := "0016" + hex.EncodeToString([]byte(labelVaultAuth)) + "0003" + "612e62" + field(0x11) + field(0x22)
	for _, c := range []struct {
		want string
		got  func() ([32]byte, bool)
	}{
		{relay, func() ([32]byte, bool) { return relayAuth(nonce, "a.b", hash) }},
		{vault, func() ([32]byte, bool) { return vaultAuth("a.b", nonce, hash) }},
	} {
		message, err := hex.DecodeString(c.want)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := c.got(); !ok || got != Hash(string(message)) {
			t.Errorf("not the digest of %s", c.want)
		}
	}
}

func TestProofIsStrict(t *testing.T) {
	d, pub := newDevice(t)
	nonce, hash := [32]byte{1}, [32]byte{2}
	good, err := SignRelayAuth(d, nonce, "a.b", hash)
	if err != nil {
		t.Fatal(err)
	}
	n := elliptic.P256().Params().N
	put := func(r, s *big.Int) []byte {
		b := make([]byte, 64)
		r.FillBytes(b[:32])
		s.FillBytes(b[32:])
		return b
	}
	r, s := new(big.Int).SetBytes(good[:32]), new(big.Int).SetBytes(good[32:])
	for name, proof := range map[string][]byte{
		"empty": nil, "short": good[:63], "long": append(good[:], 0),
		"r 0": put(new(big.Int), s), "s 0": put(r, new(big.Int)), "both 0": make([]byte, 64),
		"r n": put(n, s), "s n": put(r, n), "all ones": bytes.Repeat([]byte{0xff}, 64),
	} {
		if err := VerifyRelayAuth(pub, proof, nonce, "a.b", hash); !errors.Is(err, ErrProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range good {
		bad := good
		bad[i] ^= 1
		if err := VerifyRelayAuth(pub, bad[:], nonce, "a.b", hash); !errors.Is(err, ErrProof) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
}

func TestHost(t *testing.T) {
	for in, want := range map[string]string{
		"wss://Relay.Example/v1/ws": "relay.example", "wss://r.example:443/": "r.example", "ws://r.example:443": "r.example:443",
		"ws://127.0.0.1:80/v1/ws": "127.0.0.1", "https://r:8443": "r:8443", "wss://[::1]/": "[::1]", "wss://[::1]:9": "[::1]:9",
		"relay.example": "", "ftp://x": "", "wss://": "", "": "", "wss://a b": "",
	} {
		got, err := Host(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}
