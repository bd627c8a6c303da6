package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/flynn/noise"

	"chatvault/docker/stack"
	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/vaultmsg"
)

// flaw is the one naive rule of a naive vault.
type flaw string

const (
	none            flaw = "none"
	deviceCounters  flaw = "a counter for each device"
	trustsRelay     flaw = "the relay's word for who speaks"
	anyPrefix       flaw = "an element is its x"
	liveKey         flaw = "registration under the live key"
	chargesVerdicts flaw = "charged with the verdict"
	finishRefills   flaw = "a repeated finish registers again"
	racing          flaw = "read, then write, without comparing"
	unpadded        flaw = "replies as long as what they say"
	early           flaw = "requests in message 1"
	forgetsTime     flaw = "a ticket is good as of its own time"
	chargesRepeats  flaw = "the same element is charged anew"
	forgetsVerdicts flaw = "the same element is charged anew after its verdict"
	unpaced         flaw = "no pacing"
	ownerStays      flaw = "the owner never moves"
	ripeAtOnce      flaw = "a claim is a right at once"
)

const naivePace = 6

// naiveRecord is an account's record in a naive vault.
type naiveRecord struct {
	state      vaultmsg.State
	generation uint64
	id         vaultmsg.RegistrationID
	key        oprf.PrivateKey
	public     []byte
	finish     vaultmsg.RegisterFinish
	owner      vaultmsg.Thumbprint
	charges    int // since the last success
	byDevice   map[vaultmsg.Thumbprint]int
	offOwner   int
	attempts   map[[32]byte]bool // that were charged; true: no verdict yet
	claims     map[vaultmsg.ClaimID]naiveClaim
}

type naiveClaim struct {
	device vaultmsg.Thumbprint
	what   vaultmsg.ClaimKind
	made   time.Time
}

type naiveAttempt struct {
	id    [32]byte
	state *opaque.AKEState
}

func (v *naiveVault) left(s *naiveSession, r *naiveRecord) uint8 {
	switch {
	case r == nil || r.state != vaultmsg.StateLive:
		return 0
	case v.flaw == deviceCounters:
		return uint8(10 - min(10, r.byDevice[s.device]))
	}
	return uint8(10 - min(10, r.charges))
}

// do does a request. It is called with mu held.
func (v *naiveVault) do(s *naiveSession, req vaultmsg.Request) vaultmsg.Reply {
	if m, ok := req.(vaultmsg.Authorise); ok {
		return v.authorise(s, m)
	}
	if !s.authorised {
		return vaultmsg.Reply{Status: frame.NotAuthorised}
	}
	r := v.accounts[s.sub]
	switch m := req.(type) {
	case vaultmsg.RegisterStart:
		return v.registerStart(s, r, m)
	case vaultmsg.RegisterFinish:
		return v.registerFinish(s, r, m)
	case vaultmsg.RecoverStart:
		return v.recoverStart(s, r, m)
	case vaultmsg.RecoverFinish:
		return v.recoverFinish(s, r, m)
	case vaultmsg.Abort:
		return v.abort(s, r)
	case vaultmsg.Delete:
		if r == nil || !v.mayEnd(s, r, vaultmsg.ClaimDelete) {
			return vaultmsg.Reply{Status: frame.NotOwner, Left: v.left(s, r)}
		}
		r.state = vaultmsg.StateDeleted
		return vaultmsg.Reply{}
	case vaultmsg.Claim:
		id, reply := v.claim(s.who, r, m)
		reply.Body = vaultmsg.Claimed{ID: id}
		return reply
	case vaultmsg.Cancel:
		delete(r.claims, m.ID)
		return vaultmsg.Reply{Left: v.left(s, r)}
	}
	return v.status(s)
}

func (v *naiveVault) status(s *naiveSession) vaultmsg.Reply {
	st := vaultmsg.AccountStatus{State: vaultmsg.StateNone, Issuer: stack.App}
	r := v.accounts[s.sub]
	if r != nil {
		st.State, st.Generation, st.Owner, st.KSF = r.state, r.generation, r.owner == s.device, r.finish.KSF
		for id, c := range r.claims {
			st.Claims = append(st.Claims, vaultmsg.ClaimInfo{ID: id, What: c.what, Mine: c.device == s.device})
		}
	}
	return vaultmsg.Reply{Body: st, Left: v.left(s, r)}
}

func (v *naiveVault) claim(w who, r *naiveRecord, m vaultmsg.Claim) (id vaultmsg.ClaimID, reply vaultmsg.Reply) {
	if r == nil || r.state != vaultmsg.StateLive || r.owner == w.device {
		return id, vaultmsg.Reply{Status: frame.Conflict}
	}
	rand.Read(id[:])
	r.claims[id] = naiveClaim{w.device, m.What, time.Now()}
	return id, vaultmsg.Reply{}
}

// mayEnd says whether a device may replace or delete the record.
func (v *naiveVault) mayEnd(s *naiveSession, r *naiveRecord, what vaultmsg.ClaimKind) bool {
	if s.device == r.owner {
		return true
	}
	for _, c := range r.claims {
		ripe := v.flaw == ripeAtOnce || time.Since(c.made) > 72*time.Hour
		if c.device == s.device && c.what == what && ripe {
			return true
		}
	}
	return false
}

func (v *naiveVault) registerStart(s *naiveSession, r *naiveRecord, m vaultmsg.RegisterStart) vaultmsg.Reply {
	next := &naiveRecord{state: vaultmsg.StateLive, generation: m.Generation + 1, owner: s.device,
		byDevice: map[vaultmsg.Thumbprint]int{}, attempts: map[[32]byte]bool{}, claims: map[vaultmsg.ClaimID]naiveClaim{}}
	if live := r != nil && r.state == vaultmsg.StateLive; live && !v.mayEnd(s, r, vaultmsg.ClaimReplace) {
		return vaultmsg.Reply{Status: frame.NotOwner, Left: v.left(s, r)}
	} else if live && v.flaw == liveKey {
		next.key, next.public = r.key, r.public
	} else {
		next.key, next.public, _ = newOPRFKey()
	}
	evaluated, err := oprf.Evaluate(next.key, m.Blinded[:])
	if err != nil {
		return vaultmsg.Reply{Status: frame.Malformed}
	}
	rand.Read(next.id[:])
	s.begun[next.id] = next
	body := vaultmsg.RegisterStarted{ID: next.id, Generation: next.generation}
	copy(body.Response[:], evaluated)
	copy(body.Response[len(evaluated):], v.keys.OPAQUE[:])
	return vaultmsg.Reply{Body: body}
}

func (v *naiveVault) registerFinish(s *naiveSession, r *naiveRecord, m vaultmsg.RegisterFinish) vaultmsg.Reply {
	receipt := func(r *naiveRecord) vaultmsg.Reply {
		return vaultmsg.Reply{Left: v.left(s, r), Body: vaultmsg.Receipt{ID: r.id, Generation: r.generation, BodyHash: m.BodyHash()}}
	}
	next := s.begun[m.ID]
	switch {
	case next == nil:
		return vaultmsg.Reply{Status: frame.Conflict}
	case r == next && v.flaw == finishRefills:
		next.charges, next.state, next.attempts = 0, vaultmsg.StateLive, map[[32]byte]bool{}
	case r == next:
		return receipt(r)
	}
	next.finish = m
	v.accounts[s.sub] = next
	return receipt(next)
}

func (v *naiveVault) recoverStart(s *naiveSession, r *naiveRecord, m vaultmsg.RecoverStart) vaultmsg.Reply {
	if v.flaw == anyPrefix {
		m.KE1[0] = 2 + m.KE1[0]&1
	}
	ke1, err := opaque.ParseKE1(m.KE1[:])
	switch {
	case err != nil:
		return vaultmsg.Reply{Status: frame.Malformed}
	case r == nil || r.state == vaultmsg.StateDeleted:
		return vaultmsg.Reply{Status: frame.NotRegistered}
	case r.state == vaultmsg.StateDestroyed:
		return vaultmsg.Reply{Status: frame.Destroyed}
	}
	a := &naiveAttempt{id: vaultmsg.AttemptID(r.generation, s.device, ke1.BlindedMessage)}
	if status := v.charge(s, r, a.id); status != frame.OK {
		return vaultmsg.Reply{Status: status, Left: v.left(s, r)}
	}
	record, err := opaque.ParseRegistrationRecord(r.finish.Record[:])
	if err != nil {
		return vaultmsg.Reply{Status: frame.Internal}
	}
	by := func(k oprf.PrivateKey) func(context.Context, []byte) ([]byte, error) {
		return func(_ context.Context, p []byte) ([]byte, error) { return oprf.Evaluate(k, p) }
	}
	ke2, state, err := opaque.GenerateKE2(context.Background(), opaque.ServerParams{
		ServerIdentity: []byte(stack.Fleet), ServerPublicKey: v.keys.OPAQUE[:], Evaluate: by(r.key), DH: by(v.opaque),
		Context: vaultmsg.Context(r.finish.KSF, [32]byte(s.noise.HandshakeHash())),
	}, record, vaultmsg.ClientIdentity(stack.App, s.sub, r.generation), ke1)
	if err != nil {
		return vaultmsg.Reply{Status: frame.Internal}
	}
	a.state, s.attempt = state, a
	body := vaultmsg.RecoverStarted{Generation: r.generation, KSF: r.finish.KSF}
	copy(body.KE2[:], ke2.Bytes())
	return vaultmsg.Reply{Charged: true, Left: v.left(s, r), Body: body}
}

// charge counts as the rules say, but for the flaw.
func (v *naiveVault) charge(s *naiveSession, r *naiveRecord, id [32]byte) frame.Status {
	switch open, charged := r.attempts[id]; {
	case !charged, v.flaw == chargesRepeats, v.flaw == forgetsVerdicts && !open:
	default:
		return frame.OK
	}
	if v.left(s, r) == 0 {
		return frame.Locked
	}
	if v.pacing && v.flaw != unpaced && s.device != r.owner {
		if r.offOwner >= naivePace {
			return frame.Paced
		}
	}
	switch v.flaw {
	case chargesVerdicts:
		return frame.OK
	case racing:
		was := r.charges
		for v.racing++; v.racing < racers; { // until all have read it
			v.raced.Wait()
		}
		v.raced.Broadcast()
		r.charges = was + 1
		return frame.OK
	}
	r.charges++
	r.byDevice[s.device]++
	if s.device != r.owner {
		r.offOwner++
	}
	r.attempts[id] = true
	return frame.OK
}

func (v *naiveVault) recoverFinish(s *naiveSession, r *naiveRecord, m vaultmsg.RecoverFinish) vaultmsg.Reply {
	a := s.attempt
	if a == nil || r == nil {
		return vaultmsg.Reply{Status: frame.NoAttempt}
	}
	s.attempt = nil
	key, err := a.state.Finish(opaque.KE3{ClientMAC: m.KE3})
	if err != nil {
		return v.fail(s, r, a)
	}
	r.charges, r.offOwner, r.byDevice = 0, 0, map[vaultmsg.Thumbprint]int{}
	r.attempts[a.id] = false
	clear(r.claims)
	if v.flaw != ownerStays {
		r.owner = s.device
	}
	return vaultmsg.Reply{Left: v.left(s, r), Body: vaultmsg.Recovered{Generation: r.generation, Release: vaultmsg.SealRelease(key.Key, a.id, r.finish.Wrap)}}
}

func (v *naiveVault) abort(s *naiveSession, r *naiveRecord) vaultmsg.Reply {
	a := s.attempt
	if a == nil || r == nil {
		return vaultmsg.Reply{Status: frame.NoAttempt}
	}
	s.attempt = nil
	return v.fail(s, r, a)
}

func (v *naiveVault) fail(s *naiveSession, r *naiveRecord, a *naiveAttempt) vaultmsg.Reply {
	if r.attempts[a.id] = false; v.flaw == chargesVerdicts {
		r.charges++
	}
	if v.left(s, r) == 0 && !slices.Contains(slices.Collect(maps.Values(r.attempts)), true) {
		r.state, r.finish = vaultmsg.StateDestroyed, vaultmsg.RegisterFinish{}
		return vaultmsg.Reply{Charged: true, Status: frame.Destroyed}
	}
	return vaultmsg.Reply{Charged: true, Status: frame.WrongPassword, Left: v.left(s, r)}
}

// doEarly does the request that follows ek in message 1: a claim, on the relay's word
// for whose it is.
func (v *naiveVault) doEarly(msg1 []byte, peer [32]byte) {
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: noise.NewCipherSuite(p256{}, noise.CipherAESGCM, noise.HashSHA256),
		Pattern:     noise.HandshakeNK, StaticKeypair: noise.DHKey{Private: v.noise.Bytes(), Public: v.keys.Noise[:]},
		Prologue: noisenk.Prologue(stack.Fleet), PresharedKeyPlacement: 2, PresharedKey: make([]byte, 32),
	})
	if err != nil {
		return
	}
	payload, _, _, err := state.ReadMessage(nil, msg1)
	if err != nil || len(payload) < vaultmsg.Size {
		return
	}
	req, err := vaultmsg.ParseRequest(payload[len(payload)-vaultmsg.Size:])
	if m, ok := req.(vaultmsg.Claim); ok && err == nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		w := v.peers[peer]
		v.claim(w, v.accounts[w.sub], m)
	}
}

// issuedAt reads a ticket's iat, which nobody should believe before its signature.
func issuedAt(jwt string) time.Time {
	var claims struct{ Iat int64 }
	parts := strings.Split(jwt, ".")
	if b, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)]); err == nil {
		_ = json.Unmarshal(b, &claims)
	}
	return time.Unix(claims.Iat, 0)
}
