package vault_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/vault"
)

// TestARecordOpensOnlyWhereItWasSealed is A8 for single records: an operator puts
// back a copy from before the wrong passwords, or gives one account the record of
// another.
func TestARecordOpensOnlyWhereItWasSealed(t *testing.T) {
	w, p := setup(t)
	bob := w.phone("bob")
	want(t, "register", bob.register(vaultmsg.PurposeRegister, 0, "bob's"), frame.OK, 10)
	disk := w.store.Store
	at := func(sub string) recordstore.ID {
		id, err := vault.RecordID(w.hsm.Module, ticket.Account{Issuer: "app", Subject: sub})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	load := func(sub string) ([]byte, recordstore.Version) {
		b, v, err := disk.Load(t.Context(), at(sub))
		if err != nil || v == 0 {
			t.Fatal("no record of", sub, err)
		}
		return b, v
	}
	fresh, _ := load("anna")
	want(t, "a wrong password", p.recover("0000"), frame.WrongPassword, 9)
	spent, version := load("anna")
	others, _ := load("bob")
	flipped := bytes.Clone(spent)
	flipped[len(flipped)-1] ^= 1
	epoch := bytes.Clone(spent)
	epoch[4]++
	for name, put := range map[string][]byte{
		"the record before the guess": fresh, "another account's": others,
		"one with a bit flipped": flipped, "one of another epoch": epoch,
		"a short one": spent[:40], "one of another format": append([]byte{9}, spent[1:]...),
	} {
		if _, err := disk.Swap(t.Context(), at("anna"), version, put); err != nil {
			t.Fatal(err)
		}
		version++
		if r := p.try("1234").ke1(); r.Status != frame.Unavailable {
			t.Errorf("%s: KE1 got %s", name, r.Status)
		}
		if _, r := p.status(); r.Status != frame.Unavailable {
			t.Errorf("%s: status got %s", name, r.Status)
		}
		if _, err := w.vault.Sweep(t.Context()); err == nil {
			t.Errorf("%s: the sweep said nothing", name)
		}
	}
	want(t, "bob, beside it", bob.recover("bob's"), frame.OK, 10)
}

// swaps counts reads and durable writes.
type swaps struct {
	recordstore.Store
	n, loads, stales atomic.Int64

	// together: no Load and no Swap goes on before there is one of each.
	together atomic.Pointer[meeting]
}

type meeting struct{ load, swap chan struct{} }

func newMeeting() *meeting { return &meeting{make(chan struct{}), make(chan struct{})} }

// meet tells the other that we are here, and waits for it.
func meet(ctx context.Context, mine, other chan struct{}) error {
	close(mine)
	select {
	case <-other:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Second):
		return errors.New("the one waits for the other")
	}
}

func (s *swaps) LoadStale(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	s.stales.Add(1)
	return s.Store.LoadStale(ctx, id)
}

func (s *swaps) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	s.loads.Add(1)
	if m := s.together.Load(); m != nil {
		if err := meet(ctx, m.load, m.swap); err != nil {
			return nil, 0, err
		}
	}
	return s.Store.Load(ctx, id)
}

func (s *swaps) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	s.n.Add(1)
	if m := s.together.Load(); m != nil {
		if err := meet(ctx, m.swap, m.load); err != nil {
			return 0, err
		}
	}
	return s.Store.Swap(ctx, id, expect, data)
}

// TestEveryOutcomeWritesAndEvaluatesTheSame is A11 inside the vault: KE1 is one
// read that may be stale, one durable write and one evaluation, the verdict is one
// read and one write, whatever stands behind the account. A refusal is confirmed by
// a Load, which costs no time that could be measured: it goes on during the write.
func TestEveryOutcomeWritesAndEvaluatesTheSame(t *testing.T) {
	counting := &swaps{}
	w := newWorld(t, func(c *vault.Config) { counting.Store = c.Store; c.Store = counting })
	owner := w.phone("anna")
	owner.register(vaultmsg.PurposeRegister, 0, "1234")
	outcome := func(name, sub, password string, status frame.Status) {
		t.Helper()
		p := w.phone(sub)
		evaluations := 0
		w.hsm.before = func(op string) error {
			if op == "evaluate" {
				evaluations++
			}
			return nil
		}
		defer func() { w.hsm.before = nil }()
		counting.n.Store(0)
		counting.loads.Store(0)
		counting.stales.Store(0)
		confirmed := int64(0)
		if status != frame.OK && status != frame.WrongPassword {
			confirmed = 1
			counting.together.Store(newMeeting())
		}
		a := p.try(password)
		r := a.ke1()
		counting.together.Store(nil)
		n, loads, stales := counting.n.Load(), counting.loads.Load(), counting.stales.Load()
		if n != 1 || stales != 1 || loads != confirmed || evaluations != 1 {
			t.Errorf("%s: KE1 made %d reads, %d Loads beside its write, %d writes and %d evaluations, want 1, %d, 1 and 1",
				name, stales, loads, n, evaluations, confirmed)
		}
		counting.n.Store(0)
		counting.loads.Store(0)
		m, _ := a.ke3(r)
		r = p.send(m)
		n, loads, stales = counting.n.Load(), counting.loads.Load(), counting.stales.Load()
		if n != 1 || loads != 1 || stales != 1 || evaluations != 1 || r.Status != status {
			t.Errorf("%s: the verdict %s with %d reads, %d writes and %d evaluations in all, want %s with 1, 1 and 1", name, r.Status, loads, n, evaluations, status)
		}
	}
	// The first refusal of each shard looks for its decoy.
	w.phone("bob").recover("x")
	w.phone("anna").send(vaultmsg.Abort{})
	outcome("right", "anna", "1234", frame.OK)
	outcome("wrong", "anna", "0000", frame.WrongPassword)
	outcome("not registered", "bob", "1234", frame.NotRegistered)
	for range 9 {
		w.phone("anna").try("0000").ke1() // silence: they stay open
	}
	outcome("locked", "anna", "1234", frame.Locked)
	w.pass(24 * time.Hour)
	outcome("the touch that destroys", "anna", "1234", frame.Destroyed)
	outcome("destroyed", "anna", "1234", frame.Destroyed)
}

// TestNodesDoNotCollideOnDecoys: a refusal costs one write also where other nodes
// refuse the same account, and so have written its decoy since (A11).
func TestNodesDoNotCollideOnDecoys(t *testing.T) {
	counting := &swaps{}
	w := newWorld(t, func(c *vault.Config) { counting.Store = c.Store; c.Store = counting })
	nodes := []*world{w, w.beside(), w.beside()}
	const warm, rounds = 40, 20
	for round := range warm + rounds {
		if round == warm {
			counting.n.Store(0)
		}
		for _, node := range nodes {
			want(t, "refused", node.phone("nobody").try("x").ke1(), frame.NotRegistered, 0)
		}
	}
	if n := counting.n.Load(); n != rounds*int64(len(nodes)) {
		t.Errorf("%d refusals made %d writes", rounds*len(nodes), n)
	}
}
