package vault_test

import (
	"errors"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/vault"
)

// TestALateKE1CostsNothing is A18 by delay: a relay that stood still hands on the KE1
// of an attempt that has had its verdict in another session.
func TestALateKE1CostsNothing(t *testing.T) {
	w := newWorld(t)
	w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
	phone := w.phone("anna")
	told := func(a *try, status frame.Status, left int) vaultmsg.Reply {
		t.Helper()
		held := phone.c // in which KE1 is under way
		phone.session()
		m, _ := a.ke3(a.ke1())
		verdict := phone.send(m)
		want(t, "its verdict", verdict, status, left)
		now := phone.c
		phone.c = held
		want(t, "the late KE1", a.ke1(), frame.OK, left)
		phone.c = now
		if s, r := phone.status(); int(r.Left) != left || int(s.Failures) != 10-left {
			t.Errorf("%d left, %d failures, and %d left were told", r.Left, s.Failures, left)
		}
		return verdict
	}
	told(phone.try("0000"), frame.WrongPassword, 9)
	told(phone.try("1111"), frame.WrongPassword, 8)
	a := phone.try("1234")
	for i, failures := range []uint32{2, 0} { // and once more, as if the success had not been heard
		if got := told(a, frame.OK, 10).Body.(vaultmsg.Recovered).Failures; got != failures {
			t.Errorf("success %d: %d failures before it, want %d", i, got, failures)
		}
	}
	told(phone.try("2222"), frame.WrongPassword, 9)
	if got := told(a, frame.OK, 10).Body.(vaultmsg.Recovered).Failures; got != 1 {
		t.Errorf("typed again: %d failures before, want 1", got)
	}
	// They are closed: nobody waits for them.
	for left := 9; left > 0; left-- {
		told(phone.try("3333"), frame.WrongPassword, left)
	}
	want(t, "the tenth", phone.recover("4444"), frame.Destroyed, 0)
}

// TestASuccessThatComesLateGivesNothingBack: the person's element once more, in
// sessions from before its success. A relay that holds them back must not feed a
// thief with attempts, nor end his pacing (A19).
func TestASuccessThatComesLateGivesNothingBack(t *testing.T) {
	w := newWorld(t, func(c *vault.Config) { c.Params.Pacing = true })
	w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
	phone := w.phone("anna")
	type session struct {
		c *vault.Conversation
		h [32]byte
	}
	var held []session
	for range 3 {
		phone.session()
		held = append(held, session{phone.c, phone.h})
	}
	a := phone.try("1234")
	in := func(s session) vaultmsg.Reply {
		phone.c, phone.h = s.c, s.h
		m, _ := a.ke3(a.ke1())
		return phone.send(m)
	}
	want(t, "the success", in(held[0]), frame.OK, 10)
	thief := w.phone("anna")
	for left := 9; left >= 4; left-- {
		want(t, "the thief", thief.recover("0000"), frame.WrongPassword, left)
	}
	for _, s := range held[1:] {
		want(t, "paced", thief.recover("0000"), frame.Paced, 0)
		r := in(s)
		want(t, "the success, late", r, frame.OK, 4)
		if got := r.Body.(vaultmsg.Recovered).Failures; got != 6 {
			t.Errorf("%d failures, want 6", got)
		}
	}
	want(t, "still paced", thief.recover("0000"), frame.Paced, 0)
	phone.session()
	want(t, "typed again", phone.recover("1234"), frame.OK, 10)
}

// TestEventsOutliveStragglers: what happened is not pushed out for one charge.
func TestEventsOutliveStragglers(t *testing.T) {
	w := newWorld(t)
	phone := w.phone("anna")
	phone.register(vaultmsg.PurposeRegister, 0, "1234")
	a := phone.try("0000")
	for range 2 * vaultmsg.MaxEvents {
		a.ke1()
		want(t, "abort", phone.send(vaultmsg.Abort{}), frame.WrongPassword, 9)
	}
	s, _ := phone.status()
	if len(s.Events) != 2 || s.Events[1].Kind != vaultmsg.EventRegistered {
		t.Errorf("%+v", s.Events)
	}
}

// TestANodeThatStoodStillRestoresNothing: while it stored a KE3 its time was up, and
// the person has recovered on a new phone, through another node (A20).
func TestANodeThatStoodStillRestoresNothing(t *testing.T) {
	w, p := setup(t)
	other := w.beside()
	a := p.try("1234")
	m, _ := a.ke3(a.ke1())
	w.hsm.before = func(op string) error {
		if op == "seal" {
			w.hsm.before = nil
			w.pass(time.Minute)
			want(t, "the new phone", other.phone(p.sub).recover("1234"), frame.OK, 10)
		}
		return nil
	}
	want(t, "the old one", p.send(m), frame.NoAttempt, 10)
	p.session()
	if s, _ := p.status(); s.Owner {
		t.Error("the old phone is the owner again")
	}
}

// TestARefusalIsNoOracle: a thief has the phone, and with it the blind of an attempt
// that was interrupted. While he is refused, nothing is charged, and what goes on tells
// him the password: he may try three times.
func TestARefusalIsNoOracle(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*vault.Config)
		burns  int
		says   frame.Status
		then   frame.Status // to the right password, after three refusals
	}{
		"locked":              {func(*vault.Config) {}, 9, frame.Locked, frame.Destroyed},
		"paced":               {func(c *vault.Config) { c.Params.Pacing = true }, 5, frame.Paced, frame.Paced},
		"the account's share": {func(c *vault.Config) { c.MaxAccountCharges = 3 }, 2, frame.Paced, frame.Paced},
		"the fleet's permits": {func(c *vault.Config) { c.MaxCharges = 4 }, 3, frame.Paced, frame.Paced},
	} {
		for misses := range 5 {
			w := newWorld(t, c.change)
			w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
			phone := w.phone("anna")
			right := phone.try("1234")
			want(t, name, right.ke1(), frame.OK, 9)
			for n := range c.burns {
				want(t, name, phone.recover("0000"), frame.WrongPassword, 8-n)
			}
			for n := range misses {
				guess := phone.try(string(rune('a' + n)))
				guess.blind = right.blind
				if n < 2 { // a relay drops the refusal, and the phone repeats it
					guess.ke1()
					phone.session()
				}
				status, left := c.says, 9-c.burns
				if n >= 3 {
					status = c.then
				}
				want(t, name, guess.ke1(), status, left)
			}
			status := frame.OK
			if misses >= 3 {
				status = c.then
			}
			if r := right.ke1(); r.Status != status {
				t.Errorf("%s: %s after %d refusals, want %s", name, r.Status, misses, status)
			}
			if w.hsm.uncharged > 0 {
				t.Errorf("%s: %d evaluations were not charged", name, w.hsm.uncharged)
			}
		}
	}
}

// TestRefusalsOfOthersCountForNobody: who has the account, and not the phone, cannot
// end what the person has under way.
func TestRefusalsOfOthersCountForNobody(t *testing.T) {
	w := newWorld(t)
	w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
	phone, thief := w.phone("anna"), w.phone("anna")
	right := phone.try("1234")
	right.ke1()
	for left := 8; left >= 0; left-- {
		thief.recover("0000")
	}
	typo := phone.try("12345")
	for range 10 { // and a relay makes the phone repeat its one typo
		want(t, "the thief", thief.recover("0000"), frame.Locked, 0)
		want(t, "the typo", typo.ke1(), frame.Locked, 0)
		phone.session()
	}
	m, _ := right.ke3(right.ke1())
	want(t, "the person", phone.send(m), frame.OK, 1)
}

// TestNoPermitIsNoOracle: the same, while no permit can be had.
func TestNoPermitIsNoOracle(t *testing.T) {
	for misses := range 4 {
		w := newWorld(t, func(c *vault.Config) { c.MaxCharges = 64 }) // a block is one permit
		w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
		phone := w.phone("anna")
		right := phone.try("1234")
		want(t, "charged", right.ke1(), frame.OK, 9)
		if _, err := vault.DamagePermits(w.store, w.hsm.Module); err != nil {
			t.Fatal(err)
		}
		for n := range misses {
			want(t, "a guess", phone.try(string(rune('a'+n))).ke1(), frame.Unavailable, 9)
		}
		status := frame.OK
		if misses == 3 {
			status = frame.Unavailable // it would have to be charged
		}
		want(t, "the right one", right.ke1(), status, 9)
	}
}

// TestWhatCannotBeStoredGoesNotOn: else a store that takes nothing, or no leases, would
// tell a thief of phone and blind what was typed, as often as he asks.
func TestWhatCannotBeStoredGoesNotOn(t *testing.T) {
	w, phone := setup(t)
	right := phone.try("1234")
	right.ke1()
	w.hsm.before = func(op string) error {
		if op == "seal" {
			return errors.New("nothing can be sealed")
		}
		return nil
	}
	want(t, "a guess", phone.try("0000").ke1(), frame.Unavailable, 9)
	want(t, "the right one", right.ke1(), frame.Unavailable, 9)
	w.hsm.before = nil
	m, _ := right.ke3(right.ke1())
	want(t, "once it can", phone.send(m), frame.OK, 10)
}
