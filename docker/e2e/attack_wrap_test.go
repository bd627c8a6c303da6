package e2e

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"testing"

	"chatvault/docker/stack"
	"chatvault/protocol/frame"
	"chatvault/protocol/keywrap"
	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/secret"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

// TestOneWrapForTwoPasswords is A14: a vault that is corrupted computes the export
// keys of passwords that it guesses, and hands out a wrap of its own making. If one
// wrap opens under many of them, the phone's behaviour tells in which half of the
// guesses the password is. With a wrap that is AES-GCM this wins; with ours, which
// commits to its key, a wrap opens under one export key at most.
func TestOneWrapForTwoPasswords(t *testing.T) {
	t.Parallel()
	h, v := naiveHouse(t)
	a := &arena{t: t, h: h, sub: "anna"}
	pins := [2]string{"11", "22"}
	var records [2]*naiveRecord // anna's, in the two worlds in which that is her PIN
	var keys [2]secret.Key
	for i, pin := range pins {
		v.mu.Lock()
		delete(v.accounts, a.sub)
		v.mu.Unlock()
		s := a.session()
		finish, status := a.begin(s, vaultmsg.PurposeRegister, 0, pin)
		if status != frame.OK {
			t.Fatal(status)
		}
		must(t, s.ask(finish))
		v.mu.Lock()
		records[i] = v.accounts[a.sub]
		v.mu.Unlock()
		_, keys[i] = a.released(v, records[i], pin)
	}
	// worlds says in how many of the worlds the wrap opens.
	worlds := func(wrap []byte, opens func(exportKey secret.Key, wrap []byte) bool) (n int) {
		for i, pin := range pins {
			copy(records[i].finish.Wrap[1:], wrap)
			got, key := a.released(v, records[i], pin)
			if opens(key, got[1:1+len(wrap)]) {
				n++
			}
		}
		return n
	}
	if n := worlds(collideGCM(t, keys), openGCM); n != 2 {
		t.Errorf("the attack on AES-GCM opens under %d of two passwords: it proves nothing", n)
	}
	account := ticket.Account{Issuer: stack.App, Subject: a.sub}
	binding := keywrap.Binding{Fleet: stack.Fleet, Account: account.Bytes(), Generation: 1}
	openOurs := func(key secret.Key, wrap []byte) bool {
		_, err := keywrap.Unwrap(key, [keywrap.Size]byte(wrap), binding)
		return err == nil
	}
	best := keywrap.Wrap(keys[0], secret.Key{B: [32]byte{1}}, binding)
	if n := worlds(best[:], openOurs); n != 1 {
		t.Errorf("a wrap made for the first password opens under %d", n)
	}
	forged := append(collideGCM(t, keys), make([]byte, keywrap.Size-48)...)
	if n := worlds(forged, openOurs); n != 0 {
		t.Errorf("the forged wrap opens under %d", n)
	}
}

// released recovers through the wire, in the world of a record, and returns the
// wrap that the vault releases and the export key.
func (a *arena) released(v *naiveVault, r *naiveRecord, pin string) (wrap [vaultmsg.WrapSize]byte, exportKey secret.Key) {
	a.t.Helper()
	v.mu.Lock()
	v.accounts[a.sub] = r
	v.mu.Unlock()
	d := a.device()
	s := a.as(d)
	x := a.try(pin)
	body := must(a.t, x.ke1(s)).Body.(vaultmsg.RecoverStarted)
	ke2, err := opaque.ParseKE2(body.KE2[:])
	if err != nil {
		a.t.Fatal(err)
	}
	ke3, session, export, err := x.login.GenerateKE3(a.params(s, body.Generation, vaultmsg.Context(body.KSF, [32]byte(s.noise.HandshakeHash()))), ke2)
	if err != nil {
		a.t.Fatal(err)
	}
	release := must(a.t, s.ask(vaultmsg.RecoverFinish{KE3: ke3.ClientMAC})).Body.(vaultmsg.Recovered).Release
	element, err := oprf.BlindInput(a.input(pin), x.blind)
	if err != nil {
		a.t.Fatal(err)
	}
	id := vaultmsg.AttemptID(body.Generation, vaultmsg.Thumbprint(d.key.Thumbprint()), [33]byte(element))
	if wrap, err = vaultmsg.OpenRelease(session.Key, id, release); err != nil {
		a.t.Fatal(err)
	}
	return wrap, export.Key
}

func openGCM(key secret.Key, wrap []byte) bool {
	block, err := aes.NewCipher(key.B[:])
	if err != nil {
		return false
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return false
	}
	_, err = gcm.Open(nil, make([]byte, gcm.NonceSize()), wrap, nil)
	return err == nil
}

// collideGCM makes 32 bytes of ciphertext and a tag that open under both keys, with
// a nonce of zero: one block is free, and the tag is linear in it.
func collideGCM(t *testing.T, keys [2]secret.Key) []byte {
	t.Helper()
	var h, e [2]gf
	for i, k := range keys {
		block, err := aes.NewCipher(k.B[:])
		if err != nil {
			t.Fatal(err)
		}
		var zero, counter, out [16]byte
		counter[15] = 1
		block.Encrypt(out[:], zero[:])
		h[i] = toGF(out)
		block.Encrypt(out[:], counter[:])
		e[i] = toGF(out)
	}
	first := gf{0x1234, 0x5678}
	length := gf{0, 32 * 8}
	square := func(x gf) gf { return x.times(x) }
	// tag = first·H³ + second·H² + length·H + E
	without := func(i int) gf {
		return first.times(h[i]).times(square(h[i])).plus(length.times(h[i])).plus(e[i])
	}
	second := without(0).plus(without(1)).times(square(h[0]).plus(square(h[1])).inverse())
	tag := without(0).plus(second.times(square(h[0])))
	return append(append(first.bytes(), second.bytes()...), tag.bytes()...)
}

// gf is an element of GCM's field, the first bit of the block on top.
type gf [2]uint64

func toGF(b [16]byte) gf { return gf{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])} }

func (x gf) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, x[0]), x[1])
}

func (x gf) plus(y gf) gf { return gf{x[0] ^ y[0], x[1] ^ y[1]} }

func (x gf) times(y gf) (z gf) {
	for i := range 128 {
		if x[i/64]>>(63-i%64)&1 == 1 {
			z = z.plus(y)
		}
		carry := y[1] & 1
		y = gf{y[0] >> 1, y[1]>>1 | y[0]<<63}
		y[0] ^= carry * (0xe1 << 56)
	}
	return z
}

// inverse is x^(2^128−2).
func (x gf) inverse() gf {
	z := gf{1 << 63, 0}
	for range 127 {
		x = x.times(x)
		z = z.times(x)
	}
	return z
}
