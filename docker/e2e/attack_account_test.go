package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/docker/stack"
	"chatvault/protocol/frame"
	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/vaultmsg"
)

// TestRegistrationIsNoOracle is A4 on the public wire: the owner device, one
// counted login, 300 RegistrationRequests. The same attack finds the password of
// a vault that evaluates registrations under the live key: TestRegistrationOracle
// of vaultd/internal/vault.
func TestRegistrationIsNoOracle(t *testing.T) {
	t.Parallel()
	h := start(t, func(o *stack.Options) { o.ChatdArgs = append(o.ChatdArgs, "--limit", "FramesPerConnection=off") })
	const pin = 137 // well within reach
	owner := h.phone("anna")
	if _, err := owner.Register(t.Context(), password(fmt.Sprintf("%04d", pin)), newKey(), cheap); err != nil {
		t.Fatal(err)
	}
	d := device{h, "anna", owner.key}
	s := h.talk(t, h.as(t, d))
	must(t, s.ask(s.authorise(d, d.ticket(t))))

	// The counted login: what the live key makes of one element.
	_, ke1 := h.ke1(t, "anna", fmt.Sprintf("%04d", pin))
	started := must(t, s.ask(vaultmsg.RecoverStart{KE1: ke1})).Body.(vaultmsg.RecoverStarted)
	ke2, err := opaque.ParseKE2(started.KE2[:])
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{string(started.KE2[:33]): true}
	for i := range 300 {
		// Alternately the element of the login, whose evaluation must differ each
		// time, and guesses whose result must not open KE2.
		element := [33]byte(ke1[:33])
		var blind oprf.Blind
		guess := vaultmsg.OPRFInput(fmt.Appendf(nil, "%04d", i), stack.Fleet, stack.App, "anna")
		if i%2 == 1 {
			if blind, err = oprf.NewBlind(rand.Reader); err != nil {
				t.Fatal(err)
			}
			b, err := oprf.BlindInput(guess, blind)
			if err != nil {
				t.Fatal(err)
			}
			element = [33]byte(b)
		}
		response := must(t, s.ask(vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeReplace, Generation: 1, Blinded: element})).Body.(vaultmsg.RegisterStarted).Response
		if seen[string(response[:33])] {
			t.Fatalf("evaluation %d came before: the key is not fresh", i)
		}
		seen[string(response[:33])] = true
		if i%2 == 1 && (i == pin || i%50 == 1) && h.opens(t, guess, blind, ke2, response, started.KSF, s) {
			t.Fatalf("the registration oracle says that the password is %04d", i)
		}
	}
	if st, left := s.status(); left != 9 || st.Failures != 1 || st.Generation != 1 {
		t.Errorf("%d left, %d failures, generation %d", left, st.Failures, st.Generation)
	}
	if r := s.ask(vaultmsg.Abort{}); r.Status != frame.WrongPassword {
		t.Errorf("abort: %v", r.Status)
	}
}

// opens tries to finish the counted login with an evaluation that came from a
// registration: KE2 with its evaluated element exchanged.
func (h *house) opens(t *testing.T, guess []byte, blind oprf.Blind, ke2 opaque.KE2, response [opaque.RegistrationResponseSize]byte, ksf opaque.Argon2id, s *talk) bool {
	t.Helper()
	login, _, err := opaque.GenerateKE1(guess, blind)
	if err != nil {
		t.Fatal(err)
	}
	forged := ke2.Bytes()
	copy(forged[:33], response[:33])
	if ke2, err = opaque.ParseKE2(forged); err != nil {
		t.Fatal(err)
	}
	_, _, _, err = login.GenerateKE3(opaque.ClientParams{
		ClientIdentity: vaultmsg.ClientIdentity(stack.App, "anna", 1), ServerIdentity: []byte(stack.Fleet),
		ServerPublicKey: s.keys.OPAQUE[:], KSF: ksf.KSF(), Context: vaultmsg.Context(ksf, [32]byte(s.noise.HandshakeHash())),
	}, ke2)
	return err == nil
}

// TestDroppedReceiptRefillsNothing is A6: the relay drops the receipt, attempts
// are burned, and the client's retry must not bring them back.
func TestDroppedReceiptRefillsNothing(t *testing.T) {
	t.Parallel()
	h := start(t)
	burn := func(sub string, n int) {
		t.Helper()
		for i := range n {
			if _, err := h.phone(sub).Recover(t.Context(), password(fmt.Sprint("burn ", i))); !errors.Is(err, client.ErrWrongPassword) {
				t.Fatal(err)
			}
		}
	}
	t.Run("the same operation goes on", func(t *testing.T) {
		var dropped atomic.Bool
		burned := make(chan struct{})
		h.relay.lies(func(d direction, f frame.Frame) verdict {
			data, ok := f.(frame.Data)
			if !ok || d != toPhone || data.Sequence != 3 || dropped.Swap(true) {
				return pass
			}
			h.relay.lies(nil)
			burn("anna", 3)
			close(burned)
			return cut
		})
		phone := h.phone("anna")
		receipt, err := phone.Register(t.Context(), password("1234"), newKey(), cheap)
		if err != nil || receipt.Generation != 1 || receipt.Replaced != 0 {
			t.Fatalf("%+v, %v", receipt, err)
		}
		<-burned
		if s, err := phone.Status(t.Context()); err != nil || s.AttemptsLeft != 7 || s.Generation != 1 || s.OtherFailures != 3 {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("a later one stops for the person", func(t *testing.T) {
		phone, key := h.phone("bert"), newKey()
		ctx, cancel := context.WithCancel(t.Context())
		h.relay.lies(on(toPhone, 3, func() verdict { cancel(); return cut }))
		if _, err := phone.Register(ctx, password("1234"), key, cheap); err == nil {
			t.Fatal("registered without a receipt")
		}
		h.relay.lies(nil)
		burn("bert", 4)
		if _, err := phone.Register(t.Context(), password("1234"), key, cheap); !errors.Is(err, client.ErrStory) {
			t.Errorf("the retry: %v", err)
		}
		if s, err := h.phone("bert").Status(t.Context()); err != nil || s.AttemptsLeft != 6 || s.Generation != 1 {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("the very same request", func(t *testing.T) {
		d := h.device(t, "carl")
		s := h.talk(t, h.as(t, d))
		must(t, s.ask(s.authorise(d, d.ticket(t))))
		_, ke1 := h.ke1(t, "carl", "1234")
		r := must(t, s.ask(vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeRegister, Blinded: [33]byte(ke1[:33])}))
		// Any element will do for the client's public key.
		m := vaultmsg.RegisterFinish{ID: r.Body.(vaultmsg.RegisterStarted).ID, KSF: cheap.KSF}
		copy(m.Record[:33], ke1[:33])
		m.Wrap[0] = vaultmsg.WrapKey64
		receipt := must(t, s.ask(m)).Body.(vaultmsg.Receipt)
		burn("carl", 5)
		again := s.ask(m)
		if again.Status != frame.OK || again.Body.(vaultmsg.Receipt) != receipt || again.Left != 5 {
			t.Errorf("the same again: %+v", again)
		}
		m.Wrap[1] ^= 1
		if r := s.ask(m); r.Status != frame.Conflict {
			t.Errorf("another body under the id: %+v", r)
		}
		m.Wrap[1] ^= 1
		other := h.inside(t, h.device(t, "carl"))
		if r := other.ask(m); r.Status != frame.Conflict {
			t.Errorf("the same from another device: %+v", r)
		}
		burn("carl", 4)
		if _, err := h.phone("carl").Recover(t.Context(), password("burn")); !errors.Is(err, client.ErrDestroyed) {
			t.Fatal(err)
		}
		// Over the tombstone the old request is no new registration.
		if r := s.ask(m); r.Status == frame.OK && r.Left != 0 {
			t.Errorf("over the tombstone: %+v", r)
		}
		if st, left := other.status(); st.State != vaultmsg.StateDestroyed || left != 0 || st.Generation != 1 {
			t.Errorf("%+v, %d left", st, left)
		}
	})
}

// TestTicketEndsInMidSession is A15: a session outlives connections, but not the
// ticket that opened it; and nothing is charged under one that has ended.
func TestTicketEndsInMidSession(t *testing.T) {
	t.Parallel()
	h := start(t)
	h.registered("anna", "1234")
	d := h.device(t, "anna")
	s := h.talk(t, h.as(t, d))
	now := time.Now().Unix()
	short := h.forge(t, es256, with(d.claims(), "exp", now+5))
	must(t, s.ask(s.authorise(d, short)))
	timer := time.NewTimer(time.Until(time.Unix(now+5, 0)))
	defer timer.Stop()
	<-timer.C
	_, ke1 := h.ke1(t, "anna", "1234")
	for _, r := range []vaultmsg.Request{
		vaultmsg.RecoverStart{KE1: ke1}, vaultmsg.StatusRequest{}, vaultmsg.Abort{},
		vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeReplace, Generation: 1, Blinded: [33]byte(ke1[:33])},
	} {
		if got := s.ask(r); got.Status != frame.TicketExpired || got.Charged || got.Body != nil {
			t.Errorf("%T: %+v", r, got)
		}
	}
	must(t, s.ask(s.authorise(d, d.ticket(t))))
	if _, left := s.status(); left != 10 {
		t.Errorf("%d left", left)
	}
	if r := must(t, s.ask(vaultmsg.RecoverStart{KE1: ke1})); r.Left != 9 {
		t.Errorf("with a fresh ticket: %+v", r)
	}
}

// TestTheLostPhone is A20: after a recovery elsewhere it can neither delete nor
// replace, and its claims end with the next right password.
func TestTheLostPhone(t *testing.T) {
	t.Parallel()
	h := start(t)
	lost, key := h.phone("anna"), newKey()
	if _, err := lost.Register(t.Context(), password("1234"), key, cheap); err != nil {
		t.Fatal(err)
	}
	// A registration that the lost phone had begun before it was one.
	d := device{h, "anna", lost.key}
	w := h.as(t, d)
	s := h.talk(t, w)
	must(t, s.ask(s.authorise(d, d.ticket(t))))
	_, ke1 := h.ke1(t, "anna", "mine")
	begun := must(t, s.ask(vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeReplace, Generation: 1, Blinded: [33]byte(ke1[:33])})).Body.(vaultmsg.RegisterStarted)

	// A session in which the lost phone's password was typed.
	proved := h.talk(t, w)
	must(t, proved.ask(proved.authorise(d, d.ticket(t))))
	must(t, proved.login("anna", "1234", 1))

	next := h.phone("anna")
	if got, err := next.Recover(t.Context(), password("1234")); err != nil || !got.Key.Equal(key.Key) {
		t.Fatal(err)
	}
	m := vaultmsg.RegisterFinish{ID: begun.ID, KSF: cheap.KSF}
	copy(m.Record[:33], ke1[:33])
	m.Wrap[0] = vaultmsg.WrapKey64
	if r := s.ask(m); r.Status != frame.NotOwner {
		t.Errorf("the registration begun before: %+v", r)
	}
	if r := s.ask(vaultmsg.Delete{Generation: 1}); r.Status != frame.NotOwner {
		t.Errorf("delete in the old session: %+v", r)
	}
	// That password was right, but it was typed before the recovery elsewhere.
	if r := proved.ask(vaultmsg.Delete{Generation: 1}); r.Status != frame.NotOwner {
		t.Errorf("delete after a KE3 that another followed: %+v", r)
	}
	if r := proved.ask(vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeChange, Generation: 1, Blinded: [33]byte(ke1[:33])}); r.Status != frame.Conflict {
		t.Errorf("change after a KE3 that another followed: %+v", r)
	}
	if err := lost.Delete(t.Context()); !errors.Is(err, client.ErrNotOwner) {
		t.Errorf("delete: %v", err)
	}
	if _, err := lost.Replace(t.Context(), password("mine"), newKey(), cheap); !errors.Is(err, client.ErrNotOwner) {
		t.Errorf("replace: %v", err)
	}
	// Those came by connections of the SDK, each in the place of the one before.
	s = h.talk(t, h.as(t, d))
	must(t, s.ask(s.authorise(d, d.ticket(t))))
	claim := must(t, s.ask(vaultmsg.Claim{What: vaultmsg.ClaimDelete, Generation: 1})).Body.(vaultmsg.Claimed)
	if until := time.Until(time.Unix(int64(claim.Ripe), 0)); until < 71*time.Hour {
		t.Errorf("a claim ripens in %v", until)
	}
	if r := s.ask(vaultmsg.Delete{Generation: 1}); r.Status != frame.Pending {
		t.Errorf("delete by a claim that is not ripe: %+v", r)
	}
	if st, err := next.Status(t.Context()); err != nil || len(st.Claims) != 1 || !st.Owner {
		t.Errorf("the new phone sees %+v, %v", st, err)
	}
	if got, err := next.Recover(t.Context(), password("1234")); err != nil || !got.Key.Equal(key.Key) {
		t.Errorf("the record stands: %v", err)
	}
	if st, err := next.Status(t.Context()); err != nil || len(st.Claims) != 0 || st.AttemptsLeft != 10 {
		t.Errorf("after the right password: %+v, %v", st, err)
	}
}

// login goes through KE1, KE2 and KE3, and returns the verdict.
func (s *talk) login(sub, pw string, generation uint64) vaultmsg.Reply {
	s.t.Helper()
	blind, err := oprf.NewBlind(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	login, ke1, err := opaque.GenerateKE1(vaultmsg.OPRFInput([]byte(pw), stack.Fleet, stack.App, sub), blind)
	if err != nil {
		s.t.Fatal(err)
	}
	started := must(s.t, s.ask(vaultmsg.RecoverStart{KE1: [opaque.KE1Size]byte(ke1.Bytes())})).Body.(vaultmsg.RecoverStarted)
	ke2, err := opaque.ParseKE2(started.KE2[:])
	if err != nil {
		s.t.Fatal(err)
	}
	ke3, _, _, err := login.GenerateKE3(opaque.ClientParams{
		ClientIdentity: vaultmsg.ClientIdentity(stack.App, sub, generation), ServerIdentity: []byte(stack.Fleet),
		ServerPublicKey: s.keys.OPAQUE[:], KSF: started.KSF.KSF(),
		Context: vaultmsg.Context(started.KSF, [32]byte(s.noise.HandshakeHash())),
	}, ke2)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.ask(vaultmsg.RecoverFinish{KE3: ke3.ClientMAC})
}

// TestRecoveriesLookAlike is A11: a recorder at the relay sees the same frames of
// the same sizes in the same order, whatever the verdict.
func TestRecoveriesLookAlike(t *testing.T) {
	t.Parallel()
	h := start(t, func(o *stack.Options) { o.Pacing = true })
	const rounds = 7
	kinds := []struct {
		name, sub string
		want      error
	}{
		{"right", "right", nil},
		{"wrong", "wrong", client.ErrWrongPassword},
		{"locked", "locked", client.ErrLocked},
		{"destroyed", "destroyed", client.ErrDestroyed},
		{"not registered", "nobody", client.ErrNotRegistered},
		{"paced", "paced", client.ErrPaced},
	}
	owner := map[string]*phone{} // it is never paced
	for _, sub := range []string{"right", "wrong", "locked", "destroyed"} {
		owner[sub] = h.phone(sub)
		if _, err := owner[sub].Register(t.Context(), password("1234"), newKey(), cheap); err != nil {
			t.Fatal(err)
		}
	}
	burn(t, owner["locked"], 9)
	burn(t, owner["destroyed"], 10)
	// The tenth attempt of "locked" stays open: its session is left alone.
	left := h.inside(t, h.device(t, "locked"))
	_, ke1 := h.ke1(t, "locked", "1234")
	must(t, left.ask(vaultmsg.RecoverStart{KE1: ke1}))

	// On another connection of each account somebody listens for doorbells.
	bells := map[string]*wire{}
	for _, k := range kinds[:5] {
		bells[k.name] = h.as(t, h.device(t, k.sub))
	}
	shapes := map[string][]string{}
	times := map[string][]time.Duration{}
	pauses := map[string][]time.Duration{}
	for round := range rounds {
		for _, k := range kinds {
			if k.name == "paced" { // for a minute, so that each round has its own
				k.sub = fmt.Sprint("paced", round)
				a := &arena{t: t, h: h, sub: k.sub}
				a.registers()
				a.guesses(a.session(), 6, true)
				bells[k.name] = h.as(t, h.device(t, k.sub))
			}
			shape, took, pause, err := h.recorded(t, k.sub)
			if !errors.Is(err, k.want) {
				t.Fatalf("%s: %v", k.name, err)
			}
			shapes[k.name] = append(shapes[k.name], shape)
			times[k.name] = append(times[k.name], took...)
			pauses[k.name] = append(pauses[k.name], pause)
			bells[k.name].rung(1)
			if k.sub == "wrong" { // it shall have ten attempts again
				if _, err := h.phone(k.sub).Recover(t.Context(), password("1234")); err != nil {
					t.Fatal(err)
				}
				bells[k.name].rung(1)
			}
		}
	}
	for _, k := range kinds {
		for _, s := range shapes[k.name] {
			if s != shapes["right"][0] {
				t.Errorf("%s looks like\n%s\nright looks like\n%s", k.name, s, shapes["right"][0])
				break
			}
		}
	}
	if strings.Count(shapes["right"][0], "DATA 3") != 2 {
		t.Errorf("three exchanges look like\n%s", shapes["right"][0])
	}
	for name, w := range bells {
		w.send(frame.Close{}) // of no session
		_, b, err := w.ws.ReadMessage()
		if f, perr := frame.Parse(b); err != nil || perr != nil || f.Type() != frame.TRefuse {
			t.Errorf("%s: after one doorbell for each recovery came %#v, %v", name, f, err)
		}
	}
	t.Logf("each recovery:\n%s", shapes["right"][0])
	for _, k := range kinds {
		// A refused attempt is not aborted faster than the KSF could have run.
		p, right := pauses[k.name], slices.Min(pauses["right"])
		if least := slices.Min(p); least < right/3 {
			t.Errorf("%s: the phone's third request comes after %v, with the right password after %v at least", k.name, least, right)
		}
		slices.Sort(p)
		t.Logf("%-14s the phone's pause before exchange 3: %v (least), %v (median)", k.name, p[0].Round(time.Millisecond), p[len(p)/2].Round(time.Millisecond))
		d := times[k.name] // of the exchanges 1, 2, 3, in turn
		for n := range 3 {
			var at []time.Duration
			for i := n; i < len(d); i += 3 {
				at = append(at, d[i])
			}
			slices.Sort(at)
			t.Logf("%-14s exchange %d: reply after %v (least), %v (median), %v (most)", k.name, n+1,
				at[0].Round(10*time.Microsecond), at[len(at)/2].Round(10*time.Microsecond), at[len(at)-1].Round(10*time.Microsecond))
		}
	}
}

// burn types n wrong passwords.
func burn(t *testing.T, p *phone, n int) {
	t.Helper()
	for i := range n {
		if _, err := p.Recover(t.Context(), password(fmt.Sprint("burn ", i))); err == nil {
			t.Fatal("a wrong password recovered")
		}
	}
}

// recorded is one recovery of a new phone as the relay sees it: every frame but
// the pings, how long the vault took to answer each exchange, and how long the
// phone paused before the third. "wrong" types
// the wrong password.
func (h *house) recorded(t *testing.T, sub string) (shape string, took []time.Duration, pause time.Duration, err error) {
	t.Helper()
	var mu sync.Mutex
	var lines []string
	var asked, answered time.Time
	h.relay.lies(func(d direction, f frame.Frame) verdict {
		mu.Lock()
		defer mu.Unlock()
		what := f.Type()
		line := fmt.Sprintf("%s type %#02x, %d bytes", [...]string{"to the vault", "to the phone"}[d], uint8(what), len(f.Append(nil)))
		if data, ok := f.(frame.Data); ok {
			line = fmt.Sprintf("%s DATA %d, %d bytes", [...]string{"to the vault", "to the phone"}[d], data.Sequence, len(f.Append(nil)))
			switch {
			case data.Sequence > 0 && d == toVault:
				if asked = time.Now(); data.Sequence == 3 {
					pause = asked.Sub(answered)
				}
			case data.Sequence > 0:
				answered = time.Now()
				took = append(took, answered.Sub(asked))
			}
		}
		switch what {
		case frame.TAuth: // the ticket is as long as the account's name
		case frame.TNotice, frame.TClose: // of a phone before, which is still hanging up
		default:
			lines = append(lines, line)
		}
		return pass
	})
	p := h.phone(sub)
	pw := "1234"
	if sub == "wrong" {
		pw = "4321"
	}
	_, err = p.Recover(t.Context(), password(pw))
	p.Close()
	h.relay.lies(nil)
	mu.Lock()
	defer mu.Unlock()
	return strings.Join(lines, "\n"), took, pause, err
}
