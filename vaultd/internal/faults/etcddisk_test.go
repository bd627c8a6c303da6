//go:build fault

package faults

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"chatvault/vaultd/internal/faults/cutfs"
	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
)

// onDisks is a cluster of three, each member on a disk that can lose power. The
// disks have a journal: on disks that keep a name only when its own directory is
// synced, which POSIX allows, a cluster of etcd came up empty after such cuts.
type onDisks struct {
	*cluster
	disks [3]powered
}

func newOnDisks(t *testing.T, args ...string) *onDisks {
	t.Helper()
	o := &onDisks{}
	for i := range o.disks {
		o.disks[i] = powered{disk: cutfs.New(), dir: t.TempDir()}
		o.disks[i].disk.Journal = true
		if err := o.disks[i].mount(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { o.disks[i].unmount() })
	}
	o.cluster = newCluster(t, len(o.disks), etcdcluster.Options{Args: args, Dir: func(i int) string { return o.disks[i].dir }})
	return o
}

// cut cuts the power of some members at the same time.
func (o *onDisks) cut(name string, rng *rand.Rand, which ...int) Fault {
	var torn [3]*rand.Rand
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
func (o *onDisks) cutAll(rng *rand.Rand) Fault { return o.cut("power cut of all", rng, 0, 1, 2) }

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
	o := newOnDisks(t)
	h := under(t, o.load(1), recovery, func(ctx context.Context) ([]string, error) {
		var told []string
		for seed, f := range []func(*rand.Rand) Fault{o.cutAll, o.cutOne, o.slowSync, o.cutAll, o.failedSync, o.cutAll, o.slowSync, o.cutOne, o.cutAll, o.failedSync, o.cutAll} {
			more, err := Schedule(ctx, uint64(seed), 1, f)
			told = append(told, more...)
			if err != nil {
				return told, err
			}
		}
		return told, nil
	})
	mustBeLinearizable(t, h)
}

// An etcd that does not sync forgets what it acknowledged: charges are lost, or it
// finds out and never serves again. Either has to be seen.
func TestEtcdWithoutFsyncIsCaught(t *testing.T) {
	o := newOnDisks(t, "--unsafe-no-fsync")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	h := NewHistory()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		o.load(1).Run(ctx, h)
	}()
	_, broken := Schedule(ctx, 1, 2, o.cutAll)
	if broken == nil {
		broken = Alive(ctx, 10*time.Second, o.nodes...)
	}
	cancel()
	<-ended
	guilty, _ := h.Check()
	if broken == nil && guilty == 0 {
		t.Fatalf("not caught in %s", h)
	}
	t.Logf("%s: lost on %d accounts; %v", h, guilty, broken)
}
