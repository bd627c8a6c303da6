package vault_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
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
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/memstore"
	"chatvault/vaultd/internal/rules"
	"chatvault/vaultd/internal/vault"
)

const fleet = "test"

// world is a vault with everything around it that a test may turn.
type world struct {
	t      *testing.T
	vault  *vault.Vault
	hsm    *watchedHSM
	store  *recordstore.Faulty
	issuer ed25519.PrivateKey
	cfg    vault.Config

	mu  sync.Mutex // guards now
	now time.Time
}

func newWorld(t *testing.T, change ...func(*vault.Config)) *world {
	t.Helper()
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	der, _ := x509.MarshalPKIXPublicKey(public)
	keyFile := filepath.Join(t.TempDir(), "issuer.pem")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	tickets, err := ticket.NewVerifier([]ticket.IssuerConfig{{Name: "app", Issuers: []string{"https://app.test"}, KeyFile: keyFile}}, []string{fleet}, ticket.Options{})
	if err != nil {
		t.Fatal(err)
	}
	module, err := memhsm.New()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, issuer: private, now: time.Unix(1_800_000_000, 0),
		hsm: &watchedHSM{Module: module}, store: recordstore.NewFaulty(memstore.New())}
	cfg := vault.Config{Fleet: fleet, Store: w.store, HSM: w.hsm, Tickets: tickets, Params: rules.Defaults(),
		Epoch: 1, Now: w.clock, Logger: slog.New(slog.DiscardHandler)}
	cfg.Params.Pacing = false
	for _, f := range change {
		f(&cfg)
	}
	if cfg.HSM != hsm.Module(w.hsm) {
		w.hsm.Module, cfg.HSM = cfg.HSM, w.hsm
	}
	disk, plain := w.store.Store, w.hsm.Module
	w.hsm.charges = func() (string, int) {
		r, err := vault.Stored(fleet, disk, plain, ticket.Account{Issuer: "app", Subject: "anna"})
		if err != nil || r == nil {
			return "", 0
		}
		return string(r.OPRFKey[:]), int(r.Charges)
	}
	if w.vault, err = vault.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	w.cfg = cfg
	return w
}

// beside is another vault node of the same fleet, on the same store, with a clock of
// its own.
func (w *world) beside(change ...func(*vault.Config)) *world {
	w.t.Helper()
	o := &world{t: w.t, hsm: w.hsm, store: w.store, issuer: w.issuer, now: w.clock(), cfg: w.cfg}
	o.cfg.Now = o.clock
	for _, f := range change {
		f(&o.cfg)
	}
	var err error
	if o.vault, err = vault.New(w.t.Context(), o.cfg); err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// watchedHSM remembers what was evaluated under which key, and fails on demand.
type watchedHSM struct {
	hsm.Module
	// before, if set, is asked before each operation, one at a time; its error is
	// the result.
	before func(op string) error
	asking sync.Mutex

	mu        sync.Mutex
	made      []string            // wrapped keys, in order
	evaluated map[string][]string // by wrapped key: the distinct elements, in order
	// charges reads from the store how many charges anna's record has, and its
	// key: what is durable at the moment of an evaluation.
	charges   func() (wrapped string, charges int)
	uncharged int // evaluations under anna's key beyond the charges stored then
}

func (h *watchedHSM) ask(op string) error {
	if h.before == nil {
		return nil
	}
	h.asking.Lock()
	defer h.asking.Unlock()
	return h.before(op)
}

func (h *watchedHSM) Evaluate(ctx context.Context, wrapped, public, point []byte) ([]byte, error) {
	if err := h.ask("evaluate"); err != nil {
		return nil, err
	}
	h.mu.Lock()
	if h.evaluated == nil {
		h.evaluated = make(map[string][]string)
	}
	if list := h.evaluated[string(wrapped)]; !slices.Contains(list, string(point)) {
		h.evaluated[string(wrapped)] = append(list, string(point))
	}
	if key, charges := h.charges(); key == string(wrapped) && len(h.evaluated[key])-1 > charges {
		h.uncharged++
	}
	h.mu.Unlock()
	return h.Module.Evaluate(ctx, wrapped, public, point)
}

func (h *watchedHSM) NewOPRFKey(ctx context.Context) ([]byte, []byte, error) {
	if err := h.ask("new key"); err != nil {
		return nil, nil, err
	}
	wrapped, public, err := h.Module.NewOPRFKey(ctx)
	h.mu.Lock()
	h.made = append(h.made, string(wrapped))
	h.mu.Unlock()
	return wrapped, public, err
}

func (h *watchedHSM) DH(ctx context.Context, key hsm.Key, peer []byte) ([]byte, error) {
	if err := h.ask("dh"); err != nil {
		return nil, err
	}
	return h.Module.DH(ctx, key, peer)
}

func (h *watchedHSM) Seal(ctx context.Context, epoch uint32, aad, plain []byte) ([]byte, error) {
	if err := h.ask("seal"); err != nil {
		return nil, err
	}
	return h.Module.Seal(ctx, epoch, aad, plain)
}

func (h *watchedHSM) Open(ctx context.Context, epoch uint32, aad, sealed []byte) ([]byte, error) {
	if err := h.ask("open"); err != nil {
		return nil, err
	}
	return h.Module.Open(ctx, epoch, aad, sealed)
}

func (h *watchedHSM) Sign(ctx context.Context, key hsm.Key, digest [32]byte) ([64]byte, error) {
	if err := h.ask("sign"); err != nil {
		return [64]byte{}, err
	}
	return h.Module.Sign(ctx, key, digest)
}

// evaluations is the largest number of distinct elements that were evaluated
// under one key, the registration's own element not counted. The vault's first
// two keys are its decoys.
func (h *watchedHSM) evaluations() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, key := range h.made[2:] {
		n = max(n, len(h.evaluated[key])-1)
	}
	return n
}

// phone is a device of an account, speaking to the vault without a relay.
type phone struct {
	w   *world
	key ticket.DeviceKey
	sub string
	c   *vault.Conversation
	h   [32]byte
	ctx context.Context // of its requests; nil: one without end
}

func (w *world) phone(sub string) *phone {
	key, err := ticket.NewDeviceKey()
	if err != nil {
		w.t.Fatal(err)
	}
	p := &phone{w: w, key: key, sub: sub}
	p.session()
	return p
}

// session opens a new vault session, as after a lost connection.
func (p *phone) session() vaultmsg.Reply {
	rand.Read(p.h[:])
	p.c = p.w.vault.NewConversation(p.h)
	return p.authorise(p.key, p.sub)
}

func (p *phone) authorise(key ticket.DeviceKey, sub string) vaultmsg.Reply {
	now := p.w.clock()
	jwt, err := ticket.Mint(p.w.issuer, "", ticket.Claims{Issuer: "https://app.test", Subject: sub, Audience: []string{fleet},
		IssuedAt: now, Expires: now.Add(time.Hour), Device: key.Thumbprint()})
	if err != nil {
		p.w.t.Fatal(err)
	}
	sig, err := ticket.SignVaultAuth(key, fleet, p.h, ticket.Hash(jwt))
	if err != nil {
		p.w.t.Fatal(err)
	}
	return p.send(vaultmsg.Authorise{DeviceKey: key.Public(), Signature: sig, Ticket: jwt})
}

func (p *phone) send(m vaultmsg.Request) vaultmsg.Reply {
	ctx := p.ctx
	if ctx == nil {
		ctx = context.Background()
	}
	b, _ := p.c.Handle(ctx, vaultmsg.EncodeRequest(m))
	r, err := vaultmsg.ParseReply(b)
	if err != nil || r.Kind != m.Kind() {
		p.w.t.Errorf("reply to %T: kind %d, %v", m, r.Kind, err)
	}
	return r
}

func (p *phone) status() (vaultmsg.AccountStatus, vaultmsg.Reply) {
	r := p.send(vaultmsg.StatusRequest{})
	s, _ := r.Body.(vaultmsg.AccountStatus)
	return s, r
}

func (p *phone) params(generation uint64, akeContext []byte) opaque.ClientParams {
	pub, _ := p.w.hsm.Public(context.Background(), hsm.Opaque)
	compressed, _ := oprf.Compress(pub)
	return opaque.ClientParams{
		ClientIdentity: vaultmsg.ClientIdentity("app", p.sub, generation), ServerIdentity: []byte(fleet),
		ServerPublicKey: compressed, Context: akeContext,
		// A cheap KSF: what is tested here is the vault, which never sees it.
		KSF: func(x []byte) ([]byte, error) { return append([]byte(nil), x...), nil },
	}
}

func (p *phone) input(password string) []byte {
	return vaultmsg.OPRFInput([]byte(password), fleet, "app", p.sub)
}

// start begins a registration; finish is the message that would store it.
func (p *phone) start(purpose vaultmsg.Purpose, generation uint64, password string) (finish vaultmsg.RegisterFinish, r vaultmsg.Reply) {
	blind, _ := oprf.NewBlind(rand.Reader)
	reg, req, err := opaque.CreateRegistrationRequest(p.input(password), blind)
	if err != nil {
		p.w.t.Fatal(err)
	}
	r = p.send(vaultmsg.RegisterStart{Purpose: purpose, Generation: generation, Blinded: req.BlindedMessage})
	if r.Status != frame.OK {
		return finish, r
	}
	body := r.Body.(vaultmsg.RegisterStarted)
	response, err := opaque.ParseRegistrationResponse(body.Response[:])
	if err != nil {
		p.w.t.Fatal(err)
	}
	rec, _, err := reg.FinalizeRegistrationRequest(p.params(body.Generation, nil), response)
	if err != nil {
		p.w.t.Fatal(err)
	}
	finish = vaultmsg.RegisterFinish{ID: body.ID, Wrap: [128]byte{vaultmsg.WrapKey64, 1, 2, 3}, KSF: opaque.DefaultArgon2id}
	copy(finish.Record[:], rec.Bytes())
	return finish, r
}

// register does a whole registration.
func (p *phone) register(purpose vaultmsg.Purpose, generation uint64, password string) vaultmsg.Reply {
	finish, r := p.start(purpose, generation, password)
	if r.Status != frame.OK {
		return r
	}
	return p.send(finish)
}

// try is one attempt: a password under a blind that is kept for its retries.
type try struct {
	p     *phone
	input []byte
	blind oprf.Blind
	login *opaque.ClientLogin
}

func (p *phone) try(password string) *try {
	blind, _ := oprf.NewBlind(rand.Reader)
	return &try{p: p, input: p.input(password), blind: blind}
}

// ke1 sends KE1, with the same element each time and fresh AKE values.
func (a *try) ke1() vaultmsg.Reply {
	login, ke1, err := opaque.GenerateKE1(a.input, a.blind)
	if err != nil {
		a.p.w.t.Fatal(err)
	}
	a.login = login
	var m vaultmsg.RecoverStart
	copy(m.KE1[:], ke1.Bytes())
	return a.p.send(m)
}

// ke3 makes the last message from the reply to KE1: a RecoverFinish when the
// password is right, else an Abort.
func (a *try) ke3(r vaultmsg.Reply) (vaultmsg.Request, opaque.SessionKey) {
	body, ok := r.Body.(vaultmsg.RecoverStarted)
	if !ok {
		return vaultmsg.Abort{}, opaque.SessionKey{}
	}
	ke2, err := opaque.ParseKE2(body.KE2[:])
	if err != nil {
		a.p.w.t.Error(err)
		return vaultmsg.Abort{}, opaque.SessionKey{}
	}
	ke3, session, _, err := a.login.GenerateKE3(a.p.params(body.Generation, vaultmsg.Context(body.KSF, a.p.h)), ke2)
	if err != nil {
		return vaultmsg.Abort{}, opaque.SessionKey{}
	}
	return vaultmsg.RecoverFinish{KE3: ke3.ClientMAC}, session
}

// recover does a whole attempt.
func (p *phone) recover(password string) vaultmsg.Reply {
	a := p.try(password)
	m, _ := a.ke3(a.ke1())
	return p.send(m)
}

func want(t *testing.T, what string, r vaultmsg.Reply, status frame.Status, left int) {
	t.Helper()
	if r.Status != status || int(r.Left) != left {
		t.Fatalf("%s: %s with %d left, want %s with %d", what, r.Status, r.Left, status, left)
	}
}
