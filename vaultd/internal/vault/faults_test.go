package vault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/vault"
)

var errDisk = errors.New("no space left on device")

// flow is something that a phone does, in as many steps as it takes.
type flow struct {
	name string
	run  func(p *phone)
}

func flows() []flow {
	return []flow{
		{"register over nothing", func(p *phone) { p.w.phone("fresh").register(vaultmsg.PurposeRegister, 0, "x") }},
		{"recover, right", func(p *phone) { p.recover("1234") }},
		{"recover, wrong", func(p *phone) { p.recover("0000") }},
		{"tenth wrong", func(p *phone) {
			for range 10 {
				p.recover("0000")
			}
		}},
		{"change", func(p *phone) {
			p.recover("1234")
			p.register(vaultmsg.PurposeChange, 1, "1234")
		}},
		{"claim and cancel", func(p *phone) {
			if c, ok := p.send(vaultmsg.Claim{What: vaultmsg.ClaimReplace, Generation: 1}).Body.(vaultmsg.Claimed); ok {
				p.send(vaultmsg.Cancel{ID: c.ID})
			}
		}},
		{"delete", func(p *phone) {
			p.recover("1234")
			p.send(vaultmsg.Delete{Generation: 1})
		}},
	}
}

// setup is a world with anna's password 1234 registered, and a new phone of hers.
func setup(t *testing.T) (*world, *phone) {
	w := newWorld(t)
	want(t, "register", w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
	return w, w.phone("anna")
}

// checkPromises holds a world, after something failed in it and then worked
// again, against both promises.
func checkPromises(t *testing.T, w *world) {
	t.Helper()
	p := w.phone("anna")
	s, r := p.status()
	if r.Status != frame.OK {
		t.Fatalf("status: %s", r.Status)
	}
	if n := w.hsm.uncharged; n != 0 {
		t.Errorf("%d elements were evaluated whose charge was not stored", n)
	}
	switch s.State {
	case vaultmsg.StateLive:
		if r.Left > 0 {
			want(t, "the right password", p.recover("1234"), frame.OK, 10)
		}
	case vaultmsg.StateDestroyed:
		want(t, "after the tombstone", p.recover("1234"), frame.Destroyed, 0)
	}
}

func TestEveryStoreCallFailsInEveryWay(t *testing.T) {
	kinds := map[string]recordstore.Fault{"not done": recordstore.NotDone, "done": recordstore.Done, "unknown": recordstore.NotDoneUnknown}
	for _, f := range flows() {
		w, p := setup(t)
		w.store.Reset()
		f.run(p)
		steps := w.store.Calls()
		if steps < 4 {
			t.Fatalf("%s: only %d store calls: it did not do its work", f.name, steps)
		}
		for step := 1; step <= steps; step++ {
			for kind, fault := range kinds {
				t.Run(fmt.Sprintf("%s/%d %s", f.name, step, kind), func(t *testing.T) {
					w, p := setup(t)
					w.store.Reset()
					w.store.FailAt(step, fault)
					f.run(p)
					w.store.Reset()
					checkPromises(t, w)
				})
			}
		}
	}
}

func TestEveryHSMCallFails(t *testing.T) {
	for _, f := range flows() {
		w, p := setup(t)
		steps := 0
		w.hsm.before = func(string) error { steps++; return nil }
		f.run(p)
		total := steps
		for step := 1; step <= total; step++ {
			t.Run(fmt.Sprintf("%s/%d", f.name, step), func(t *testing.T) {
				w, p := setup(t)
				n := 0
				w.hsm.before = func(string) error {
					if n++; n == step {
						return errDisk
					}
					return nil
				}
				f.run(p)
				w.hsm.before = nil
				checkPromises(t, w)
			})
		}
	}
}

// The store fails and stays failed: the charge stands or nothing was evaluated,
// never anything between.
func TestNothingIsEvaluatedThatCannotBeCharged(t *testing.T) {
	w, p := setup(t)
	for range 3 {
		w.store.Reset()
		for n := 1; n < 100; n++ {
			w.store.FailAt(n, recordstore.NotDone)
		}
		r := p.try("0000").ke1()
		if r.Status != frame.Unavailable || r.Charged {
			t.Errorf("KE1 on a dead store: %+v", r)
		}
	}
	if n := w.hsm.evaluations(); n != 0 {
		t.Errorf("%d elements were evaluated without a charge", n)
	}
	w.store.Reset()
	want(t, "when the store is back", p.recover("1234"), frame.OK, 10)
}

// TestKE3ComesAgainAfterAFailure: a failure to store the restore consumes nothing.
func TestKE3ComesAgainAfterAFailure(t *testing.T) {
	for _, fault := range []recordstore.Fault{recordstore.NotDone, recordstore.Done, recordstore.NotDoneUnknown} {
		w, p := setup(t)
		a := p.try("1234")
		m, _ := a.ke3(a.ke1())
		w.store.Reset()
		w.store.FailAt(2, fault) // load, then swap
		if r := p.send(m); r.Status != frame.Unavailable || !r.Charged {
			t.Fatalf("the first KE3: %+v", r)
		}
		other := m.(vaultmsg.RecoverFinish)
		other.KE3[0] ^= 1
		if r := p.send(other); r.Status == frame.OK {
			t.Fatal("another KE3 was taken in place of the verified one")
		}
		want(t, "the same KE3 again", p.send(m), frame.OK, 10)
	}
}

// TestASweepWithoutHSMSaysLittle: with the HSM gone every record fails, and one log
// line has to tell of all of them.
func TestASweepWithoutHSMSaysLittle(t *testing.T) {
	w := newWorld(t)
	for _, sub := range []string{"anna", "bob", "carol"} {
		want(t, "register", w.phone(sub).register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
	}
	down := errors.New("no token")
	w.hsm.before = func(string) error { return down }
	n, err := w.vault.Sweep(t.Context())
	if n != 0 || !errors.Is(err, down) || !strings.HasPrefix(err.Error(), "3 records, ") {
		t.Errorf("%d destroyed, %v", n, err)
	}
	if said := strings.Count(err.Error(), down.Error()); said != 1 {
		t.Errorf("the failure is told %d times: %v", said, err)
	}
}

// TestAnAbortComesAgain: a store that fails consumes nothing, so that the phone can
// tell its verdict again in the same session, and the entry does not stay open.
func TestAnAbortComesAgain(t *testing.T) {
	w, p := setup(t)
	if r := p.try("0000").ke1(); r.Status != frame.OK {
		t.Fatal(r.Status)
	}
	w.hsm.before = func(string) error { return errDisk }
	if r := p.send(vaultmsg.Abort{}); r.Status != frame.Unavailable || !r.Charged {
		t.Errorf("with the HSM gone: %+v", r)
	}
	w.hsm.before = nil
	want(t, "again", p.send(vaultmsg.Abort{}), frame.WrongPassword, 9)
	if r := p.send(vaultmsg.Abort{}); r.Status != frame.NoAttempt {
		t.Errorf("a third time: %s", r.Status)
	}
}

// TestAChargeInDoubtIsToldAsOne: a swap that may still land is never denied.
func TestAChargeInDoubtIsToldAsOne(t *testing.T) {
	for fault, charged := range map[recordstore.Fault]bool{
		recordstore.NotDone: false, recordstore.Done: true, recordstore.NotDoneUnknown: true,
	} {
		w, p := setup(t)
		w.store.Reset()
		w.store.FailAt(2, fault) // load, then swap
		if r := p.try("0000").ke1(); r.Status != frame.Unavailable || r.Charged != charged {
			t.Errorf("fault %d: %s, charged %v; want charged %v", fault, r.Status, r.Charged, charged)
		}
	}
}

// stuckStore hangs in its next Load until it is let go, whatever its context says.
type stuckStore struct {
	recordstore.Store
	armed   atomic.Bool
	hangs   chan struct{}
	letItGo chan struct{}
}

func (s *stuckStore) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	if s.armed.CompareAndSwap(true, false) {
		close(s.hangs)
		<-s.letItGo
	}
	return s.Store.Load(ctx, id)
}

// TestNobodyWaitsForAStuckStoreForEver: one operation hangs in the store; those that
// wait behind it for the same record end with their time, uncharged.
func TestNobodyWaitsForAStuckStoreForEver(t *testing.T) {
	stuck := &stuckStore{hangs: make(chan struct{}), letItGo: make(chan struct{})}
	w := newWorld(t, func(c *vault.Config) { stuck.Store = c.Store; c.Store = stuck })
	want(t, "register", w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
	first, second := w.phone("anna"), w.phone("anna")
	stuck.armed.Store(true)
	hung := make(chan vaultmsg.Reply)
	go func() {
		_, r := first.status()
		hung <- r
	}()
	<-stuck.hangs
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	second.ctx = ctx
	if r := second.try("0000").ke1(); r.Status != frame.Unavailable || r.Charged {
		t.Errorf("behind it: %s, charged %v", r.Status, r.Charged)
	}
	if _, r := second.status(); r.Status != frame.Unavailable {
		t.Errorf("status behind it: %s", r.Status)
	}
	close(stuck.letItGo)
	want(t, "the one that hung", <-hung, frame.OK, 10)
	second.ctx = nil
	want(t, "when the store is back", second.recover("1234"), frame.OK, 10)
}

// TestAPanicEndsItsOwnSession: also that of a write beside the request, which the
// caller of Handle could not catch.
func TestAPanicEndsItsOwnSession(t *testing.T) {
	w := newWorld(t)
	w.hsm.before = func(op string) error {
		if op == "seal" {
			panic("a defect")
		}
		return nil
	}
	defer func() {
		if r := recover(); r != "a defect" {
			t.Errorf("got %v", r)
		}
	}()
	t.Error("an answer", w.phone("nobody").try("x").ke1())
}
