//go:build fault

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"chatvault/vaultd/internal/faults/cutfs"
	"chatvault/vaultd/internal/recordstore/engines/postgres"
)

// replicas are three PostgreSQL servers: a primary that acknowledges what one of its
// two standbys has (ANY 1), and those.
type replicas struct {
	servers []*postgres.Server
	primary int
	disks   []powered // of the servers, if they are on such
	clock   *Clock
	nodes   []Node
}

// followLimit is how long a server may take to do what it is told: a promotion, a
// change of settings.
const followLimit = 30 * time.Second

// anyOne is the setting that has a commit wait for one standby, whoever is primary.
const anyOne = "ANY 1 (n0, n1, n2)"

// newReplicas starts them, each with a disk that can lose power if disks is set.
// Commits wait for the named standbys.
func newReplicas(t *testing.T, disks, vaults bool, names string) *replicas {
	t.Helper()
	r := &replicas{clock: NewClock()}
	ctx, cancel := context.WithTimeout(t.Context(), 2*followLimit)
	defer cancel()
	for i := range 3 {
		name := fmt.Sprintf("n%d", i)
		// A standby asks its primary again after 5 s, usually.
		o := postgres.Options{Args: []string{"-c", "wal_keep_size=256MB", "-c", "wal_retrieve_retry_interval=100ms"}}
		if disks {
			o.Dir = r.addDisk(t)
		}
		var err error
		var s *postgres.Server
		if i == 0 {
			o.Args = append(o.Args, "-c", "cluster_name="+name)
			s, err = postgres.New(o)
		} else {
			s, err = r.servers[0].Standby(name, o)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		r.servers = append(r.servers, s)
	}
	for _, s := range r.servers { // on the standbys for the day on which they are primaries
		if err := s.Set(ctx, "synchronous_standby_names", names); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range r.disks {
		d.disk.SyncAll() // what initdb and the copies did not
	}
	r.nodes = pgNodes(t, r.clock, vaults, r.servers...)
	return r
}

func (r *replicas) addDisk(t *testing.T) (dir string) {
	t.Helper()
	uid, gid, err := postgres.User()
	if err != nil {
		t.Fatal(err)
	}
	p := powered{disk: cutfs.New(), dir: t.TempDir()}
	p.disk.Owner = [2]uint32{uid, gid}
	// The path to a disk is root's.
	if err := postgres.Reach(p.dir); err != nil {
		t.Fatal(err)
	}
	if err := p.mount(); err != nil {
		t.Fatal(err)
	}
	i := len(r.disks)
	t.Cleanup(func() { r.disks[i].unmount() })
	r.disks = append(r.disks, p)
	return p.dir
}

func (r *replicas) trial(seed uint64, faults func(ctx context.Context) ([]string, error)) trial {
	return trial{store: storeName("PostgreSQL with 2 standbys", r.nodes), members: len(r.servers),
		load: clients(seed, r.clock, r.nodes), limit: recovery, faults: faults}
}

func (r *replicas) standbys() (list []int) {
	for i := range r.servers {
		if i != r.primary {
			list = append(list, i)
		}
	}
	return list
}

// failOver makes the standby that has the most of the log the primary. The old one is
// fenced. Every standby that may have acknowledged anything is asked: with ANY 1, all.
func (r *replicas) failOver() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*followLimit)
	defer cancel()
	best, most := -1, int64(-1)
	for _, i := range r.standbys() {
		got, err := r.servers[i].Received(ctx)
		if err != nil {
			return err
		}
		if got > most {
			best, most = i, got
		}
	}
	if err := r.servers[best].Promote(ctx); err != nil {
		return err
	}
	fenced := r.primary
	r.primary = best
	for _, i := range r.standbys() {
		if i != fenced {
			if err := r.servers[i].Follow(ctx, r.servers[best]); err != nil {
				return err
			}
		}
	}
	return r.rejoin(fenced)
}

// rejoin makes a fenced server a standby, with an empty disk to begin with: what it
// has of the log that nobody else has must not come back.
func (r *replicas) rejoin(i int) error {
	d := &r.disks[i]
	if err := d.unmount(); err != nil {
		return err
	}
	owner := d.disk.Owner
	d.disk = cutfs.New()
	d.disk.Owner = owner
	if err := d.mount(); err != nil {
		return err
	}
	if err := r.servers[i].Copy(r.servers[r.primary]); err != nil {
		return err
	}
	d.disk.SyncAll()
	return r.servers[i].Start()
}

// failover kills the primary, and promotes as one has to.
func (r *replicas) failover(*rand.Rand) Fault {
	return Fault{"kill and failover", func() error { return r.servers[r.primary].Fence() }, r.failOver,
		[2]time.Duration{0, 200 * time.Millisecond}}
}

// laggingFailover does it while one standby lags behind.
func (r *replicas) laggingFailover(rng *rand.Rand) Fault {
	pause := r.pauseStandby(rng)
	return Fault{"failover while a standby lags", pause.Do, func() error {
		if err := r.servers[r.primary].Fence(); err != nil {
			return err
		}
		return errors.Join(pause.Undo(), r.failOver())
	}, [2]time.Duration{500 * time.Millisecond, time.Second}}
}

func (r *replicas) pauseStandby(rng *rand.Rand) Fault {
	list := r.standbys()
	s := r.servers[list[rng.IntN(len(list))]]
	return Fault{"SIGSTOP of a standby", s.Pause, s.Resume, [2]time.Duration{500 * time.Millisecond, 1500 * time.Millisecond}}
}

func (r *replicas) pauseStandbys(*rand.Rand) Fault {
	each := func(f func(*postgres.Server) error) func() error {
		return func() error {
			var failed []error
			for _, i := range r.standbys() {
				failed = append(failed, f(r.servers[i]))
			}
			return errors.Join(failed...)
		}
	}
	return Fault{"SIGSTOP of both standbys", each((*postgres.Server).Pause), each((*postgres.Server).Resume),
		[2]time.Duration{300 * time.Millisecond, 1200 * time.Millisecond}}
}

// restart kills the primary and starts it again: what no standby has must not show.
func (r *replicas) restart(*rand.Rand) Fault {
	s := r.servers[r.primary]
	return Fault{"kill -9 of the primary", s.Fence, s.Start, [2]time.Duration{0, 200 * time.Millisecond}}
}

// powerCut has the primary lose what it did not sync, or half of its sectors.
func (r *replicas) powerCut(rng *rand.Rand) Fault {
	i := r.primary
	var torn *rand.Rand
	if rng.IntN(2) == 0 {
		torn = rand.New(rand.NewPCG(rng.Uint64(), 1))
	}
	do := func() error {
		r.disks[i].disk.Cut()
		if err := r.servers[i].Fence(); err != nil {
			return err
		}
		return r.disks[i].restore(torn)
	}
	return Fault{"power cut of the primary", do, r.servers[i].Start, [2]time.Duration{0, 200 * time.Millisecond}}
}

// failedSync has the primary's syncs fail, until it loses power.
func (r *replicas) failedSync(rng *rand.Rand) Fault {
	i, cut := r.primary, r.powerCut(rng)
	return Fault{"failed fsync of the primary", func() error {
		r.disks[i].disk.OnSync(func() error { return errors.New("broken") })
		return nil
	}, func() error {
		if err := cut.Do(); err != nil {
			return err
		}
		r.disks[i].disk.OnSync(nil)
		return cut.Undo()
	}, [2]time.Duration{100 * time.Millisecond, 600 * time.Millisecond}}
}

func (r *replicas) slowSync(rng *rand.Rand) Fault {
	i, delay := r.primary, time.Duration(rng.IntN(200))*time.Millisecond
	return Fault{"slow fsync of the primary",
		func() error { r.disks[i].disk.OnSync(func() error { time.Sleep(delay); return nil }); return nil },
		func() error { r.disks[i].disk.OnSync(nil); return nil },
		[2]time.Duration{500 * time.Millisecond, 1500 * time.Millisecond}}
}

// The rules alone at the first seed, package vault at the second, and so on.
func TestPostgresWithStandbys(t *testing.T) {
	for seed := range seedsOf(2, 8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := newReplicas(t, true, seed%2 == 1, anyOne)
			x := r.trial(seed, inTurn(seed, r.failover, r.pauseStandby, r.slowSync, r.laggingFailover, r.powerCut, r.pauseStandbys, r.failedSync, r.restart))
			x.prove(t)
		})
	}
}

// promotion has standbys lag, and makes one of them the primary all the same.
func (r *replicas) promotion(name string, lagging ...int) Fault {
	each := func(f func(*postgres.Server) error) error {
		var failed []error
		for _, i := range lagging {
			failed = append(failed, f(r.servers[i]))
		}
		return errors.Join(failed...)
	}
	return Fault{name, func() error { return each((*postgres.Server).Fence) }, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*followLimit)
		defer cancel()
		if err := errors.Join(r.servers[0].Fence(), each((*postgres.Server).Start), r.servers[1].Promote(ctx)); err != nil {
			return err
		}
		return r.servers[2].Follow(ctx, r.servers[1])
	}, [2]time.Duration{time.Second, 1500 * time.Millisecond}}
}

// The standby that lags is promoted, as by hand and in haste: what only the other had
// acknowledged is lost. Or no standby had to acknowledge anything. Both have to be
// seen.
func TestWrongPromotionsAreCaught(t *testing.T) {
	for _, c := range []struct {
		name, names string
		lagging     []int
		seeds       uint64
	}{
		{"of the standby that lags", anyOne, []int{1}, 2},
		{"of an asynchronous standby", "", []int{1, 2}, 1},
	} {
		for seed := range seedsOf(c.seeds, 5) {
			t.Run(fmt.Sprintf("%s/%d", c.name, seed), func(t *testing.T) {
				r := newReplicas(t, false, seed%2 == 1, c.names)
				x := r.trial(seed, inTurn(seed, func(*rand.Rand) Fault { return r.promotion("promotion "+c.name, c.lagging...) }))
				// Who is ahead of its new primary may not be able to follow it.
				x.convict(t, true)
				if x.guilty == 0 {
					t.Error("only found out because nothing works any more")
				}
			})
		}
	}
}
