package vault_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/vault"
)

const period = 5 * time.Minute

// scans notes which shards are swept, by when, and fails on demand.
type scans struct {
	recordstore.Store
	clock func() time.Time

	mu    sync.Mutex // guards all below
	swept [256]time.Time
	count int
	die   func() bool // asked at each Scan: is the node that makes it dead?
}

func (s *scans) Scan(ctx context.Context, after recordstore.ID, n int) ([]recordstore.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 1 && s.die != nil && s.die() {
		return nil, errors.New("killed")
	}
	ids, err := s.Store.Scan(ctx, after, n)
	shard := 0 // which begins after the zero id, any other after the last of the one before
	if after != (recordstore.ID{}) {
		shard = int(after[0]) + 1
	}
	if n > 1 && (after == (recordstore.ID{}) || after[15] == 0xff && after[1] == 0xff) {
		s.swept[shard] = s.clock()
		s.count++
	}
	return ids, err
}

// sweepingFleet is nodes on one store, whose scans are noted, with a record in each
// shard.
func sweepingFleet(t *testing.T, nodes int) (*world, []*world, *scans) {
	s := &scans{}
	w := newWorld(t, func(c *vault.Config) { s.Store, s.clock = c.Store, c.Now; c.Store = s })
	if err := vault.Populate(fleet, s.Store, w.hsm.Module); err != nil {
		t.Fatal(err)
	}
	all := []*world{w}
	for range nodes - 1 {
		all = append(all, w.beside())
	}
	return w, all, s
}

func sweepDue(t *testing.T, w *world) int {
	t.Helper()
	n, err := w.vault.SweepDue(t.Context(), period)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func passAll(nodes []*world, d time.Duration) {
	for _, n := range nodes {
		n.pass(d)
	}
}

// TestTheFleetSharesItsSweep: what one node has swept the others leave alone.
func TestTheFleetSharesItsSweep(t *testing.T) {
	w, nodes, s := sweepingFleet(t, 3)
	want(t, "register", w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
	for range 10 {
		w.phone("anna").try("0000").ke1()
	}
	if n := sweepDue(t, nodes[1]); n != 0 || s.count != 256 {
		t.Errorf("%d destroyed, %d shards swept, want 0 and 256", n, s.count)
	}
	passAll(nodes, 24*time.Hour)
	destroyed := 0
	for _, node := range nodes {
		destroyed += sweepDue(t, node)
	}
	if destroyed != 1 || s.count != 2*256 {
		t.Errorf("%d destroyed by %d sweeps of shards, want 1 by %d", destroyed, s.count, 2*256)
	}
	passAll(nodes, period/2-time.Second)
	sweepDue(t, nodes[2])
	if s.count != 2*256 {
		t.Errorf("swept again too soon: %d", s.count)
	}
	passAll(nodes, time.Second)
	var wg sync.WaitGroup
	for _, node := range nodes {
		wg.Go(func() { sweepDue(t, node) })
	}
	wg.Wait()
	if s.count != 3*256 {
		t.Errorf("three at a time made %d sweeps of shards, want %d", s.count-2*256, 256)
	}
}

// TestEveryShardIsSweptInTime: in every period the node that is at work dies in the
// middle of it, with all the shards that it is at, and does not come back before the
// next turn. No shard waits for longer than the period.
func TestEveryShardIsSweptInTime(t *testing.T) {
	const periods = 4
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			w, nodes, s := sweepingFleet(t, 3)
			sweepDue(t, w)
			left, deaths := 0, 0 // scans until somebody dies; the dead one scans no more in this turn
			s.die = func() bool {
				left--
				return left < 0
			}
			for turn := range periods * vault.SweepsPerPeriod {
				passAll(nodes, period/vault.SweepsPerPeriod)
				if turn%vault.SweepsPerPeriod == 0 {
					left = rng.IntN(256)
				}
				for _, node := range nodes {
					_, err := node.vault.SweepDue(t.Context(), period)
					if err != nil && !strings.Contains(err.Error(), "killed") {
						t.Fatal(err)
					}
					if err != nil {
						deaths++
						left = 1 << 30 // until the next period
					}
				}
				for shard, at := range s.swept {
					if late := w.clock().Sub(at); late > period {
						t.Fatalf("shard %d was swept %v ago", shard, late)
					}
				}
			}
			if deaths != periods {
				t.Errorf("%d deaths in %d periods", deaths, periods)
			}
		})
	}
}

// TestADeadNodesShardIsTakenOver when its lease is over, and not before.
func TestADeadNodesShardIsTakenOver(t *testing.T) {
	_, nodes, s := sweepingFleet(t, 2)
	s.die = func() bool { return true }
	if _, err := nodes[0].vault.SweepDue(t.Context(), period); err == nil || !strings.HasPrefix(err.Error(), "256 shards, the first of them shard ") {
		t.Errorf("a store that fails: %v", err)
	}
	s.die = nil
	if sweepDue(t, nodes[1]); s.count != 0 {
		t.Errorf("%d shards were taken from a node that may be at them", s.count)
	}
	passAll(nodes, period/8)
	if sweepDue(t, nodes[1]); s.count != 256 {
		t.Errorf("%d shards were taken over, want all", s.count)
	}
}

// TestAWrongClockStopsNoSweep: what a node whose clock is ahead by years has written
// does not keep the others from sweeping, and one that is behind sweeps too.
func TestAWrongClockStopsNoSweep(t *testing.T) {
	for _, ahead := range []time.Duration{10 * 365 * 24 * time.Hour, time.Hour, -time.Hour} {
		_, nodes, s := sweepingFleet(t, 2)
		nodes[1].pass(ahead)
		sweepDue(t, nodes[1])
		if sweepDue(t, nodes[0]); s.count != 2*256 {
			t.Errorf("ahead by %v: %d sweeps of shards, want %d", ahead, s.count, 2*256)
		}
	}
}

// TestADamagedShardIsSwept: a record of a sweep that does not open, or is none, keeps
// no key alive, and is complained of.
func TestADamagedShardIsSwept(t *testing.T) {
	w, nodes, s := sweepingFleet(t, 2)
	want(t, "register", w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
	for range 10 {
		w.phone("anna").try("0000").ke1()
	}
	sweepDue(t, w)
	if err := vault.DamageSweeps(fleet, s.Store, w.hsm.Module); err != nil {
		t.Fatal(err)
	}
	passAll(nodes, 24*time.Hour)
	s.count = 0
	if n, err := w.vault.SweepDue(t.Context(), period); n != 1 || err == nil || s.count != 256 {
		t.Errorf("%d destroyed in %d shards, %v; want 1 in 256, and an error", n, s.count, err)
	}
	if _, err := w.vault.SweepDue(t.Context(), period); err != nil || s.count != 256 {
		t.Errorf("at once again: %d sweeps of shards in all, %v", s.count, err)
	}
	passAll(nodes, period/2)
	if _, err := w.vault.SweepDue(t.Context(), period); err == nil || s.count != 2*256 {
		t.Errorf("when they are due: %d sweeps of shards in all, want %d; %v", s.count, 2*256, err)
	}
}

// TestASweepFindsAllRecords: whatever shard they are in, and however many pages a
// shard has.
func TestASweepFindsAllRecords(t *testing.T) {
	w := newWorld(t)
	const accounts = 12
	for n := range accounts {
		sub := fmt.Sprint("account ", n)
		want(t, "register", w.phone(sub).register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
		for range 10 {
			w.phone(sub).try("0000").ke1()
		}
	}
	w.pass(24 * time.Hour)
	if n := sweepDue(t, w); n != accounts {
		t.Errorf("%d destroyed, want %d", n, accounts)
	}
}

// TestEmptyShardsStayEmpty: a sweep writes to no shard that has no records.
func TestEmptyShardsStayEmpty(t *testing.T) {
	w := newWorld(t)
	want(t, "register", w.phone("anna").register(vaultmsg.PurposeRegister, 0, "1234"), frame.OK, 10)
	sweepDue(t, w)
	w.pass(period)
	sweepDue(t, w)
	ids, err := w.store.Scan(t.Context(), recordstore.ID{}, 100)
	if err != nil || len(ids) != 2 || ids[0][0] != ids[1][0] {
		t.Errorf("records %v, %v; want anna's, and one beside it in its shard", ids, err)
	}
}

// BenchmarkSweep is records swept in a second by one node.
func BenchmarkSweep(b *testing.B) {
	const records = 100_000
	store, module := vault.Filled(b, records)
	v, err := vault.New(b.Context(), vault.Config{Fleet: fleet, Store: store, HSM: module, Epoch: 1})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if n, err := v.Sweep(b.Context()); n != 0 || err != nil {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(records)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// TestASweepLeavesTheHSMToPeople: it asks for no more at a time than its sweepers.
func TestASweepLeavesTheHSMToPeople(t *testing.T) {
	for _, sweepers := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(c *vault.Config) { c.Sweepers = sweepers })
			if err := vault.Populate(fleet, w.store.Store, w.hsm.Module); err != nil {
				t.Fatal(err)
			}
			slow := &slowHSM{Module: w.hsm.Module}
			w.hsm.Module = slow
			if _, err := w.vault.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if most := slow.most.Load(); most != int64(sweepers) {
				t.Errorf("%d sweepers: %d operations of the HSM at a time", sweepers, most)
			}
		})
	}
}

// slowHSM takes a second to open a record, and notes how many it opens at a time.
type slowHSM struct {
	hsm.Module
	now, most atomic.Int64
}

func (h *slowHSM) Open(ctx context.Context, epoch uint32, aad, sealed []byte) ([]byte, error) {
	n := h.now.Add(1)
	defer h.now.Add(-1)
	for most := h.most.Load(); n > most && !h.most.CompareAndSwap(most, n); most = h.most.Load() {
	}
	time.Sleep(time.Second)
	return h.Module.Open(ctx, epoch, aad, sealed)
}
