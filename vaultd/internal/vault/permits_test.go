package vault_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/hsm/memhsm"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/memstore"
	"chatvault/vaultd/internal/vault"
)

// TestCapsOfTheFleet: a corrupted relay with many tickets burns attempts and keys no
// faster than the caps allow, through however many nodes, and what they stop is
// uncharged.
func TestCapsOfTheFleet(t *testing.T) {
	w := newWorld(t, func(c *vault.Config) { c.MaxCharges, c.MaxLocks = 21, 1 })
	for _, sub := range []string{"anna", "bob", "carl"} {
		w.phone(sub).register(vaultmsg.PurposeRegister, 0, "1234")
	}
	nodes := []*world{w, w.beside()}
	guess := func(sub string, n int) vaultmsg.Reply {
		for i := range n - 1 {
			nodes[i%2].phone(sub).recover("0000")
		}
		return w.phone(sub).recover("0000") // the node that leased the only last charge
	}
	want(t, "anna's tenth", guess("anna", 10), frame.Destroyed, 0)
	want(t, "bob's ninth", guess("bob", 9), frame.WrongPassword, 1)
	for _, node := range nodes {
		r := node.phone("bob").try("0000").ke1()
		if r.Status != frame.Paced || r.Charged || r.Left != 1 || r.Until != uint64(w.clock().Unix())+3600 {
			t.Fatalf("bob's tenth, beyond the cap on last attempts: %+v", r)
		}
	}
	for i, node := range nodes {
		want(t, "carl's first and second", node.phone("carl").recover("0000"), frame.WrongPassword, 9-i)
	}
	for _, node := range nodes {
		if r := node.phone("carl").try("0000").ke1(); r.Status != frame.Paced || r.Charged || r.Left != 8 {
			t.Fatalf("carl's third, beyond the cap on charges: %+v", r)
		}
		node.pass(time.Hour)
	}
	want(t, "an hour later, the right password", nodes[1].phone("bob").recover("1234"), frame.OK, 10)
}

// TestWhatIsOpenNeedsNoPermit: caps are on charges. An attempt that goes on costs
// none, nor does its verdict.
func TestWhatIsOpenNeedsNoPermit(t *testing.T) {
	w := newWorld(t, func(c *vault.Config) { c.MaxCharges = 1 })
	w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
	p := w.phone("anna")
	a := p.try("1234")
	want(t, "the only permit", a.ke1(), frame.OK, 9)
	p.session()
	m, _ := a.ke3(a.ke1())
	want(t, "it goes on", p.send(m), frame.OK, 10)
	want(t, "another", p.recover("1234"), frame.Paced, 0)
}

// TestNoPermitNoCharge: when a lease cannot be had, nothing is charged and nothing
// is evaluated; what needs none goes on.
func TestNoPermitNoCharge(t *testing.T) {
	for _, fault := range []recordstore.Fault{recordstore.NotDone, recordstore.Done, recordstore.NotDoneUnknown} {
		w := newWorld(t, func(c *vault.Config) { c.MaxCharges = 6400 })
		w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
		p := w.phone("anna")
		w.store.Reset()
		w.store.FailAt(2, fault) // of the lease: load, then swap
		r := p.try("0000").ke1()
		if r.Status != frame.Unavailable || r.Charged || r.Left != 10 || w.hsm.evaluations() != 0 {
			t.Errorf("fault %d: %+v, %d evaluations", fault, r, w.hsm.evaluations())
		}
		w.store.Reset()
		want(t, "when the store is back", p.recover("1234"), frame.OK, 10)
	}
}

// TestABlockIsPaidForWhateverTheOutcome is A11: the attempt that finds the block used
// up leases another, and nobody can see from that what will become of it.
func TestABlockIsPaidForWhateverTheOutcome(t *testing.T) {
	counting := &swaps{}
	w := newWorld(t, func(c *vault.Config) {
		c.MaxCharges = 64 // a block is one permit
		counting.Store = c.Store
		c.Store = counting
	})
	for _, sub := range []string{"anna", "locked"} {
		w.phone(sub).register(vaultmsg.PurposeRegister, 0, "1234")
	}
	w.phone("carl").register(vaultmsg.PurposeRegister, 0, "1234")
	for range 10 {
		w.phone("locked").try("0000").ke1()
	}
	for _, c := range []struct {
		sub, password string
		status        frame.Status
	}{{"anna", "1234", frame.OK}, {"anna", "0000", frame.OK}, {"locked", "1234", frame.Locked}, {"nobody", "1234", frame.NotRegistered}} {
		p := w.phone(c.sub)
		p.try("x").ke1() // a refusal's decoy is known from now on
		w.phone("carl").recover("1234")
		counting.n.Store(0)
		counting.loads.Store(0)
		counting.stales.Store(0)
		r := p.try(c.password).ke1()
		confirmed := int64(0) // beside the write of the decoy
		if c.status != frame.OK {
			confirmed = 1
		}
		// One of each for the block, one of each for the attempt or its decoy.
		n, loads, stales := counting.n.Load(), counting.loads.Load(), counting.stales.Load()
		if n != 2 || loads != 1+confirmed || stales != 1 || r.Status != c.status {
			t.Errorf("%s: %s after %d Loads, %d stale reads and %d writes, want %d, 1 and 2", c.sub, r.Status, loads, stales, n, 1+confirmed)
		}
	}
}

// fleetOf makes nodes on one store, each with a clock that is off by so much.
func fleetOf(t *testing.T, store recordstore.Store, now *atomic.Int64, max int, off ...time.Duration) (nodes []vault.Node) {
	t.Helper()
	module, err := memhsm.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range off {
		nodes = append(nodes, vault.NewNode(store, module, func() time.Time { return time.Unix(now.Load(), 0).Add(d) }, max))
	}
	return nodes
}

// drain charges on a node until it is refused.
func drain(t *testing.T, n vault.Node) (charged int) {
	t.Helper()
	for {
		ok, _, err := n.Charge(t.Context())
		if err != nil {
			t.Error(err)
		}
		if !ok {
			return charged
		}
		charged++
	}
}

// TestNodesRaceForPermits: however they collide, the fleet charges what it may in an
// hour: no more, and no less either.
func TestNodesRaceForPermits(t *testing.T) {
	const max = 1000
	var now atomic.Int64
	now.Store(1_800_000_000)
	nodes := fleetOf(t, memstore.New(), &now, max, 0, 0, 0)
	for range 3 {
		var charged atomic.Int64
		var wg sync.WaitGroup
		for _, n := range nodes {
			for range 8 {
				wg.Go(func() { charged.Add(int64(drain(t, n))) })
			}
		}
		wg.Wait()
		if charged.Load() != max {
			t.Errorf("%d charges in an hour, want %d", charged.Load(), max)
		}
		now.Add(3600)
	}
}

// TestADeadNodeTakesItsBlockOnly with it.
func TestADeadNodeTakesItsBlockOnly(t *testing.T) {
	const max, block = 640, 10
	var now atomic.Int64
	now.Store(1_800_000_000)
	nodes := fleetOf(t, memstore.New(), &now, max, 0, 0)
	if ok, _, err := nodes[0].Charge(t.Context()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if n := drain(t, nodes[1]); n != max-block {
		t.Errorf("the other node charged %d, want %d", n, max-block)
	}
}

// TestClocksThatDisagree: the fastest clock's hours count, for all nodes; so a node
// that runs ahead or behind gives the fleet no more than the hours that passed, and
// those it is off by.
func TestClocksThatDisagree(t *testing.T) {
	const max, hours = 100, 6
	var now atomic.Int64
	now.Store(1_800_000_000)
	nodes := fleetOf(t, memstore.New(), &now, max, 0, 90*time.Minute, -45*time.Minute)
	charged := 0
	for range hours * 12 {
		for _, n := range nodes {
			charged += drain(t, n)
		}
		now.Add(5 * 60)
	}
	if least, most := hours*max, (hours+3)*max; charged < least || charged > most {
		t.Errorf("%d charges in %d hours, want %d to %d", charged, hours, least, most)
	}
}

// TestPermitsOfAStoreThatFails: none are made up.
func TestPermitsOfAStoreThatFails(t *testing.T) {
	var now atomic.Int64
	now.Store(1_800_000_000)
	faulty := recordstore.NewFaulty(memstore.New())
	n := fleetOf(t, faulty, &now, 64, 0)[0]
	for _, fault := range []recordstore.Fault{recordstore.NotDone, recordstore.Done, recordstore.NotDoneUnknown} {
		faulty.Reset()
		faulty.FailAt(2, fault)
		if ok, _, err := n.Charge(t.Context()); ok || err == nil {
			t.Errorf("fault %d: %v, %v", fault, ok, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	faulty.Reset()
	faulty.FailAt(1, recordstore.NotDone)
	if ok, _, err := n.Charge(ctx); ok || err == nil {
		t.Errorf("without time: %v, %v", ok, err)
	}
	faulty.Reset()
	// One of the failed swaps was stored: its permit is lost, not used twice.
	if charged := drain(t, n); charged != 63 {
		t.Errorf("%d charges after one block was lost, want 63", charged)
	}
}

// TestOneLeaseForAllWhoWait: who waits for a lease of its node makes none, and reads
// nothing.
func TestOneLeaseForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Int64
		now.Store(1_800_000_000)
		counting := &swaps{Store: slow{memstore.New()}}
		n := fleetOf(t, counting, &now, 6400, 0)[0]
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if ok, _, err := n.Charge(t.Context()); !ok || err != nil {
					t.Error(ok, err)
				}
			})
		}
		wg.Wait()
		if loads, swaps := counting.loads.Load(), counting.n.Load(); loads != 1 || swaps != 1 {
			t.Errorf("%d reads and %d writes for one block, want 1 and 1", loads, swaps)
		}
	})
}

// slow is a store whose reads take a second.
type slow struct{ recordstore.Store }

func (s slow) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	time.Sleep(time.Second)
	return s.Store.Load(ctx, id)
}

// TestOneAccountTakesItsShareOnly: nine wrong passwords and the right one, again and
// again, would take a last attempt of the fleet's each time, from all others.
func TestOneAccountTakesItsShareOnly(t *testing.T) {
	const share = 25
	w := newWorld(t, func(c *vault.Config) { c.MaxCharges, c.MaxLocks, c.MaxAccountCharges = 6400, 128, share })
	for _, sub := range []string{"anna", "bob"} {
		w.phone(sub).register(vaultmsg.PurposeRegister, 0, "1234")
	}
	charge := func(sub string) (charged int) {
		for n := 1; ; n++ {
			password := "0000"
			if n%10 == 0 {
				password = "1234"
			}
			if r := w.phone(sub).recover(password); r.Status == frame.Paced {
				return charged
			}
			charged++
		}
	}
	if n := charge("anna"); n != share {
		t.Fatalf("anna was charged %d times, want %d", n, share)
	}
	r := w.phone("anna").try("1234").ke1()
	if r.Status != frame.Paced || r.Charged || r.Left != 5 || r.Until <= uint64(w.clock().Unix()) || r.Until > uint64(w.clock().Unix())+3600 {
		t.Errorf("beyond her share: %+v", r)
	}
	want(t, "bob goes on", w.phone("bob").recover("1234"), frame.OK, 10)

	// An attempt that is open goes on, charge or no charge.
	for range share - 2 {
		want(t, "bob", w.phone("bob").recover("1234"), frame.OK, 10)
	}
	p := w.phone("bob")
	a := p.try("1234")
	want(t, "the last of his share", a.ke1(), frame.OK, 9)
	p.session()
	m, _ := a.ke3(a.ke1())
	want(t, "it goes on", p.send(m), frame.OK, 10)
	want(t, "another", p.recover("1234"), frame.Paced, 0)

	w.pass(time.Hour)
	want(t, "anna in the next hour", w.phone("anna").recover("1234"), frame.OK, 10)
}

// TestShareOfWhatCameToNothing: neither a lost swap nor a refusal by the fleet's cap
// counts.
func TestShareOfWhatCameToNothing(t *testing.T) {
	var busy colliding
	w := newWorld(t, func(c *vault.Config) {
		busy.Store = c.Store
		c.Store, c.MaxLocks, c.MaxAccountCharges = &busy, 1, 10
	})
	for _, sub := range []string{"anna", "bob"} {
		w.phone(sub).register(vaultmsg.PurposeRegister, 0, "1234")
	}
	for range 10 {
		w.phone("anna").recover("0000") // takes the only last attempt of the hour
	}
	busy.on.Store(true)
	for i := range 9 {
		want(t, "bob", w.phone("bob").recover("0000"), frame.WrongPassword, 9-i)
	}
	for range 20 {
		want(t, "bob's tenth", w.phone("bob").try("0000").ke1(), frame.Paced, 1)
	}
	if n, err := w.vault.Shared(ticket.Account{Issuer: "app", Subject: "bob"}); n != 9 || err != nil {
		t.Errorf("of bob's share are taken %d, want 9; %v", n, err)
	}
}

// colliding is a store of which each other swap loses, once that is on.
type colliding struct {
	recordstore.Store
	on atomic.Bool
	n  atomic.Int64
}

func (s *colliding) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	if s.on.Load() && s.n.Add(1)%2 == 1 {
		return 0, recordstore.ErrConflict
	}
	return s.Store.Swap(ctx, id, expect, data)
}

// TestSharesAreBounded in memory, and nobody is refused for that.
func TestSharesAreBounded(t *testing.T) {
	if kept, refused := vault.FillShares(vault.MaxShares + 1000); kept != vault.MaxShares || refused != 0 {
		t.Errorf("%d accounts kept and %d refused, want %d and 0", kept, refused, vault.MaxShares)
	}
}

// TestADamagedPermitRecordIsNamed: only its id tells whoever has to mend it where it
// is.
func TestADamagedPermitRecordIsNamed(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, func(c *vault.Config) {
		c.MaxCharges, c.Logger = 6400, slog.New(slog.NewTextHandler(&log, nil))
	})
	w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234")
	id, err := vault.DamagePermits(w.store, w.hsm.Module)
	if err != nil {
		t.Fatal(err)
	}
	r := w.phone("anna").try("1234").ke1()
	if r.Status != frame.Unavailable || r.Charged {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(log.String(), "lease permits: record "+id.String()+": stored record does not open") {
		t.Errorf("the record %s is not named:\n%s", id, &log)
	}
}
