package faults

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/vault"
)

// Phones is a node: one of a fleet's vaults with the phones that talk to it.
type Phones struct {
	fleet *Fleet
	vault *vault.Vault

	mu      sync.Mutex             // guards all below
	open    map[place][]*session   // that are in the middle of nothing
	charged map[uint64][]*session  // by attempt: those that have KE2
	started map[uint64]registering // by Op.Registration
}

type place struct {
	account uint64
	device  uint8
}

func (p place) subject() string { return strconv.FormatUint(p.account, 10) }

// session is one vault session of a phone. While an operation goes on in it, it is
// in none of the lists of Phones.
type session struct {
	place
	h       [32]byte
	c       *vault.Conversation
	born    uint64 // the time; a session ends when that goes on
	told    uint64 // the base of the record when it began, and its generation
	toldIn  uint64
	ke3     uint64   // the generation of a KE3 in it that was not used yet
	attempt *attempt // that has KE2 and no verdict
}

type attempt struct {
	number uint64 // Op.Attempt
	id     [32]byte
	charge uint64
	login  *opaque.ClientLogin
	ke2    vaultmsg.RecoverStarted

	// the verdict, once it was made
	kind   Kind
	sent   vaultmsg.Request
	usedUp bool // it cannot be sent again
	key    opaque.SessionKey
}

type registering struct {
	finish vaultmsg.RegisterFinish
	began  uint64
}

// Do implements Node.
func (p *Phones) Do(ctx context.Context, op *Op) (Result, error) {
	w := &witness{}
	ctx = context.WithValue(ctx, witnessKey{}, w)
	if op.Kind == Status {
		return p.begin(ctx, w, op)
	}
	if op.Kind == Restore || op.Kind == Fail {
		return p.verdict(ctx, w, op)
	}
	s := p.take(op)
	if s == nil {
		return Result{}, errNoSession
	}
	defer p.release(s)
	switch op.Kind {
	case Charge:
		return p.charge(ctx, w, s, op)
	case RegisterStart:
		return p.start(ctx, w, s, op)
	case RegisterFinish:
		return p.finish(ctx, w, s, op)
	case Claim:
		return p.claim(ctx, w, s, op)
	case Cancel:
		result, _, err := s.send(ctx, w, vaultmsg.Cancel{ID: p.fleet.claimed(op.Claim)})
		return result, err
	}
	result, _, err := s.send(ctx, w, vaultmsg.Delete{Generation: op.Generation})
	return result, err
}

// send sends one request, and reads in the witness what the answer was decided on.
func (s *session) send(ctx context.Context, w *witness, m vaultmsg.Request) (result Result, body vaultmsg.Body, err error) {
	b, _ := s.c.Handle(ctx, vaultmsg.EncodeRequest(m))
	r, err := vaultmsg.ParseReply(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
		return result, nil, err
	case r.Status == frame.Unavailable && w.stored:
		return result, nil, fmt.Errorf("%w: the vault is unavailable", recordstore.ErrUnknown)
	case r.Status == frame.Unavailable, r.Status == frame.Busy:
		return result, nil, fmt.Errorf("the vault answers %s", r.Status)
	}
	result = Result{Status: r.Status, Until: r.Until}
	result.see(w.record)
	result.Left = r.Left
	return result, r.Body, nil
}

// begin opens a session: what Authorise answers is the account's status.
func (p *Phones) begin(ctx context.Context, w *witness, op *Op) (Result, error) {
	s := &session{place: place{op.Account, op.Device}, born: op.Now}
	rand.Read(s.h[:])
	s.c = p.vault.NewConversation(s.h)
	key, now := p.fleet.keys[op.Device], time.Unix(int64(op.Now), 0)
	jwt, err := ticket.Mint(p.fleet.issuer, "", ticket.Claims{Issuer: url, Subject: s.subject(), Audience: []string{fleet},
		IssuedAt: now, Expires: now.Add(time.Hour), Device: key.Thumbprint()})
	if err != nil {
		return Result{}, err
	}
	proof, err := ticket.SignVaultAuth(key, fleet, s.h, ticket.Hash(jwt))
	if err != nil {
		return Result{}, err
	}
	result, _, err := s.send(ctx, w, vaultmsg.Authorise{DeviceKey: key.Public(), Signature: proof, Ticket: jwt})
	if err == nil && result.Status == frame.OK {
		s.told, s.toldIn = result.Base, result.Generation
		p.release(s)
	}
	return result, err
}

// charge sends KE1, with the attempt's own element and fresh AKE values.
func (p *Phones) charge(ctx context.Context, w *witness, s *session, op *Op) (Result, error) {
	password := "wrong"
	if rightful(op.Account) {
		password = rightPassword
	}
	op.Told, op.ToldIn = s.told, s.toldIn
	blind, err := p.fleet.blind(op.Attempt)
	if err != nil {
		return Result{}, err
	}
	input := vaultmsg.OPRFInput([]byte(password), fleet, issuer, s.subject())
	login, ke1, err := opaque.GenerateKE1(input, blind)
	if err != nil {
		return Result{}, err
	}
	var m vaultmsg.RecoverStart
	copy(m.KE1[:], ke1.Bytes())
	result, body, err := s.send(ctx, w, m)
	if err != nil || result.Status != frame.OK {
		return result, err
	}
	ke2 := body.(vaultmsg.RecoverStarted)
	op.Generation = ke2.Generation
	id := vaultmsg.AttemptID(ke2.Generation, p.fleet.keys[op.Device].Thumbprint(), ke1.BlindedMessage)
	for _, e := range w.record.Entries {
		if e.Attempt == id {
			result.Charge = e.Charge
		}
	}
	s.attempt = &attempt{number: op.Attempt, id: id, login: login, ke2: ke2, charge: result.Charge}
	return result, nil
}

// verdict sends KE3 or an Abort, in a session that has KE2. One to which no answer
// came is repeated as it was.
func (p *Phones) verdict(ctx context.Context, w *witness, op *Op) (Result, error) {
	s := p.takeCharged(op)
	if s == nil {
		return Result{}, errNothing
	}
	defer p.release(s)
	a := s.attempt
	if a.sent == nil {
		if err := p.conclude(s, op); err != nil {
			return Result{}, err
		}
	}
	op.Generation, op.Charge = a.ke2.Generation, 0
	if op.Kind == Restore {
		op.Charge = a.charge
	}
	result, body, err := s.send(ctx, w, a.sent)
	if err != nil && !a.usedUp {
		return result, err
	}
	s.attempt = nil
	if err == nil && op.Kind == Restore && result.Status == frame.OK {
		s.ke3 = op.Generation
		recovered := body.(vaultmsg.Recovered)
		if wrap, err := vaultmsg.OpenRelease(a.key.Key, a.id, recovered.Release); err != nil || wrap != wrapOf(op.Account, op.Generation) {
			result.Status = frame.Internal // what no history explains: the key of another registration
		}
	}
	return result, err
}

// conclude makes the verdict of an attempt.
func (p *Phones) conclude(s *session, op *Op) error {
	a := s.attempt
	a.kind = op.Kind
	if op.Kind == Fail {
		a.sent = vaultmsg.Abort{}
		if op.Attempt%2 == 0 { // or a guess at KE3, for which there is but one try
			a.sent, a.usedUp = vaultmsg.RecoverFinish{}, true
		}
		return nil
	}
	ke2, err := opaque.ParseKE2(a.ke2.KE2[:])
	if err != nil {
		return err
	}
	ke3, key, _, err := a.login.GenerateKE3(p.fleet.params(s, a.ke2.Generation, vaultmsg.Context(a.ke2.KSF, s.h)), ke2)
	if err != nil {
		return fmt.Errorf("KE2 for the right password: %w", err)
	}
	a.sent, a.key = vaultmsg.RecoverFinish{KE3: ke3.ClientMAC}, key
	return nil
}

// start begins a registration.
func (p *Phones) start(ctx context.Context, w *witness, s *session, op *Op) (Result, error) {
	op.Registration, op.KE3 = 0, s.ke3 != 0 && s.ke3+1 == op.Generation
	blind, err := oprf.NewBlind(rand.Reader)
	if err != nil {
		return Result{}, err
	}
	input := vaultmsg.OPRFInput([]byte(rightPassword), fleet, issuer, s.subject())
	registration, request, err := opaque.CreateRegistrationRequest(input, blind)
	if err != nil {
		return Result{}, err
	}
	result, body, err := s.send(ctx, w, vaultmsg.RegisterStart{Purpose: op.Purpose, Generation: op.Generation - 1, Blinded: request.BlindedMessage})
	if err != nil || result.Status != frame.OK {
		return result, err
	}
	made := body.(vaultmsg.RegisterStarted)
	response, err := opaque.ParseRegistrationResponse(made.Response[:])
	if err != nil {
		return Result{}, err
	}
	stored, _, err := registration.FinalizeRegistrationRequest(p.fleet.params(s, made.Generation, nil), response)
	if err != nil {
		return Result{}, err
	}
	m := vaultmsg.RegisterFinish{ID: made.ID, Wrap: wrapOf(op.Account, made.Generation), KSF: opaque.DefaultArgon2id}
	copy(m.Record[:], stored.Bytes())
	op.Registration = number(made.ID[:])
	if op.Purpose == vaultmsg.PurposeChange {
		s.ke3 = 0 // used once
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started[op.Registration] = registering{m, op.Now}
	return result, nil
}

func (p *Phones) finish(ctx context.Context, w *witness, s *session, op *Op) (Result, error) {
	p.mu.Lock()
	r, ok := p.started[op.Registration]
	p.mu.Unlock()
	if !ok || r.began != op.Now { // the vault forgets it, as it forgets sessions
		return Result{}, errNothing
	}
	result, _, err := s.send(ctx, w, r.finish)
	return result, err
}

func (p *Phones) claim(ctx context.Context, w *witness, s *session, op *Op) (Result, error) {
	result, body, err := s.send(ctx, w, vaultmsg.Claim{What: op.What, Generation: op.Generation})
	var id vaultmsg.ClaimID
	if made, ok := body.(vaultmsg.Claimed); ok {
		id = made.ID
		result.Claim = number(id[:])
	} else if w.record != nil { // maybe made: the vault's own draft tells its name
		for _, c := range w.record.Claims {
			if c.Device == p.fleet.keys[op.Device].Thumbprint() && c.What == op.What {
				id = c.ID
			}
		}
	}
	op.Claim = number(id[:])
	p.fleet.remember(id)
	return result, err
}

// take takes an open session of a device out of the list, with a KE3 that was not
// used yet where one is of use; nil if there is none.
func (p *Phones) take(op *Op) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := place{op.Account, op.Device}
	list := slices.DeleteFunc(p.open[at], func(s *session) bool { return s.born != op.Now })
	if len(list) == 0 {
		delete(p.open, at)
		return nil
	}
	i := len(list) - 1
	if op.Kind == RegisterStart && op.Purpose == vaultmsg.PurposeChange {
		i = max(0, slices.IndexFunc(list, func(s *session) bool { return s.ke3+1 == op.Generation }))
	}
	s := list[i]
	p.open[at] = slices.Delete(list, i, i+1)
	return s
}

// takeCharged takes a session that has KE2 for the attempt, and whose verdict may
// be the wanted one.
func (p *Phones) takeCharged(op *Op) *session {
	if op.Kind == Restore && !rightful(op.Account) {
		return nil // nobody knows the password
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.DeleteFunc(p.charged[op.Attempt], func(s *session) bool { return s.born != op.Now })
	i := slices.IndexFunc(list, func(s *session) bool { return s.attempt.sent == nil || s.attempt.kind == op.Kind })
	if i < 0 {
		delete(p.charged, op.Attempt)
		return nil
	}
	s := list[i]
	p.charged[op.Attempt] = slices.Delete(list, i, i+1)
	return s
}

// release puts a session back where the next operation finds it.
func (p *Phones) release(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.attempt != nil {
		p.charged[s.attempt.number] = append(p.charged[s.attempt.number], s)
		return
	}
	p.open[s.place] = append(p.open[s.place], s)
}
