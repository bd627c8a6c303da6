package e2e

import (
	"bytes"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"testing"

	"github.com/flynn/noise"
	"github.com/gorilla/websocket"

	"chatvault/docker/stack"
	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/vaultmsg"
)

// TestSequenceAttacks plays with the numbers of DATA: nothing but the next
// request, as its sealer made it, moves a session.
func TestSequenceAttacks(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.registered("anna", "1234")
	d := h.device(t, "anna")
	w := h.as(t, d)
	s := h.talk(t, w)
	hello := s.reply
	must(t, s.ask(s.authorise(d, d.ticket(t))))
	authorised, first := s.last, s.reply

	// Ahead, behind, altered, of another session, of nothing: all ignored. The
	// next frame that comes is the reply to the right one.
	login, ke1 := h.ke1(t, "anna", "wrong")
	s.seal(vaultmsg.EncodeRequest(vaultmsg.RecoverStart{KE1: ke1}))
	right := s.last
	flipped := clone(right)
	flipped.Payload[0] ^= 1
	for _, bad := range []frame.Data{
		{Session: s.id, Sequence: 1, Payload: flipped.Payload}, // other bytes under an answered number
		{Session: s.id, Sequence: 0, Payload: right.Payload},
		{Session: s.id, Sequence: 3, Payload: right.Payload}, // ahead
		{Session: s.id, Sequence: 1<<32 - 1, Payload: right.Payload},
		flipped, // does not decrypt
		{Session: s.id, Sequence: 2, Payload: authorised.Payload},
		{Session: s.id, Sequence: 2, Payload: []byte{0}},
		{Session: s.id, Sequence: 2, Payload: make([]byte, frame.MaxPayload)},
		{Session: s.id, Sequence: 2, Payload: first.Payload}, // the vault's own, reflected
	} {
		w.send(bad)
	}
	w.send(right)
	if r := must(t, s.answer()); r.Left != 9 || !r.Charged {
		t.Fatalf("KE1: %+v", r)
	}
	ke2 := s.reply
	// The same bytes again get the same bytes again, and cost nothing.
	for range 5 {
		w.send(right)
		if again := clone(expect[frame.Data](t, w)); !bytes.Equal(again.Payload, ke2.Payload) {
			t.Fatal("a repeated KE1 got another reply")
		}
	}
	// What is older is not answered any more, and other bytes under the number
	// of KE1 neither.
	w.send(authorised)
	w.send(frame.Data{Session: s.id, Sequence: 0, Payload: s.msg1})
	other := clone(right)
	other.Payload[40] ^= 0x80
	w.send(other)
	if st, left := s.status(); left != 9 || st.Failures != 1 {
		t.Errorf("after the repeats: %d left, %+v", left, st)
	}
	// Request and reply of one session mean nothing in another.
	elsewhere := h.talk(t, w)
	for _, stolen := range []frame.Data{authorised, right} {
		stolen.Session = elsewhere.id
		w.send(stolen)
	}
	w.send(frame.Data{Session: elsewhere.id, Sequence: 0, Payload: elsewhere.msg1})
	if again := expect[frame.Data](t, w); again.Sequence != 0 || !bytes.Equal(again.Payload, elsewhere.reply.Payload) {
		t.Error("message 1 again did not get message 2 again")
	}
	if r := elsewhere.ask(vaultmsg.StatusRequest{}); r.Status != frame.NotAuthorised {
		t.Errorf("a session into which another's Authorise was replayed: %v", r.Status)
	}
	if bytes.Equal(hello.Payload, elsewhere.reply.Payload) {
		t.Error("two sessions, one message 2")
	}
	_ = login
	if r := s.ask(vaultmsg.Abort{}); r.Status != frame.WrongPassword || r.Left != 9 {
		t.Errorf("abort: %+v", r)
	}
}

// TestSomebodyElsesSession: its id alone opens no session to anybody else, in
// no frame.
func TestSomebodyElsesSession(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.registered("anna", "1234")
	d := h.device(t, "anna")
	first := h.as(t, d)
	s := h.talk(t, first)
	must(t, s.ask(s.authorise(d, d.ticket(t))))
	_, ke1 := h.ke1(t, "anna", "1234")
	s.seal(vaultmsg.EncodeRequest(vaultmsg.RecoverStart{KE1: ke1}))

	for name, thief := range map[string]device{"another account": h.device(t, "mallory"), "another device": h.device(t, "anna")} {
		w := h.as(t, thief)
		w.send(frame.Attach{Tag: 7, Session: s.id})
		if r := expect[frame.Refuse](t, w); r.Status != frame.NoSession || r.Tag != 7 || r.Session != s.id {
			t.Errorf("ATTACH by %s: %+v", name, r)
		}
		w.send(s.last)
		if r := expect[frame.Refuse](t, w); r.Status != frame.NoSession {
			t.Errorf("DATA by %s: %+v", name, r)
		}
		w.send(frame.Close{Session: s.id})
		if r := expect[frame.Refuse](t, w); r.Status != frame.NoSession {
			t.Errorf("CLOSE by %s: %+v", name, r)
		}
		far := s.id
		far[0] ^= 0xff // of a vault that there is not
		w.send(frame.Attach{Tag: 8, Session: far})
		if r := expect[frame.Refuse](t, w); r.Status != frame.NoVault && r.Status != frame.NoSession {
			t.Errorf("ATTACH to no vault by %s: %+v", name, r)
		}
	}
	// The rightful device takes it over from a newer connection, which replaces
	// the first one.
	second := h.as(t, d)
	second.send(frame.Attach{Tag: 3, Session: s.id})
	if a := expect[frame.Attach](t, second); a.Session != s.id || a.Tag != 3 {
		t.Fatalf("%+v", a)
	}
	if f, err := first.next(); !websocket.IsCloseError(err, frame.Replaced.CloseCode()) {
		t.Errorf("the connection before: %#v, %v", f, err)
	}
	s.c = second
	second.send(s.last)
	if r := must(t, s.answer()); r.Left != 9 {
		t.Errorf("KE1 after ATTACH: %+v", r)
	}
}

// TestHandshakeAttacks is A13 and more: whatever stands in OPEN is message 1 of
// one size, or nothing; a request in its payload is neither obeyed nor charged.
func TestHandshakeAttacks(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.registered("anna", "1234")
	d := h.device(t, "anna")
	w := h.as(t, d)
	good := h.talk(t, w)
	_, ke1 := h.ke1(t, "anna", "1234")
	request := vaultmsg.EncodeRequest(vaultmsg.RecoverStart{KE1: ke1})
	dk, err := mlkem.GenerateKey768()
	if err != nil {
		t.Fatal(err)
	}
	ek := dk.EncapsulationKey().Bytes()
	identity := append(make([]byte, noisenk.PublicKeySize), good.msg1[noisenk.PublicKeySize:]...)
	hybrid := bytes.Clone(good.msg1)
	hybrid[0] = 6 | hybrid[64]&1
	garbage := make([]byte, noisenk.Message1Size)
	rand.Read(garbage)
	flipped := bytes.Clone(good.msg1)
	flipped[len(flipped)-1] ^= 1
	for name, msg := range map[string][]byte{
		"one byte":               {4},
		"a byte less":            good.msg1[:len(good.msg1)-1],
		"a byte more":            append(bytes.Clone(good.msg1), 0),
		"as long as can be":      make([]byte, frame.MaxPayload),
		"garbage":                garbage,
		"zeros":                  make([]byte, noisenk.Message1Size),
		"the identity":           identity,
		"a hybrid point":         hybrid,
		"a tag that is wrong":    flipped,
		"message 2":              good.reply.Payload,
		"KE1 behind it":          append(bytes.Clone(good.msg1), request...),
		"KE1 as the payload":     message1(t, good.keys.Noise[:], stack.Fleet, request),
		"KE1 behind ek":          message1(t, good.keys.Noise[:], stack.Fleet, append(bytes.Clone(ek), ke1[:]...)),
		"KE1 instead of ek":      message1(t, good.keys.Noise[:], stack.Fleet, append(ke1[:], ek[len(ke1):]...)),
		"no payload":             message1(t, good.keys.Noise[:], stack.Fleet, nil),
		"another fleet's":        message1(t, good.keys.Noise[:], "other", ek),
		"an ek out of the field": message1(t, good.keys.Noise[:], stack.Fleet, bytes.Repeat([]byte{0xff}, len(ek))),
	} {
		w.send(frame.Open{Tag: 77, Payload: msg})
		if r := expect[frame.Refuse](t, w); r.Status != frame.Malformed || r.Tag != 77 || r.Refused != frame.TOpen {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// Made by hand it is accepted when it is right; else the above proves nothing.
	w.send(frame.Open{Tag: 78, Payload: message1(t, good.keys.Noise[:], stack.Fleet, ek)})
	expect[frame.Attach](t, w)
	expect[frame.Data](t, w)
	// Replayed, message 1 opens another session, in which its sender can do
	// nothing: he has not the key.
	w.send(frame.Open{Tag: 79, Payload: good.msg1})
	replayed := expect[frame.Attach](t, w).Session
	msg2 := clone(expect[frame.Data](t, w))
	if replayed == good.id || bytes.Equal(msg2.Payload, good.reply.Payload) {
		t.Error("a replayed message 1 got the same session again")
	}
	must(t, good.ask(good.authorise(d, d.ticket(t))))
	w.send(frame.Data{Session: replayed, Sequence: 1, Payload: good.last.Payload})
	if r := good.ask(vaultmsg.StatusRequest{}); r.Status != frame.OK || r.Left != 10 {
		t.Errorf("after all that: %+v", r)
	}
	h.untouched(t, "anna")
}

// message1 writes -> e, es with any payload, by hand.
func message1(t *testing.T, static []byte, fleet string, payload []byte) []byte {
	t.Helper()
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: noise.NewCipherSuite(p256{}, noise.CipherAESGCM, noise.HashSHA256),
		Pattern:     noise.HandshakeNK, Initiator: true, PeerStatic: static, Prologue: noisenk.Prologue(fleet),
		PresharedKeyPlacement: 2, PresharedKey: make([]byte, 32),
	})
	if err != nil {
		t.Fatal(err)
	}
	msg, _, _, err := state.WriteMessage(nil, payload)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// p256 is the curve of section 6.1 of the specification, for message1.
type p256 struct{}

func (p256) GenerateKeypair(_ io.Reader) (noise.DHKey, error) {
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return noise.DHKey{}, err
	}
	return noise.DHKey{Private: k.Bytes(), Public: k.PublicKey().Bytes()}, nil
}

func (p256) DH(private, public []byte) ([]byte, error) {
	k, err := ecdh.P256().NewPrivateKey(private)
	if err != nil {
		return nil, err
	}
	p, err := ecdh.P256().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	return k.ECDH(p)
}

func (p256) DHLen() int     { return noisenk.PublicKeySize }
func (p256) DHName() string { return "P256" }

// ke1 begins a login with a password, under a fresh blind.
func (h *house) ke1(t *testing.T, sub, pw string) (*opaque.ClientLogin, [opaque.KE1Size]byte) {
	t.Helper()
	blind, err := oprf.NewBlind(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	login, ke1, err := opaque.GenerateKE1(vaultmsg.OPRFInput([]byte(pw), stack.Fleet, stack.App, sub), blind)
	if err != nil {
		t.Fatal(err)
	}
	return login, [opaque.KE1Size]byte(ke1.Bytes())
}

// badPoints are 33 bytes that are no element (A3).
func badPoints(good []byte) map[string][33]byte {
	set := func(prefix byte, x []byte) (p [33]byte) {
		p[0] = prefix
		copy(p[1:], x)
		return p
	}
	prime := []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	return map[string][33]byte{
		"identity":                  {},
		"x is the prime":            set(2, prime),
		"x above the prime":         set(3, bytes.Repeat([]byte{0xff}, 32)),
		"off the curve":             set(2, offCurve()),
		"uncompressed":              set(4, good[1:]),
		"hybrid, even":              set(6, good[1:]),
		"hybrid, odd":               set(7, good[1:]),
		"prefix 1":                  set(1, good[1:]),
		"prefix 0 on a good x":      set(0, good[1:]),
		"prefix with a high bit":    set(good[0]|0x80, good[1:]),
		"a good one, shifted right": set(0, good[:32]),
	}
}

// offCurve is an x below the prime that no point has.
func offCurve() []byte {
	for i := byte(1); ; i++ {
		x := sha256.Sum256([]byte{i})
		if oprf.CheckElement(append([]byte{2}, x[:]...)) != nil {
			return x[:]
		}
	}
}

// TestPointAttacks puts what is no point wherever a point can stand: refused,
// uncharged, and the session goes on.
func TestPointAttacks(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.registered("anna", "1234")
	d := h.device(t, "anna")
	s := h.talk(t, h.as(t, d))
	must(t, s.ask(s.authorise(d, d.ticket(t))))
	_, ke1 := h.ke1(t, "anna", "1234")
	fresh := h.inside(t, h.device(t, "nobody"))
	for name, p := range badPoints(ke1[:33]) {
		blinded, keyshare := ke1, ke1
		copy(blinded[:33], p[:])
		copy(keyshare[65:], p[:])
		for where, r := range map[string]vaultmsg.Reply{
			"blinded element of KE1":  s.ask(vaultmsg.RecoverStart{KE1: blinded}),
			"keyshare of KE1":         s.ask(vaultmsg.RecoverStart{KE1: keyshare}),
			"registration, replacing": s.ask(vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeReplace, Generation: 1, Blinded: p}),
			"registration":            fresh.ask(vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeRegister, Blinded: p}),
			"RegistrationRecord":      h.finishWith(t, fresh, p),
		} {
			if r.Status != frame.Malformed || r.Charged || r.Body != nil {
				t.Errorf("%s as %s: %+v", name, where, r)
			}
		}
	}
	// A whole uncompressed point does not fit; what follows the 33 bytes is
	// padding, and has to be zero.
	long := vaultmsg.EncodeRequest(vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeRegister, Blinded: [33]byte(ke1[:33])})
	point, err := oprf.Decompress(ke1[:33])
	if err != nil {
		t.Fatal(err)
	}
	copy(long[10:], point)
	for name, plain := range map[string][]byte{
		"65 bytes in RegisterStart":     long,
		"a byte short":                  long[:vaultmsg.Size-1],
		"a byte long":                   append(bytes.Clone(long[:vaultmsg.Size]), 0),
		"nothing":                       {},
		"an unknown kind":               append([]byte{11}, make([]byte, vaultmsg.Size-1)...),
		"Authorise as short as others":  append([]byte{1}, make([]byte, vaultmsg.Size-1)...),
		"others as long as Authorise":   append([]byte{2}, make([]byte, vaultmsg.AuthoriseSize-1)...),
		"padding that is not zero":      append(append([]byte{2}, make([]byte, vaultmsg.Size-2)...), 1),
		"as much as a frame takes":      make([]byte, frame.MaxPayload-noisenk.TagSize),
		"a purpose that there is not":   append([]byte{3, 4}, make([]byte, vaultmsg.Size-2)...),
		"a claim of a kind there isn't": append([]byte{9, 3}, make([]byte, vaultmsg.Size-2)...),
	} {
		if r := s.askBytes(plain); r.Status != frame.Malformed || r.Charged || r.Body != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, left := s.status(); left != 10 {
		t.Errorf("%d attempts left", left)
	}
	h.untouched(t, "anna")
}

// finishWith begins a registration and finishes it with a client public key that
// is none.
func (h *house) finishWith(t *testing.T, s *talk, public [33]byte) vaultmsg.Reply {
	t.Helper()
	_, ke1 := h.ke1(t, "nobody", "1234")
	r := must(t, s.ask(vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeRegister, Blinded: [33]byte(ke1[:33])}))
	m := vaultmsg.RegisterFinish{ID: r.Body.(vaultmsg.RegisterStarted).ID, KSF: cheap.KSF}
	copy(m.Record[:], public[:])
	m.Wrap[0] = vaultmsg.WrapKey64
	return s.ask(m)
}
