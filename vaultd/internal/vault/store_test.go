package vault_test

import (
	"bytes"
	"context"
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
	n, loads atomic.Int64
}

func (s *swaps) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	s.loads.Add(1)
	return s.Store.Load(ctx, id)
}

func (s *swaps) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	s.n.Add(1)
	return s.Store.Swap(ctx, id, expect, data)
}

// TestEveryOutcomeWritesAndEvaluatesTheSame is A11 inside the vault: KE1 is one
// read, one durable write and one evaluation, the verdict is one read and one
// write, whatever stands behind the account.
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
		a := p.try(password)
		r := a.ke1()
		if n, loads := counting.n.Load(), counting.loads.Load(); n != 1 || loads != 1 || evaluations != 1 {
			t.Errorf("%s: KE1 made %d reads, %d writes and %d evaluations, want one of each", name, loads, n, evaluations)
		}
		m, _ := a.ke3(r)
		r = p.send(m)
		if n, loads := counting.n.Load(), counting.loads.Load(); n != 2 || loads != 2 || evaluations != 1 || r.Status != status {
			t.Errorf("%s: %s after %d reads, %d writes and %d evaluations, want %s after 2, 2 and 1", name, r.Status, loads, n, evaluations, status)
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
