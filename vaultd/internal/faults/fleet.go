package faults

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/memhsm"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/rules"
	"chatvault/vaultd/internal/vault"
)

const (
	fleet  = "test"
	issuer = "app"
	url    = "https://app.test"

	rightPassword = "right"
)

// Fleet is several vaults, each a vault.Vault over a store of its own, and the
// people who use them. What people remember (their blinds) they remember at every
// vault; a session stays with its vault.
type Fleet struct {
	// static after construction
	clock  *Clock
	dir    string
	hsm    *memhsm.Module
	public []byte // the OPAQUE key, compressed
	issuer ed25519.PrivateKey
	keys   [1 + devices]ticket.DeviceKey

	mu     sync.Mutex                  // guards all below
	blinds map[uint64]oprf.Blind       // by Op.Attempt
	claims map[uint64]vaultmsg.ClaimID // by Op.Claim
}

// NewFleet makes people, keys, and an HSM that all vaults share. dir is for the
// key of the tickets' issuer.
func NewFleet(clock *Clock, dir string) (*Fleet, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	f := &Fleet{clock: clock, issuer: private, dir: dir, blinds: make(map[uint64]oprf.Blind), claims: make(map[uint64]vaultmsg.ClaimID)}
	if err := os.WriteFile(filepath.Join(dir, "issuer.pem"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	for d := range f.keys {
		if f.keys[d], err = ticket.NewDeviceKey(); err != nil {
			return nil, err
		}
	}
	if f.hsm, err = memhsm.New(); err != nil {
		return nil, err
	}
	key, err := f.hsm.Public(context.Background(), hsm.Opaque)
	if err != nil {
		return nil, err
	}
	f.public, err = oprf.Compress(key)
	return f, err
}

// Vault starts one of the fleet's vaults.
func (f *Fleet) Vault(ctx context.Context, store recordstore.Store) (*Phones, error) {
	tickets, err := ticket.NewVerifier([]ticket.IssuerConfig{{Name: issuer, Issuers: []string{url}, KeyFile: filepath.Join(f.dir, "issuer.pem")}}, []string{fleet}, ticket.Options{})
	if err != nil {
		return nil, err
	}
	v, err := vault.New(ctx, vault.Config{
		Fleet: fleet, Store: witnessedStore{store}, HSM: witnessedHSM{f.hsm}, Tickets: tickets,
		Params: rules.Defaults(), Epoch: 1, Now: f.clock.Now,
	})
	if err != nil {
		return nil, err
	}
	return &Phones{fleet: f, vault: v,
		open: make(map[place][]*session), charged: make(map[uint64][]*session), started: make(map[uint64]registering)}, nil
}

// blind is the blind of an attempt, which its person keeps until the verdict.
func (f *Fleet) blind(attempt uint64) (oprf.Blind, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, ok := f.blinds[attempt]; ok {
		return b, nil
	}
	b, err := oprf.NewBlind(rand.Reader)
	f.blinds[attempt] = b
	return b, err
}

// remember keeps the whole id of a claim, of which a number is the beginning.
func (f *Fleet) remember(id vaultmsg.ClaimID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claims[number(id[:])] = id
}

func (f *Fleet) claimed(n uint64) vaultmsg.ClaimID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.claims[n]
}

func (f *Fleet) params(s *session, generation uint64, akeContext []byte) opaque.ClientParams {
	return opaque.ClientParams{
		ClientIdentity: vaultmsg.ClientIdentity(issuer, s.subject(), generation), ServerIdentity: []byte(fleet),
		ServerPublicKey: f.public, Context: akeContext,
		// A cheap KSF: the vault never sees it.
		KSF: func(x []byte) ([]byte, error) { return append([]byte(nil), x...), nil },
	}
}

// wrapOf is the wrapped key of a registration: one that tells which.
func wrapOf(account, generation uint64) (w [vaultmsg.WrapSize]byte) {
	w[0] = vaultmsg.WrapKey64
	binary.BigEndian.PutUint64(w[1:], account)
	binary.BigEndian.PutUint64(w[9:], generation)
	return w
}

// number stands for a random id in an Op.
func number(id []byte) uint64 { return binary.BigEndian.Uint64(id) }

// witness is what store and HSM see of one request: the record that its answer was
// decided on. A reply alone tells less than a checker wants. The vault may write a
// decoy at the same time, and other records of its own.
type witness struct {
	mu     sync.Mutex     // guards all below
	record *record.Record // the account's, the last that was opened or sealed
	drafts [][]byte       // the account's record, sealed
	stored bool           // a swap of one was done, or may have been
}

type witnessKey struct{}

// see notes an account's record.
func (w *witness) see(plain []byte) bool {
	r, err := record.Decode(plain)
	if err != nil || r.State > record.Deleted {
		return false
	}
	w.record = &r
	return true
}

// witnessedHSM tells the witness of a request what is opened and sealed for it.
type witnessedHSM struct{ hsm.Module }

func (h witnessedHSM) Seal(ctx context.Context, epoch uint32, aad, plain []byte) ([]byte, error) {
	sealed, err := h.Module.Seal(ctx, epoch, aad, plain)
	if w, ok := ctx.Value(witnessKey{}).(*witness); ok && err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.see(plain) {
			w.drafts = append(w.drafts, bytes.Clone(sealed))
		}
	}
	return sealed, err
}

func (h witnessedHSM) Open(ctx context.Context, epoch uint32, aad, sealed []byte) ([]byte, error) {
	plain, err := h.Module.Open(ctx, epoch, aad, sealed)
	if w, ok := ctx.Value(witnessKey{}).(*witness); ok && err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.see(plain)
	}
	return plain, err
}

// witnessedStore tells the witness of a request whether anything was stored for it.
type witnessedStore struct{ recordstore.Store }

func (s witnessedStore) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	v, err := s.Store.Swap(ctx, id, expect, data)
	if w, ok := ctx.Value(witnessKey{}).(*witness); ok && (err == nil || errors.Is(err, recordstore.ErrUnknown)) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stored = w.stored || slices.ContainsFunc(w.drafts, func(d []byte) bool { return bytes.HasSuffix(data, d) })
	}
	return v, err
}
