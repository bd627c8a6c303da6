package client_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

const (
	testFleet  = "test-fleet"
	testIssuer = "app" // the issuer's configured name
)

// fakeVault counts like a vault and keeps one account's record in memory. What
// it answers can be changed by hooks.
type fakeVault struct {
	t       *testing.T
	noise   *ecdh.PrivateKey
	opaque  oprf.PrivateKey
	receipt *ecdsa.PrivateKey
	issuer  *ecdsa.PrivateKey
	signers [2]fleet.SigningKey
	vkeys   [2]string

	mu       sync.Mutex
	sessions map[frame.SessionID]*fakeSession
	rec      fakeRecord
	pending  map[vaultmsg.RegistrationID]fakeRecord
	requests []vaultmsg.Request
	elements [][33]byte // evaluated, in order
	name     string     // of the issuer
	now      func() time.Time
	// before, when set, may answer instead of the vault; after may change what
	// the vault answers.
	before func(vaultmsg.Request) *vaultmsg.Reply
	after  func(vaultmsg.Request, *vaultmsg.Reply)
}

type fakeSession struct {
	noise   *noisenk.Session
	h       [32]byte
	last    uint32
	reply   []byte
	account ticket.Account
	device  [32]byte
	ake     *opaque.AKEState
	attempt [32]byte
	charge  int
	ke3     bool
}

type fakeRecord struct {
	state                   vaultmsg.State
	generation              uint64
	oprf                    oprf.PrivateKey
	finish                  vaultmsg.RegisterFinish
	owner                   [32]byte
	charges, base           int
	open                    map[[32]byte]int
	signed                  vaultmsg.Receipt
	claims                  []vaultmsg.ClaimInfo
	otherFailures           uint32
	events                  []vaultmsg.Event
	replaced, replacedFails uint64
}

func newFakeVault(t *testing.T) *fakeVault {
	v := &fakeVault{t: t, sessions: map[frame.SessionID]*fakeSession{}, pending: map[vaultmsg.RegistrationID]fakeRecord{}, name: testIssuer}
	var err error
	if v.noise, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	v.opaque = newOPRFKey(t)
	for _, k := range []**ecdsa.PrivateKey{&v.receipt, &v.issuer} {
		if *k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"first.example/signer", "second.example/signer"} {
		if v.signers[i], v.vkeys[i], err = fleet.GenerateSigner(name); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func newOPRFKey(t *testing.T) oprf.PrivateKey {
	b, err := oprf.NewBlind(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return oprf.PrivateKey(b)
}

func (v *fakeVault) keys(name string) fleet.Keys {
	k := fleet.Keys{Fleet: name}
	copy(k.Noise[:], v.noise.PublicKey().Bytes())
	pub, err := v.opaque.Public()
	if err != nil {
		v.t.Fatal(err)
	}
	copy(k.OPAQUE[:], pub)
	r, err := v.receipt.PublicKey.Bytes()
	if err != nil {
		v.t.Fatal(err)
	}
	copy(k.Receipt[:], r)
	return k
}

func (v *fakeVault) pins() fleet.Pins {
	return fleet.Pins{Fleet: testFleet, MinEpoch: 1, Signers: v.vkeys}
}

func (v *fakeVault) signedBundle(epoch uint32, notAfter time.Time) []byte {
	return v.sign(fleet.Bundle{Keys: v.keys(testFleet), Epoch: epoch, NotAfter: notAfter.UTC().Truncate(time.Second)}, v.signers[:]...)
}

func (v *fakeVault) sign(b fleet.Bundle, keys ...fleet.SigningKey) []byte {
	var signers []note.Signer
	for _, k := range keys {
		s, err := k.Signer()
		if err != nil {
			v.t.Fatal(err)
		}
		signers = append(signers, s)
	}
	signed, err := fleet.Sign(b, signers...)
	if err != nil {
		v.t.Fatal(err)
	}
	return signed
}

// do runs f with the vault's state.
func (v *fakeVault) do(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
}

func (v *fakeVault) open(message1 []byte) (id frame.SessionID, message2 []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	dh := func(peer []byte) ([]byte, error) {
		p, err := ecdh.P256().NewPublicKey(peer)
		if err != nil {
			return nil, err
		}
		return v.noise.ECDH(p)
	}
	message2, s, err := noisenk.Respond(testFleet, v.noise.PublicKey().Bytes(), dh, message1)
	if err != nil { // for another key or fleet: what a misrouted vault would send
		message2 = make([]byte, noisenk.Message2Size)
	}
	rand.Read(id[:])
	fs := &fakeSession{noise: s}
	if s != nil {
		fs.h = [32]byte(s.HandshakeHash())
	}
	v.sessions[id] = fs
	return id, message2
}

func (v *fakeVault) knows(id frame.SessionID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.sessions[id] != nil
}

func (v *fakeVault) forget(id frame.SessionID) { v.do(func() { delete(v.sessions, id) }) }

func (v *fakeVault) forgetAll() { v.do(func() { clear(v.sessions) }) }

// data is the transport: stop-and-wait, the same bytes again for a repetition.
func (v *fakeVault) data(id frame.SessionID, seq uint32, payload []byte) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.sessions[id]
	if s == nil || seq < s.last || seq > s.last+1 {
		return nil
	}
	if seq == s.last {
		return s.reply
	}
	plain, err := s.noise.Open(id[:], seq, payload)
	if err != nil {
		v.t.Errorf("request does not decrypt: %v", err)
		return nil
	}
	req, err := vaultmsg.ParseRequest(plain)
	if err != nil {
		v.t.Errorf("request: %v", err)
		return nil
	}
	v.requests = append(v.requests, req)
	reply := v.answer(s, req)
	s.last, s.reply = seq, s.noise.Seal(id[:], seq, reply.Encode())
	return s.reply
}

func (v *fakeVault) answer(s *fakeSession, req vaultmsg.Request) vaultmsg.Reply {
	var reply vaultmsg.Reply
	if v.before != nil {
		if r := v.before(req); r != nil {
			r.Kind = req.Kind()
			return *r
		}
	}
	switch m := req.(type) {
	case vaultmsg.Authorise:
		reply = v.authorise(s, m)
	case vaultmsg.RegisterStart:
		reply = v.registerStart(s, m)
	case vaultmsg.RegisterFinish:
		reply = v.registerFinish(s, m)
	case vaultmsg.RecoverStart:
		reply = v.recoverStart(s, m)
	case vaultmsg.RecoverFinish:
		reply = v.recoverFinish(s, m)
	case vaultmsg.Abort:
		reply = v.abort(s)
	case vaultmsg.Delete:
		reply.Status = frame.NotRegistered
		if v.rec.state == vaultmsg.StateLive {
			reply.Status = frame.NotOwner
			if s.device == v.rec.owner || s.ke3 {
				reply.Status = frame.OK
				v.rec.state = vaultmsg.StateDeleted
			}
		}
	case vaultmsg.Claim:
		info := vaultmsg.ClaimInfo{What: m.What, Ripe: uint64(time.Now().Add(72 * time.Hour).Unix()), Expires: uint64(time.Now().Add(240 * time.Hour).Unix())}
		rand.Read(info.ID[:])
		v.rec.claims = append(v.rec.claims, info)
		reply.Body = vaultmsg.Claimed{ID: info.ID, Ripe: info.Ripe, Expires: info.Expires}
	case vaultmsg.Cancel:
		reply.Status = frame.NoClaim
		for i, c := range v.rec.claims {
			if c.ID == m.ID {
				v.rec.claims = append(v.rec.claims[:i], v.rec.claims[i+1:]...)
				reply.Status = frame.OK
				break
			}
		}
	}
	reply.Kind = req.Kind()
	if v.after != nil {
		v.after(req, &reply)
	}
	if reply.Status != frame.OK {
		reply.Body = nil
	}
	return reply
}

func (v *fakeVault) left() uint8 { return uint8(10 - (v.rec.charges - v.rec.base)) }

func (v *fakeVault) authorise(s *fakeSession, m vaultmsg.Authorise) vaultmsg.Reply {
	if err := ticket.VerifyVaultAuth(m.DeviceKey[:], m.Signature[:], testFleet, s.h, ticket.Hash(m.Ticket)); err != nil {
		v.t.Errorf("proof of AUTHORISE: %v", err)
	}
	claims, _, err := ticket.Inspect(m.Ticket)
	if err != nil {
		v.t.Errorf("ticket: %v", err)
	}
	if !v.now().Before(claims.Expires) {
		return vaultmsg.Reply{Status: frame.TicketExpired}
	}
	s.account = ticket.Account{Issuer: v.name, Subject: claims.Subject}
	s.device = claims.Device
	body := vaultmsg.AccountStatus{
		State: v.rec.state, Owner: v.rec.owner == s.device && v.rec.state == vaultmsg.StateLive,
		Generation: v.rec.generation, Registration: v.rec.finish.ID,
		Failures: uint32(v.rec.charges - v.rec.base), OtherFailure: v.rec.otherFailures,
		Issuer: v.name, Claims: v.rec.claims, Events: v.rec.events,
	}
	if v.rec.generation > 0 {
		body.BodyHash = v.rec.finish.BodyHash()
	}
	reply := vaultmsg.Reply{Body: body}
	if v.rec.state == vaultmsg.StateLive {
		body.KSF = v.rec.finish.KSF
		reply.Body, reply.Left = body, v.left()
	}
	return reply
}

func evaluator(key oprf.PrivateKey) func(context.Context, []byte) ([]byte, error) {
	return func(_ context.Context, b []byte) ([]byte, error) { return oprf.Evaluate(key, b) }
}

func (v *fakeVault) registerStart(s *fakeSession, m vaultmsg.RegisterStart) vaultmsg.Reply {
	live := v.rec.state == vaultmsg.StateLive
	switch {
	case m.Generation != v.rec.generation, live != (m.Purpose != vaultmsg.PurposeRegister):
		return vaultmsg.Reply{Status: frame.Conflict}
	case m.Purpose == vaultmsg.PurposeReplace && v.rec.owner != s.device:
		return vaultmsg.Reply{Status: frame.NotOwner}
	case m.Purpose == vaultmsg.PurposeChange && !s.ke3:
		return vaultmsg.Reply{Status: frame.NotAuthorised}
	}
	p := fakeRecord{state: vaultmsg.StateLive, generation: m.Generation + 1, oprf: newOPRFKey(v.t), owner: s.device, open: map[[32]byte]int{}}
	if live {
		p.replaced, p.replacedFails = v.rec.generation, uint64(v.rec.charges-v.rec.base)
	}
	rand.Read(p.finish.ID[:])
	keys := v.keys(testFleet)
	response, err := opaque.CreateRegistrationResponse(context.Background(), evaluator(p.oprf), keys.OPAQUE[:], opaque.RegistrationRequest{BlindedMessage: m.Blinded})
	if err != nil {
		v.t.Errorf("RegistrationResponse: %v", err)
	}
	v.pending[p.finish.ID] = p
	return vaultmsg.Reply{Body: vaultmsg.RegisterStarted{ID: p.finish.ID, Generation: p.generation, Response: [66]byte(response.Bytes())}}
}

func (v *fakeVault) registerFinish(s *fakeSession, m vaultmsg.RegisterFinish) vaultmsg.Reply {
	if m.ID == v.rec.finish.ID {
		if m.BodyHash() != v.rec.finish.BodyHash() {
			return vaultmsg.Reply{Status: frame.Conflict}
		}
		return vaultmsg.Reply{Left: v.left(), Body: v.rec.signed}
	}
	p, ok := v.pending[m.ID]
	if !ok || p.generation != v.rec.generation+1 {
		return vaultmsg.Reply{Status: frame.Conflict}
	}
	delete(v.pending, m.ID)
	p.finish = m
	p.signed = v.signReceipt(s.account, vaultmsg.Receipt{
		ID: m.ID, BodyHash: m.BodyHash(), Generation: p.generation, Owner: s.device, Time: uint64(time.Now().Unix()),
		Replaced: p.replaced, ReplacedFailures: uint32(p.replacedFails),
	})
	v.rec = p
	return vaultmsg.Reply{Left: v.left(), Body: p.signed}
}

func (v *fakeVault) signReceipt(a ticket.Account, r vaultmsg.Receipt) vaultmsg.Receipt {
	digest := r.Digest(testFleet, a.Hash())
	rr, ss, err := ecdsa.Sign(rand.Reader, v.receipt, digest[:])
	if err != nil {
		v.t.Errorf("receipt: %v", err)
	}
	rr.FillBytes(r.Signature[:32])
	ss.FillBytes(r.Signature[32:])
	return r
}

func (v *fakeVault) gone() frame.Status {
	if v.rec.state == vaultmsg.StateDestroyed {
		return frame.Destroyed
	}
	return frame.NotRegistered
}

func (v *fakeVault) recoverStart(s *fakeSession, m vaultmsg.RecoverStart) vaultmsg.Reply {
	if v.rec.state != vaultmsg.StateLive {
		return vaultmsg.Reply{Status: v.gone()}
	}
	ke1, err := opaque.ParseKE1(m.KE1[:])
	if err != nil {
		v.t.Errorf("KE1: %v", err)
	}
	id := vaultmsg.AttemptID(v.rec.generation, s.device, ke1.BlindedMessage)
	charge, open := v.rec.open[id]
	if !open {
		if v.left() == 0 {
			return vaultmsg.Reply{Status: frame.Locked}
		}
		v.rec.charges++
		charge = v.rec.charges
		v.rec.open[id] = charge
	}
	v.elements = append(v.elements, ke1.BlindedMessage)
	record, err := opaque.ParseRegistrationRecord(v.rec.finish.Record[:])
	if err != nil {
		v.t.Errorf("record: %v", err)
	}
	keys := v.keys(testFleet)
	ke2, ake, err := opaque.GenerateKE2(context.Background(), opaque.ServerParams{
		ServerIdentity: []byte(testFleet), ServerPublicKey: keys.OPAQUE[:],
		Evaluate: evaluator(v.rec.oprf), DH: evaluator(v.opaque),
		Context: vaultmsg.Context(v.rec.finish.KSF, s.h),
	}, record, vaultmsg.ClientIdentity(s.account.Issuer, s.account.Subject, v.rec.generation), ke1)
	if err != nil {
		v.t.Errorf("KE2: %v", err)
	}
	s.ake, s.attempt, s.charge = ake, id, charge
	return vaultmsg.Reply{Charged: true, Left: v.left(), Body: vaultmsg.RecoverStarted{
		Generation: v.rec.generation, KSF: v.rec.finish.KSF, KE2: [opaque.KE2Size]byte(ke2.Bytes()),
	}}
}

func (v *fakeVault) recoverFinish(s *fakeSession, m vaultmsg.RecoverFinish) vaultmsg.Reply {
	if s.ake == nil {
		return vaultmsg.Reply{Status: frame.NoAttempt}
	}
	key, err := s.ake.Finish(opaque.KE3{ClientMAC: m.KE3})
	s.ake = nil
	delete(v.rec.open, s.attempt)
	if err != nil {
		return vaultmsg.Reply{Status: frame.WrongPassword, Charged: true, Left: v.left()}
	}
	failures := v.rec.charges - v.rec.base - 1
	v.rec.base = max(v.rec.base, s.charge)
	v.rec.owner, v.rec.otherFailures, s.ke3 = s.device, 0, true
	return vaultmsg.Reply{Left: v.left(), Body: vaultmsg.Recovered{
		Generation: v.rec.generation, Failures: uint32(max(failures, 0)),
		Release: vaultmsg.SealRelease(key.Key, s.attempt, v.rec.finish.Wrap),
	}}
}

func (v *fakeVault) abort(s *fakeSession) vaultmsg.Reply {
	if s.ake == nil {
		return vaultmsg.Reply{Status: frame.NoAttempt}
	}
	s.ake.Wipe()
	s.ake = nil
	delete(v.rec.open, s.attempt)
	if s.device != v.rec.owner {
		v.rec.otherFailures++
	}
	if v.left() == 0 && len(v.rec.open) == 0 {
		v.rec.state = vaultmsg.StateDestroyed
		return vaultmsg.Reply{Status: frame.Destroyed, Charged: true}
	}
	return vaultmsg.Reply{Status: frame.WrongPassword, Charged: true, Left: v.left()}
}

// kinds lists the requests seen since the last call, and forgets them.
func (v *fakeVault) kinds() []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []byte
	for _, r := range v.requests {
		out = append(out, byte(r.Kind()))
	}
	v.requests = nil
	return out
}

// distinct counts the different elements evaluated.
func (v *fakeVault) distinct() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	seen := map[[33]byte]bool{}
	for _, e := range v.elements {
		seen[e] = true
	}
	return len(seen)
}

func (v *fakeVault) charges() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec.charges
}

func equalKinds(got []byte, want ...vaultmsg.Kind) bool {
	var w []byte
	for _, k := range want {
		w = append(w, byte(k))
	}
	return bytes.Equal(got, w)
}
