package vault_test

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/memhsm"
	"chatvault/vaultd/internal/vault"
)

func TestTheStory(t *testing.T) {
	w := newWorld(t)
	old := w.phone("anna")
	want(t, "recover with nothing registered", old.recover("1234"), frame.NotRegistered, 0)
	want(t, "register", old.register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)

	phone := w.phone("anna")
	want(t, "wrong password", phone.recover("0000"), frame.WrongPassword, 9)
	a := phone.try("1234")
	m, session := a.ke3(a.ke1())
	r := phone.send(m)
	want(t, "right password", r, frame.OK, 10)
	got := r.Body.(vaultmsg.Recovered)
	s, _ := phone.status()
	if got.Failures != 1 || got.Generation != 1 || !s.Owner {
		t.Errorf("recovered %+v, status %+v", got, s)
	}
	element, _ := oprf.BlindInput(a.input, a.blind)
	id := vaultmsg.AttemptID(1, vaultmsg.Thumbprint(phone.key.Thumbprint()), [33]byte(element))
	if wrap, err := vaultmsg.OpenRelease(session.Key, id, got.Release); err != nil || wrap[1] != 1 {
		t.Errorf("the released key does not open: %v", err)
	}

	want(t, "change password", phone.register(vaultmsg.PurposeChange, 1, "5678"), frame.OK, 10)
	want(t, "the old password", phone.recover("1234"), frame.WrongPassword, 9)
	want(t, "the new password", phone.recover("5678"), frame.OK, 10)
	want(t, "the KE3 right twice over", phone.register(vaultmsg.PurposeChange, 2, "a"), frame.OK, 10)
	want(t, "the KE3 right, used up", phone.register(vaultmsg.PurposeChange, 3, "b"), frame.NotAuthorised, 10)

	for left := 9; left > 0; left-- {
		want(t, "wrong password", phone.recover("0000"), frame.WrongPassword, left)
	}
	want(t, "the tenth wrong password", phone.recover("0000"), frame.Destroyed, 0)
	want(t, "the right password", phone.recover("a"), frame.Destroyed, 0)
	want(t, "registering anew", phone.register(vaultmsg.PurposeRegister, 3, "c"), frame.OK, 10)
	if s, _ := phone.status(); s.Generation != 4 || s.State != vaultmsg.StateLive {
		t.Errorf("status %+v", s)
	}
}

func TestParallelWrongPasswordsAreTenEvaluations(t *testing.T) {
	w := newWorld(t)
	w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
	var wg sync.WaitGroup
	var mu sync.Mutex
	verdicts := map[frame.Status]int{}
	for i := range 200 {
		p := w.phone("anna")
		wg.Go(func() {
			r := p.recover(fmt.Sprintf("wrong %d", i))
			mu.Lock()
			verdicts[r.Status]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if n := w.hsm.evaluations(); n != 10 {
		t.Errorf("%d distinct elements were evaluated, want 10 (%v)", n, verdicts)
	}
	if verdicts[frame.OK] != 0 {
		t.Errorf("verdicts %v", verdicts)
	}
	want(t, "the right password", w.phone("anna").recover("1234"), frame.Destroyed, 0)
}

// TestDroppedRepliesCostNothing is A18: a relay drops KE2 or KE3 thirty times.
func TestDroppedRepliesCostNothing(t *testing.T) {
	w := newWorld(t)
	w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
	phone := w.phone("anna")
	a := phone.try("1234")
	for i := range 30 {
		r := a.ke1()
		if r.Status != frame.OK || r.Left != 9 {
			t.Fatalf("round %d: %s, %d left", i, r.Status, r.Left)
		}
		if i%2 == 0 {
			a.ke3(r) // made, and never sent
		}
		if r := phone.session(); r.Left != 9 {
			t.Fatalf("round %d: %d left", i, r.Left)
		}
	}
	m, _ := a.ke3(a.ke1())
	want(t, "the thirty-first", phone.send(m), frame.OK, 10)
}

func TestTheTenthAttemptMayBeTheRightOne(t *testing.T) {
	w := newWorld(t)
	w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
	phone := w.phone("anna")
	for range 9 {
		phone.recover("0000")
	}
	a := phone.try("1234")
	want(t, "the tenth KE1", a.ke1(), frame.OK, 0)
	phone.session() // KE2 was lost
	other := w.phone("anna")
	want(t, "an eleventh", other.recover("0000"), frame.Locked, 0)
	m, _ := a.ke3(a.ke1())
	want(t, "the tenth, again", phone.send(m), frame.OK, 10)
}

func TestALockedRecordIsDestroyedAfterADay(t *testing.T) {
	w := newWorld(t)
	w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
	phone := w.phone("anna")
	for range 10 {
		phone.try("0000").ke1() // and then silence
		phone.session()
	}
	if n, err := w.vault.Sweep(t.Context()); n != 0 || err != nil {
		t.Fatalf("the sweep destroyed %d at once (%v)", n, err)
	}
	want(t, "before the day is over", phone.recover("1234"), frame.Locked, 0)
	w.pass(24 * time.Hour)
	if n, err := w.vault.Sweep(t.Context()); n != 1 || err != nil {
		t.Fatalf("the sweep destroyed %d (%v)", n, err)
	}
	phone.session()
	want(t, "after it", phone.recover("1234"), frame.Destroyed, 0)
	if s, _ := phone.status(); s.State != vaultmsg.StateDestroyed || s.Generation != 1 {
		t.Errorf("status %+v", s)
	}
}

// TestOneSuccessDoesNotFreeTheOthers is A7: attempts that were charged after the
// one that succeeds stay charged.
func TestOneSuccessDoesNotFreeTheOthers(t *testing.T) {
	w := newWorld(t)
	w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
	right := w.phone("anna").try("1234")
	r := right.ke1()
	for range 5 {
		w.phone("anna").try("0000").ke1()
	}
	m, _ := right.ke3(r)
	want(t, "the first attempt succeeds", right.p.send(m), frame.OK, 5)
}

func TestTheLostPhoneLosesItsRights(t *testing.T) { // A20
	w := newWorld(t)
	lost := w.phone("anna")
	lost.register(vaultmsg.PurposeRegister, 0, "1234")
	want(t, "the new phone recovers", w.phone("anna").recover("1234"), frame.OK, 10)
	want(t, "the lost one replaces", lost.register(vaultmsg.PurposeReplace, 1, "x"), frame.NotOwner, 10)
	want(t, "the lost one deletes", lost.send(vaultmsg.Delete{Generation: 1}), frame.NotOwner, 10)
}

func TestTheOwnerMayReplaceThreeTimesADay(t *testing.T) {
	w := newWorld(t)
	owner := w.phone("anna")
	owner.register(vaultmsg.PurposeRegister, 0, "p")
	for g := uint64(1); g <= 3; g++ {
		want(t, "replace", owner.register(vaultmsg.PurposeReplace, g, "p"), frame.OK, 10)
	}
	want(t, "a fourth", owner.register(vaultmsg.PurposeReplace, 4, "p"), frame.TooMany, 10)
	w.pass(24 * time.Hour)
	owner.session()
	want(t, "a day later", owner.register(vaultmsg.PurposeReplace, 4, "p"), frame.OK, 10)
}

func TestClaims(t *testing.T) { // A21
	w := newWorld(t)
	owner, other := w.phone("anna"), w.phone("anna")
	owner.register(vaultmsg.PurposeRegister, 0, "1234")
	want(t, "replacing without a claim", other.register(vaultmsg.PurposeReplace, 1, "x"), frame.NotOwner, 10)
	want(t, "the owner claims", owner.send(vaultmsg.Claim{What: vaultmsg.ClaimReplace, Generation: 1}), frame.Conflict, 10)
	claim := func() vaultmsg.Claimed {
		t.Helper()
		r := other.send(vaultmsg.Claim{What: vaultmsg.ClaimReplace, Generation: 1})
		want(t, "claim", r, frame.OK, 10)
		return r.Body.(vaultmsg.Claimed)
	}
	c := claim()
	if again := claim(); again != c {
		t.Errorf("a second claim %+v is not the first %+v", again, c)
	}
	r := other.register(vaultmsg.PurposeReplace, 1, "x")
	if r.Status != frame.Pending || r.Until != c.Ripe || c.Ripe != uint64(w.clock().Add(72*time.Hour).Unix()) {
		t.Errorf("unripe: %+v", r)
	}
	want(t, "a claim to replace does not delete", other.send(vaultmsg.Delete{Generation: 1}), frame.NotOwner, 10)
	want(t, "objection", owner.send(vaultmsg.Cancel{ID: c.ID}), frame.OK, 10)
	want(t, "twice", owner.send(vaultmsg.Cancel{ID: c.ID}), frame.NoClaim, 10)

	claim()
	w.pass(73 * time.Hour)
	owner.session()
	want(t, "the owner proves the password", owner.recover("1234"), frame.OK, 10)
	other.session()
	want(t, "the claim is gone", other.register(vaultmsg.PurposeReplace, 1, "x"), frame.NotOwner, 10)

	claim()
	w.pass(73 * time.Hour)
	other.session()
	want(t, "a ripe claim", other.register(vaultmsg.PurposeReplace, 1, "x"), frame.OK, 10)

	late := w.phone("anna")
	r = late.send(vaultmsg.Claim{What: vaultmsg.ClaimDelete, Generation: 2})
	want(t, "claim to delete", r, frame.OK, 10)
	w.pass(72*time.Hour + 7*24*time.Hour)
	late.session()
	want(t, "a lapsed claim", late.send(vaultmsg.Delete{Generation: 2}), frame.NotOwner, 10)
}

func TestARepeatedFinishRefillsNothing(t *testing.T) { // A6
	w := newWorld(t)
	p := w.phone("anna")
	finish, _ := p.start(vaultmsg.PurposeRegister, 0, "1234")
	first := p.send(finish)
	want(t, "finish", first, frame.OK, 10)
	w.phone("anna").recover("0000")
	again := p.send(finish)
	want(t, "the same finish again", again, frame.OK, 9)
	if first.Body != again.Body {
		t.Error("another receipt")
	}
	public, _ := w.hsm.Public(t.Context(), hsm.Receipt)
	account := ticket.Account{Issuer: "app", Subject: "anna"}
	receipt := first.Body.(vaultmsg.Receipt)
	if err := receipt.Verify(public, fleet, account.Hash()); err != nil || receipt.BodyHash != finish.BodyHash() {
		t.Errorf("receipt %+v: %v", receipt, err)
	}
	finish.Wrap[5] ^= 1
	want(t, "another body under the same id", p.send(finish), frame.Conflict, 9)
	finish.Wrap[5] ^= 1
	other := w.phone("anna")
	want(t, "another device's", other.send(finish), frame.Conflict, 9)
	for range 9 {
		p.recover("0000")
	}
	want(t, "over the tombstone", p.send(finish), frame.OK, 0)
	want(t, "and nothing came back", p.recover("1234"), frame.Destroyed, 0)
}

func TestTwoRegistrationsOneWins(t *testing.T) {
	w := newWorld(t)
	a, b := w.phone("anna"), w.phone("anna")
	fa, _ := a.start(vaultmsg.PurposeRegister, 0, "a")
	fb, _ := b.start(vaultmsg.PurposeRegister, 0, "b")
	want(t, "the first", a.send(fa), frame.OK, 10)
	want(t, "the second", b.send(fb), frame.Conflict, 10)
	want(t, "a's password", b.recover("a"), frame.OK, 10)
	want(t, "a replacement that replaces nothing", w.phone("bob").register(vaultmsg.PurposeReplace, 0, "x"), frame.Conflict, 0)
	late, _ := w.phone("carl").start(vaultmsg.PurposeRegister, 0, "c")
	w.pass(10 * time.Minute)
	want(t, "too late", w.phone("carl").send(late), frame.Conflict, 0)
}

func TestGenerationsSurviveDeletion(t *testing.T) {
	w := newWorld(t)
	p := w.phone("anna")
	p.register(vaultmsg.PurposeRegister, 0, "1234")
	want(t, "delete of another generation", p.send(vaultmsg.Delete{Generation: 7}), frame.Conflict, 10)
	want(t, "delete", p.send(vaultmsg.Delete{Generation: 1}), frame.OK, 0)
	want(t, "recover", p.recover("1234"), frame.NotRegistered, 0)
	want(t, "as if nothing had been", p.register(vaultmsg.PurposeRegister, 0, "x"), frame.Conflict, 0)
	want(t, "as the next", p.register(vaultmsg.PurposeRegister, 1, "x"), frame.OK, 10)
	if s, _ := p.status(); s.Generation != 2 || s.Events[0].Kind != vaultmsg.EventRegistered || s.Events[1].Kind != vaultmsg.EventDeleted {
		t.Errorf("status %+v", s)
	}
}

func TestPacingOffTheOwnerDevice(t *testing.T) { // A19
	w := newWorld(t, func(c *vault.Config) { c.Params.Pacing = true })
	owner := w.phone("anna")
	owner.register(vaultmsg.PurposeRegister, 0, "1234")
	thief := w.phone("anna")
	for left := 9; left >= 4; left-- {
		want(t, "the thief guesses", thief.recover("0000"), frame.WrongPassword, left)
	}
	r := thief.try("0000").ke1()
	if r.Status != frame.Paced || r.Charged || r.Left != 4 || r.Until != uint64(w.clock().Unix())+60 {
		t.Fatalf("the seventh guess: %+v", r)
	}
	want(t, "the owner is not held up", owner.recover("0000"), frame.WrongPassword, 3)
	w.pass(time.Minute)
	want(t, "a minute later", thief.recover("0000"), frame.WrongPassword, 2)
	if r := thief.try("0000").ke1(); r.Status != frame.Paced || r.Until != uint64(w.clock().Unix())+600 {
		t.Fatalf("the eighth: %+v", r)
	}
	want(t, "the owner knows it", owner.recover("1234"), frame.OK, 10)
	want(t, "and the count begins anew", w.phone("anna").recover("0000"), frame.WrongPassword, 9)
}

func TestNobodyButTheTicketedDevice(t *testing.T) { // A2, A15
	w := newWorld(t)
	p := w.phone("anna")
	stranger := w.vault.NewConversation([32]byte{1})
	b, ring := stranger.Handle(t.Context(), vaultmsg.EncodeRequest(vaultmsg.StatusRequest{}))
	if r, _ := vaultmsg.ParseReply(b); r.Status != frame.NotAuthorised || ring {
		t.Errorf("without Authorise: %s", r.Status)
	}
	if r := p.authorise(p.key, "bob"); r.Status != frame.NotAuthorised {
		t.Errorf("another account in the same session: %s", r.Status)
	}
	other, _ := ticket.NewDeviceKey()
	if r := p.authorise(other, "anna"); r.Status != frame.NotAuthorised {
		t.Errorf("another device in the same session: %s", r.Status)
	}
	h := p.h
	p.h[0] ^= 1 // a proof made for another session
	if r := p.authorise(p.key, "anna"); r.Status != frame.NotAuthorised {
		t.Errorf("a proof of another session: %s", r.Status)
	}
	p.h = h
	w.pass(time.Hour)
	if r := p.send(vaultmsg.StatusRequest{}); r.Status != frame.TicketExpired {
		t.Errorf("after the ticket ended: %s", r.Status)
	}
	if r := p.authorise(p.key, "anna"); r.Status != frame.OK {
		t.Errorf("a fresh ticket: %s", r.Status)
	}
}

func TestBadElementsAreUncharged(t *testing.T) { // A3
	w := newWorld(t)
	p := w.phone("anna")
	p.register(vaultmsg.PurposeRegister, 0, "1234")
	for name, first := range map[string]byte{"identity": 0, "uncompressed": 4, "hybrid": 6, "off curve": 2} {
		var m vaultmsg.RecoverStart
		rand.Read(m.KE1[:])
		m.KE1[0] = first
		if first == 2 {
			for i := range 32 {
				m.KE1[1+i] = 0xff // x ≥ p
			}
		}
		if r := p.send(m); r.Status != frame.Malformed || r.Charged {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, r := p.status(); r.Left != 10 {
		t.Errorf("%d left", r.Left)
	}
}

func TestGarbageGetsAConstantAnswer(t *testing.T) {
	w := newWorld(t)
	for _, b := range [][]byte{nil, {0}, make([]byte, 511), make([]byte, 512), make([]byte, 3072), {255, 511: 1}} {
		reply, ring := w.phone("anna").c.Handle(t.Context(), b)
		if r, err := vaultmsg.ParseReply(reply); err != nil || r.Status != frame.Malformed || ring {
			t.Errorf("%d bytes: %+v, %v", len(b), r, err)
		}
	}
}

// naiveHSM makes one OPRF key and calls it fresh ever after: the vault that
// registers under the live key.
type naiveHSM struct {
	hsm.Module
	once            sync.Once
	wrapped, public []byte
}

func (h *naiveHSM) NewOPRFKey(ctx context.Context) ([]byte, []byte, error) {
	var err error
	h.once.Do(func() { h.wrapped, h.public, err = h.Module.NewOPRFKey(ctx) })
	return h.wrapped, h.public, err
}

// TestRegistrationOracle is A4. One counted login gives the attacker a KE2; with
// registrations under the live key, which nobody counts, it evaluates every PIN
// and tests it against that KE2 offline.
func TestRegistrationOracle(t *testing.T) {
	attack := func(module hsm.Module) (found string) {
		w := newWorld(t, func(c *vault.Config) { c.HSM = module })
		stolen := w.phone("anna") // the owner device: it may begin to replace as often as it likes
		stolen.register(vaultmsg.PurposeRegister, 0, "0437")
		r := stolen.try("any").ke1()
		started := r.Body.(vaultmsg.RecoverStarted)
		ke2, err := opaque.ParseKE2(started.KE2[:])
		if err != nil {
			t.Fatal(err)
		}
		for pin := range 500 {
			guess := fmt.Sprintf("%04d", pin)
			blind, _ := oprf.NewBlind(rand.Reader)
			blinded, _ := oprf.BlindInput(stolen.input(guess), blind)
			r := stolen.send(vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeReplace, Generation: 1, Blinded: [33]byte(blinded)})
			response := r.Body.(vaultmsg.RegisterStarted).Response
			output, err := oprf.Finalize(stolen.input(guess), blind, blinded, response[:33])
			if err != nil {
				t.Fatal(err)
			}
			if unmasks(output, ke2, response[33:]) {
				return guess
			}
		}
		return ""
	}
	honest, _ := memhsm.New()
	naive, _ := memhsm.New()
	if found := attack(&naiveHSM{Module: naive}); found != "0437" {
		t.Errorf("the attack fails against the naive vault (found %q): it proves nothing", found)
	}
	if found := attack(honest); found != "" {
		t.Errorf("the attack found %q", found)
	}
}

// unmasks says whether an OPRF output is that of the record behind a KE2: then the
// masked response begins with the server's public key (RFC 9807 §6.3.2.2). The
// KSF of these tests is the identity.
func unmasks(output []byte, ke2 opaque.KE2, serverPublic []byte) bool {
	prk, _ := hkdf.Extract(sha256.New, append(append([]byte(nil), output...), output...), nil)
	maskingKey, _ := hkdf.Expand(sha256.New, prk, "MaskingKey", 32)
	info := string(ke2.CredentialResponse.MaskingNonce[:]) + "CredentialResponsePad"
	pad, _ := hkdf.Expand(sha256.New, maskingKey, info, len(ke2.CredentialResponse.MaskedResponse))
	for i, b := range serverPublic {
		if pad[i]^ke2.CredentialResponse.MaskedResponse[i] != b {
			return false
		}
	}
	return true
}
