package e2e

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"chatvault/docker/stack"
	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/vaultmsg"
)

// attacks are those of the design's section 4 that are made through the wire, each
// with the naive rule that it is made for. Each returns whether it has won: against
// a vault with that rule it must, against the same vault without it and against ours
// it must not.
var attacks = []struct {
	id   string
	flaw flaw
	wins func(*arena) bool
}{
	{"A1", deviceCounters, (*arena).guessesFromManyDevices},
	{"A2", trustsRelay, (*arena).relaySpeaksForAnna},
	{"A3", anyPrefix, (*arena).elementsThatAreNone},
	{"A4", liveKey, (*arena).registrationOracle},
	{"A5", chargesVerdicts, (*arena).guessesWithoutVerdicts},
	{"A6", finishRefills, (*arena).finishesAgain},
	{"A7", racing, (*arena).guessesAtOnce},
	{"A11", unpadded, (*arena).readsSizes},
	{"A13", early, (*arena).replaysMessage1},
	{"A15", forgetsTime, (*arena).oldTicket},
	{"A18", chargesRepeats, (*arena).dropsReplies},
	{"A18", forgetsVerdicts, (*arena).holdsBackKE1},
	{"A19", unpaced, (*arena).burnsAtOnce},
	{"A20", ownerStays, (*arena).lostPhoneDeletes},
	{"A21", ripeAtOnce, (*arena).claimsAndReplaces},
}

// TestAttacksWinAgainstNaiveVaultsOnly.
func TestAttacksWinAgainstNaiveVaultsOnly(t *testing.T) {
	t.Parallel()
	naiveSite, v := naiveHouse(t)
	ours := start(t)
	paced := start(t, func(o *stack.Options) { o.Pacing = true })
	for i, a := range attacks {
		t.Run(a.id+" "+string(a.flaw), func(t *testing.T) {
			against := func(h *house, name string, f flaw, want bool) {
				t.Helper()
				v.mu.Lock()
				v.flaw, v.pacing, v.racing = f, a.id == "A19", 0
				v.mu.Unlock()
				if won := a.wins(&arena{t: t, h: h, sub: fmt.Sprintf("anna %d of %s", i, name)}); won != want {
					t.Errorf("against %s: won %v, want %v", name, won, want)
				}
			}
			against(naiveSite, "the naive vault", a.flaw, true)
			against(naiveSite, "the same vault without its flaw", none, false)
			if a.id == "A19" {
				against(paced, "ours", none, false)
			} else {
				against(ours, "ours", none, false)
			}
		})
	}
}

// arena is where an attack happens, to a person of its own.
type arena struct {
	t   *testing.T
	h   *house
	sub string
}

const (
	racers = 24
	thePIN = "17"
)

// instant is a KSF that costs nothing: the vault never sees it.
func instant(x []byte) ([]byte, error) { return append([]byte(nil), x...), nil }

func (a *arena) device() device { return a.h.device(a.t, a.sub) }

// session is one of a new device; as is one of a known one.
func (a *arena) session() *talk    { return a.as(a.device()) }
func (a *arena) as(d device) *talk { return a.h.inside(a.t, d) }
func (a *arena) input(pw string) []byte {
	return vaultmsg.OPRFInput([]byte(pw), stack.Fleet, stack.App, a.sub)
}
func (a *arena) params(s *talk, generation uint64, context []byte) opaque.ClientParams {
	return opaque.ClientParams{ClientIdentity: vaultmsg.ClientIdentity(stack.App, a.sub, generation), ServerIdentity: []byte(stack.Fleet),
		ServerPublicKey: s.keys.OPAQUE[:], KSF: instant, Context: context}
}

func (a *arena) blind() oprf.Blind {
	b, err := oprf.NewBlind(rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return b
}

// begin begins a registration and makes the message that would finish it.
func (a *arena) begin(s *talk, purpose vaultmsg.Purpose, generation uint64, pw string) (vaultmsg.RegisterFinish, frame.Status) {
	reg, req, err := opaque.CreateRegistrationRequest(a.input(pw), a.blind())
	if err != nil {
		a.t.Fatal(err)
	}
	r := s.ask(vaultmsg.RegisterStart{Purpose: purpose, Generation: generation, Blinded: req.BlindedMessage})
	if r.Status != frame.OK {
		return vaultmsg.RegisterFinish{}, r.Status
	}
	body := r.Body.(vaultmsg.RegisterStarted)
	response, err := opaque.ParseRegistrationResponse(body.Response[:])
	if err != nil {
		a.t.Fatal(err)
	}
	record, _, err := reg.FinalizeRegistrationRequest(a.params(s, body.Generation, nil), response)
	if err != nil {
		a.t.Fatal(err)
	}
	m := vaultmsg.RegisterFinish{ID: body.ID, KSF: cheap.KSF, Wrap: [128]byte{vaultmsg.WrapKey64, 7}}
	copy(m.Record[:], record.Bytes())
	return m, frame.OK
}

// registers registers the PIN from a new device.
func (a *arena) registers() (owner device, s *talk, finish vaultmsg.RegisterFinish) {
	a.t.Helper()
	owner = a.device()
	s = a.as(owner)
	finish, status := a.begin(s, vaultmsg.PurposeRegister, 0, thePIN)
	if status != frame.OK {
		a.t.Fatal(status)
	}
	must(a.t, s.ask(finish))
	return owner, s, finish
}

// attempt is one under way.
type attempt struct {
	a     *arena
	pw    string
	blind oprf.Blind
	login *opaque.ClientLogin
}

func (a *arena) try(pw string) *attempt { return &attempt{a: a, pw: pw, blind: a.blind()} }

// ke1 is the element of the attempt, with fresh AKE values.
func (x *attempt) ke1(s *talk) vaultmsg.Reply {
	login, ke1, err := opaque.GenerateKE1(x.a.input(x.pw), x.blind)
	if err != nil {
		x.a.t.Fatal(err)
	}
	x.login = login
	return s.ask(vaultmsg.RecoverStart{KE1: [opaque.KE1Size]byte(ke1.Bytes())})
}

// verdict goes on from KE2 to the verdict.
func (x *attempt) verdict(s *talk, r vaultmsg.Reply) vaultmsg.Reply {
	body, ok := r.Body.(vaultmsg.RecoverStarted)
	if !ok {
		return s.ask(vaultmsg.Abort{})
	}
	ke2, err := opaque.ParseKE2(body.KE2[:])
	if err != nil {
		x.a.t.Fatal(err)
	}
	ke3, _, _, err := x.login.GenerateKE3(x.a.params(s, body.Generation, vaultmsg.Context(body.KSF, [32]byte(s.noise.HandshakeHash()))), ke2)
	if err != nil {
		return s.ask(vaultmsg.Abort{})
	}
	return s.ask(vaultmsg.RecoverFinish{KE3: ke3.ClientMAC})
}

// guesses makes n wrong guesses, with or without their verdicts, and counts those
// that were evaluated.
func (a *arena) guesses(s *talk, n int, verdicts bool) (evaluated int) {
	for i := range n {
		x := a.try(fmt.Sprint("wrong ", i))
		r := x.ke1(s)
		if r.Status == frame.OK {
			evaluated++
		}
		if verdicts {
			x.verdict(s, r)
		}
	}
	return evaluated
}

// A1: new identities for one account. All of them share ten guesses.
func (a *arena) guessesFromManyDevices() bool {
	a.registers()
	evaluated := 0
	for range 3 {
		evaluated += a.guesses(a.session(), 9, false)
	}
	return evaluated > 10
}

// A2: whoever holds chatd's certificate says on the uplink that it is anna, and has
// her password evaluated, without a ticket and without her device.
func (a *arena) relaySpeaksForAnna() bool {
	owner, _, _ := a.registers()
	s := a.h.talk(a.t, a.h.uplink(a.t, peerHash(owner)))
	return a.try("a guess").ke1(s).Status == frame.OK
}

// A3: other encodings of an element, each of which would be another attempt.
func (a *arena) elementsThatAreNone() bool {
	a.registers()
	s := a.session()
	_, ke1 := a.h.ke1(a.t, a.sub, "a guess")
	won := false
	for _, prefix := range []byte{0, 1, 4, 5, 6, 7, 255} {
		ke1[0] = prefix
		won = s.ask(vaultmsg.RecoverStart{KE1: ke1}).Status == frame.OK || won
	}
	return won
}

// A4: one counted login, and registrations that nobody counts until one of them
// opens it.
func (a *arena) registrationOracle() bool {
	_, s, _ := a.registers()
	counted := a.try("any").ke1(s).Body.(vaultmsg.RecoverStarted)
	for pin := range 30 {
		guess := a.try(fmt.Sprint(pin))
		_, ke1, err := opaque.GenerateKE1(a.input(guess.pw), guess.blind)
		if err != nil {
			a.t.Fatal(err)
		}
		r := s.ask(vaultmsg.RegisterStart{Purpose: vaultmsg.PurposeReplace, Generation: 1, Blinded: ke1.BlindedMessage})
		if r.Status != frame.OK {
			return false
		}
		response := r.Body.(vaultmsg.RegisterStarted).Response
		output, err := oprf.Finalize(a.input(guess.pw), guess.blind, ke1.BlindedMessage[:], response[:33])
		if err != nil {
			a.t.Fatal(err)
		}
		if unmasks(output, counted.KE2, s.keys.OPAQUE[:]) {
			return guess.pw == thePIN
		}
	}
	return false
}

// unmasks says whether an OPRF output is that of the record behind a KE2: then the
// masked response begins with the server's public key (RFC 9807 §6.3.2.2).
func unmasks(output []byte, b [opaque.KE2Size]byte, serverPublic []byte) bool {
	ke2, err := opaque.ParseKE2(b[:])
	if err != nil {
		return false
	}
	prk, _ := hkdf.Extract(sha256.New, append(append([]byte(nil), output...), output...), nil)
	maskingKey, _ := hkdf.Expand(sha256.New, prk, "MaskingKey", 32)
	response := ke2.CredentialResponse
	pad, _ := hkdf.Expand(sha256.New, maskingKey, string(response.MaskingNonce[:])+"CredentialResponsePad", len(response.MaskedResponse))
	for i, b := range serverPublic {
		if pad[i]^response.MaskedResponse[i] != b {
			return false
		}
	}
	return true
}

// A5: never say how it ended.
func (a *arena) guessesWithoutVerdicts() bool {
	_, s, _ := a.registers()
	return a.guesses(s, 20, false) > 10
}

// A6: the receipt was lost, nine guesses are burned, and the same finish comes again.
func (a *arena) finishesAgain() bool {
	_, s, finish := a.registers()
	evaluated := a.guesses(s, 9, true)
	s.ask(finish)
	return evaluated+a.guesses(s, 9, true) > 10
}

// A7: all of them at the same time, on connections of their own.
func (a *arena) guessesAtOnce() bool {
	a.registers()
	var sessions []*talk
	for range racers {
		sessions = append(sessions, a.session())
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	evaluated := 0
	for _, s := range sessions {
		wg.Go(func() {
			n := a.guesses(s, 1, false)
			mu.Lock()
			defer mu.Unlock()
			evaluated += n
		})
	}
	wg.Wait()
	return evaluated > 10
}

// A11: what the relay sees of a right password, a wrong one, none, and a locked one.
func (a *arena) readsSizes() bool {
	a.registers()
	sizes := map[int]bool{}
	record := func(sub, pw string) {
		x := &arena{t: a.t, h: a.h, sub: sub}
		s := x.session()
		_, ke1 := a.h.ke1(a.t, sub, pw)
		s.seal(vaultmsg.EncodeRequest(vaultmsg.RecoverStart{KE1: ke1}))
		s.c.send(s.last)
		sizes[len(expect[frame.Data](a.t, s.c).Payload)] = true
	}
	record(a.sub, thePIN)
	record(a.sub, "wrong")
	record("nobody with "+a.sub, "wrong")
	for range 8 {
		record(a.sub, "wrong")
	}
	record(a.sub, "locked")
	return len(sizes) > 1
}

// A13: a first message that was recorded comes again.
func (a *arena) replaysMessage1() bool {
	_, owner, _ := a.registers()
	other := a.device()
	a.as(other)
	claim := vaultmsg.EncodeRequest(vaultmsg.Claim{What: vaultmsg.ClaimReplace, Generation: 1})
	msg1 := message1(a.t, owner.keys.Noise[:], stack.Fleet, append(make([]byte, 1184), claim...))
	if len(msg1) != noisenk.Message1Size+vaultmsg.Size {
		a.t.Fatal(len(msg1))
	}
	relay := a.h.uplink(a.t, peerHash(other))
	send := func() {
		relay.send(frame.Open{Tag: 1, Payload: msg1})
		expect[frame.Refuse](a.t, relay)
	}
	send()
	st, _ := owner.status()
	for _, c := range st.Claims {
		must(a.t, owner.ask(vaultmsg.Cancel{ID: c.ID}))
	}
	send() // the relay, without the phone
	st, _ = owner.status()
	return len(st.Claims) > 0
}

// A15: a ticket that ended an hour ago, and its device key, found on a discarded
// phone.
func (a *arena) oldTicket() bool {
	owner, _, _ := a.registers()
	then := time.Now().Add(-3 * time.Hour).Unix()
	old := a.h.forge(a.t, es256, with(with(owner.claims(), "iat", then), "exp", then+600))
	s := a.h.talk(a.t, a.h.uplink(a.t, peerHash(owner))) // chatd would refuse it by itself
	return s.ask(s.authorise(owner, old)).Status == frame.OK
}

// A18: the relay lets no KE2 through while the person types the right password.
func (a *arena) dropsReplies() bool {
	a.registers()
	d := a.device()
	x := a.try(thePIN)
	for range 12 {
		s := a.as(d)
		x.ke1(s)
		s.c.send(frame.Close{Session: s.id}) // KE2 was dropped
	}
	s := a.as(d)
	return x.verdict(s, x.ke1(s)).Status != frame.OK
}

// A18 by delay: a relay holds KE1 back, the person types the same again in another
// session and has a verdict, and then what was held back arrives.
func (a *arena) holdsBackKE1() bool {
	a.registers()
	d := a.device()
	w := a.h.as(a.t, d)
	inside := func() *talk {
		s := a.h.talk(a.t, w)
		must(a.t, s.ask(s.authorise(d, d.ticket(a.t))))
		return s
	}
	for _, pw := range []string{"wrong", thePIN} {
		held, s := inside(), inside()
		x := a.try(pw)
		told := x.verdict(s, x.ke1(s)).Left
		x.ke1(held)
		if _, left := s.status(); left != int(told) {
			return true
		}
	}
	return false
}

// A19: a thief with the account, on a device of his own, burns all attempts at once.
func (a *arena) burnsAtOnce() bool {
	a.registers()
	return a.guesses(a.session(), 10, true) == 10
}

// A20: the phone was lost, the person has recovered on another.
func (a *arena) lostPhoneDeletes() bool {
	_, lost, _ := a.registers()
	s := a.session()
	x := a.try(thePIN)
	if r := x.verdict(s, x.ke1(s)); r.Status != frame.OK {
		a.t.Fatal(r.Status)
	}
	return lost.ask(vaultmsg.Delete{Generation: 1}).Status == frame.OK
}

// A21: a thief of the account claims, and does not wait.
func (a *arena) claimsAndReplaces() bool {
	a.registers()
	s := a.session()
	must(a.t, s.ask(vaultmsg.Claim{What: vaultmsg.ClaimReplace, Generation: 1}))
	_, status := a.begin(s, vaultmsg.PurposeReplace, 1, "the thief's")
	return status == frame.OK
}
