//go:build fault

package faults

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"chatvault/vaultd/internal/faults/cutfs"
	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
)

// onDisks is a cluster, each member on a disk that can lose power. The
// disks have a journal: on disks that keep a name only when its own directory is
// synced, which POSIX allows, a cluster of etcd came up empty after such cuts.
type onDisks struct {
	*cluster
	disks []powered
}

func newOnDisks(t *testing.T, members int, args ...string) *onDisks {
	t.Helper()
	o := &onDisks{disks: make([]powered, members)}
	for i := range o.disks {
		o.disks[i] = powered{disk: cutfs.New(), dir: t.TempDir()}
		o.disks[i].disk.Journal = true
		if err := o.disks[i].mount(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { o.disks[i].unmount() })
	}
	o.cluster = newCluster(t, len(o.disks), etcdcluster.Options{Args: args, Dir: func(i int) string { return o.disks[i].dir }}, false)
	return o
}

// cut cuts the power of some members at the same time.
func (o *onDisks) cut(name string, rng *rand.Rand, which ...int) Fault {
	torn := make([]*rand.Rand, len(o.disks))
	for _, i := range which {
		if rng.IntN(2) == 0 {
			torn[i] = rand.New(rand.NewPCG(rng.Uint64(), 1))
		}
	}
	do := func() error {
		for _, i := range which {
			o.disks[i].disk.Cut()
		}
		for _, i := range which {
			if err := o.Members[i].Kill(); err != nil {
				return err
			}
			if err := o.disks[i].restore(torn[i]); err != nil {
				return err
			}
		}
		return nil
	}
	return Fault{name, do, o.start(which...), [2]time.Duration{0, 500 * time.Millisecond}}
}

func (o *onDisks) start(which ...int) func() error {
	return func() error {
		var failed []error
		for _, i := range which {
			failed = append(failed, o.Members[i].Start())
		}
		return errors.Join(failed...)
	}
}

func (o *onDisks) cutOne(rng *rand.Rand) Fault { return o.cut("power cut of one", rng, o.some(rng)) }
func (o *onDisks) cutAll(rng *rand.Rand) Fault {
	return o.cut("power cut of all", rng, upTo(len(o.disks))...)
}

// cutMajority leaves fewer members than it takes to answer.
func (o *onDisks) cutMajority(rng *rand.Rand) Fault {
	return o.cut("power cut of a majority", rng, rng.Perm(len(o.disks))[:len(o.disks)/2+1]...)
}

// slowSync has every sync of one member take longer, up to a good part of an
// election's time.
func (o *onDisks) slowSync(rng *rand.Rand) Fault {
	i, delay := o.some(rng), time.Duration(rng.IntN(400))*time.Millisecond
	return Fault{
		"slow fsync of one",
		func() error { o.disks[i].disk.OnSync(func() error { time.Sleep(delay); return nil }); return nil },
		func() error { o.disks[i].disk.OnSync(nil); return nil },
		[2]time.Duration{500 * time.Millisecond, 2 * time.Second},
	}
}

// failedSync has the syncs of one member fail; it is killed, if it did not end
// itself, and loses what it did not sync.
func (o *onDisks) failedSync(rng *rand.Rand) Fault {
	i := o.some(rng)
	end := o.cut("", rng, i)
	return Fault{
		"failed fsync of one",
		func() error {
			o.disks[i].disk.OnSync(func() error { return errors.New("broken") })
			return nil
		},
		func() error {
			if err := end.Do(); err != nil {
				return err
			}
			o.disks[i].disk.OnSync(nil)
			return end.Undo()
		},
		[2]time.Duration{100 * time.Millisecond, time.Second},
	}
}

func TestEtcdOnBadDisks(t *testing.T) {
	for _, members := range []int{3, 5} {
		for seed := range seedsOf(1, 5) {
			t.Run(fmt.Sprintf("%d/%d", members, seed), func(t *testing.T) {
				o := newOnDisks(t, members)
				x := o.trial(seed, inTurn(seed, o.cutAll, o.cutMajority, o.slowSync, o.cutAll, o.failedSync, o.cutMajority, o.cutOne, o.cutAll))
				x.prove(t)
			})
		}
	}
}

// An etcd that does not sync forgets what it acknowledged: charges are lost, or it
// finds out and never serves again. Either has to be seen.
func TestEtcdWithoutFsyncIsCaught(t *testing.T) {
	for seed := range seedsOf(2, 5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			o := newOnDisks(t, 3, "--unsafe-no-fsync")
			x := o.trial(seed, inTurn(seed, o.cutAll, o.cutAll))
			x.limit = 8 * time.Second
			x.convict(t, true)
		})
	}
}
