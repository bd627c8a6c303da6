//go:build fault

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"chatvault/vaultd/internal/faults/cutfs"
)

// powered is a disk and where it is mounted.
type powered struct {
	disk    *cutfs.Disk
	dir     string
	unmount func() error
}

func (p *powered) mount() (err error) {
	p.unmount, err = p.disk.Mount(p.dir)
	return err
}

// restore brings the power back, when nothing has files open there any more.
func (p *powered) restore(torn *rand.Rand) error {
	if err := p.unmount(); err != nil {
		return err
	}
	p.disk.Restore(torn)
	return p.mount()
}

// machine is a node with its disk: both lose power together.
type machine struct {
	*Child
	powered
}

// newMachine makes a store on a fresh disk and starts a node over it.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{powered: powered{disk: cutfs.New(), dir: t.TempDir()}}
	if err := m.mount(); err != nil {
		t.Fatal(err)
	}
	m.Child = NewChild(filepath.Join(m.powered.dir, "store"), sound)
	t.Cleanup(func() {
		m.disk.Cut()
		m.Kill()
		m.unmount()
	})
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

// cut cuts the power and brings it back; the node is not started.
func (m *machine) cut(torn *rand.Rand) error {
	m.disk.Cut()
	if err := m.Kill(); err != nil {
		return err
	}
	return m.restore(torn)
}

// powerCut loses what was not synced, or every other time half of its sectors.
func (m *machine) powerCut(rng *rand.Rand) Fault {
	if rng.IntN(2) == 0 {
		return m.cleanCut(rng)
	}
	torn := rand.New(rand.NewPCG(rng.Uint64(), 1)) // its use depends on the disk, the schedule must not
	return Fault{"torn power cut", func() error { return m.cut(torn) }, m.Start, [2]time.Duration{}}
}

func (m *machine) cleanCut(*rand.Rand) Fault {
	return Fault{"power cut", func() error { return m.cut(nil) }, m.Start, [2]time.Duration{}}
}

// slowSync has every sync take longer.
func (m *machine) slowSync(rng *rand.Rand) Fault {
	delay := time.Duration(rng.IntN(50)) * time.Millisecond
	return Fault{
		"slow fsync",
		func() error { m.disk.OnSync(func() error { time.Sleep(delay); return nil }); return nil },
		func() error { m.disk.OnSync(nil); return nil },
		[2]time.Duration{100 * time.Millisecond, 500 * time.Millisecond},
	}
}

// failedSync has syncs fail until the node ends itself, which it has to: what a
// failed commit left on the disk is in doubt. What was written stays readable, as
// in a page cache, or is lost.
func (m *machine) failedSync(rng *rand.Rand) Fault {
	lost := rng.IntN(2) == 0
	end := func() error {
		select {
		case <-m.running().process.Exited():
		case <-time.After(10 * time.Second):
			return errors.New("the node goes on after a failed sync")
		}
		m.disk.OnSync(nil)
		if lost {
			m.disk.Cut()
			m.disk.Restore(nil)
		}
		if err := m.unmount(); err != nil {
			return err
		}
		if err := m.mount(); err != nil {
			return err
		}
		return m.Start()
	}
	return Fault{"failed fsync", func() error { m.disk.OnSync(func() error { return errors.New("broken") }); return nil }, end, [2]time.Duration{}}
}

func (m *machine) trial(seed uint64, faults func(ctx context.Context) ([]string, error)) trial {
	load := Load{Seed: seed, Nodes: []Node{m}, Clock: NewClock(), Clients: 6, Accounts: 4, AccountOps: 200, Timeout: 2 * time.Second}
	return trial{store: "Pebble", members: 1, load: load, limit: recovery, faults: faults}
}

// cuts is in how many rounds the power is cut.
const cuts = 32

func TestPebbleKeepsEveryChargeWhenThePowerIsCut(t *testing.T) {
	for seed := range seedsOf(1, 8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newMachine(t)
			before := m.disk.Syncs()
			x := m.trial(seed, atRandom(seed, cuts, m.powerCut))
			x.prove(t)
			if n := m.disk.Syncs() - before; n < cuts {
				t.Errorf("%d syncs: the store is not on this disk", n)
			}
		})
	}
}

func TestPebbleUnderSlowAndFailingSyncs(t *testing.T) {
	for seed := range seedsOf(1, 8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newMachine(t)
			x := m.trial(seed, atRandom(seed, 9, m.slowSync, m.failedSync, m.powerCut))
			x.prove(t)
		})
	}
}

// A store that does not sync its log passes every kill -9. Here its lost charges
// have to be seen. (Torn, it does not open: Pebble takes it for damaged.)
func TestStoreWithoutFsyncIsCaught(t *testing.T) {
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newMachine(t)
			if err := m.cut(nil); err != nil { // not a mere kill: no node gets a mount that another left
				t.Fatal(err)
			}
			m.mode = skipSync
			if err := m.Start(); err != nil {
				t.Fatal(err)
			}
			x := m.trial(seed, atRandom(seed, 2, m.cleanCut))
			x.convict(t, false)
		})
	}
}
