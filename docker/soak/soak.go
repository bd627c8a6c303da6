//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// plan is how long and how much is soaked.
type plan struct {
	length  time.Duration // of the load, with its faults
	round   time.Duration // of load between two measurements of growth
	warmUp  time.Duration // before the first, without faults
	rate    float64       // things that people do, a second
	people  int           // at a time
	holders int           // connections that are only held
	seed    uint64
}

// calm is the end of a round: load without faults, in which all come back.
const calm = 5 * time.Second

// doomed is one in how many accounts whose key is destroyed on purpose, and
// moves one in how many deeds after which somebody new takes a person's place.
const (
	doomed = 8
	moves  = 12
)

// soak is one run.
type soak struct {
	*site
	plan
	rec *record
	say func(string, ...any)

	mu     sync.Mutex
	sub    int
	gone   []*person // whose story is held against the vault at the end
	faults int
}

// run soaks for the whole time. Every defect is in the record; an error means
// that it could not go on.
func (k *soak) run(ctx context.Context) error {
	rnd := rand.New(rand.NewPCG(k.seed, 1))
	k.say("warm-up of %v, without faults", k.warmUp)
	if err := k.load(ctx, k.warmUp, nil, rnd); err != nil {
		return err
	}
	base, err := k.settled(ctx)
	if err != nil {
		return err
	}
	for i, all := range base {
		k.say("%s settled: %v", names[i], all)
	}
	first := base
	rounds := max(1, int(k.length/k.round))
	for n := range rounds {
		k.say("round %d of %d", n+1, rounds)
		if err := k.load(ctx, k.round, k.site.faults(n%2), rnd); err != nil {
			return err
		}
		done, retries, defects := k.rec.total()
		k.say("%d operations so far, %d tries interrupted, %d defects; everybody leaves", done, retries, defects)
		now, err := k.settled(ctx)
		if err != nil {
			return err
		}
		k.compare(first, now)
		for i := range now {
			if first[i].pid != now[i].pid {
				first[i] = now[i] // a new process: its own baseline
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	_, retries, _ := k.rec.total()
	if err := vain(k.faults, retries); err != nil {
		k.rec.defect(err)
	}
	return k.ledgers(ctx)
}

// manyFaults are so many that they must have interrupted somebody.
const manyFaults = 30

// vain says that the faults met nobody: then nothing was shown about attempts
// whose verdict is lost.
func vain(faults, interrupted int) error {
	if faults >= manyFaults && interrupted == 0 {
		return fmt.Errorf("%d faults interrupted nobody: nothing was shown", faults)
	}
	return nil
}

// compare holds the processes that lived on against their baselines.
func (k *soak) compare(first, now [4]state) {
	for i := range now {
		k.say("%s settled: %v", names[i], now[i])
		if n := now[i].sessions; n > 0 {
			k.rec.defect(fmt.Errorf("%s: %d sessions are stuck", names[i], n))
		}
		if n := now[i].connections; n > 0 {
			k.rec.defect(fmt.Errorf("%s: %d connections of clients that have left", names[i], n))
		}
		if first[i].pid == now[i].pid {
			for _, err := range grown(names[i], first[i], now[i]) {
				k.rec.defect(err)
			}
		}
	}
}

// load has people do things, at the rate, for a while; with faults all but the
// end of it. When it returns nobody is connected.
func (k *soak) load(ctx context.Context, d time.Duration, faults []fault, rnd *rand.Rand) error {
	stop, calmed := make(chan struct{}), make(chan struct{})
	var all errgroup.Group
	if faults != nil {
		weather := rand.New(rand.NewPCG(rnd.Uint64(), 2))
		all.Go(func() error {
			n, err := wreck(ctx, faults, brisk, weather, calmed, k.say)
			k.mu.Lock()
			k.faults += n
			k.mu.Unlock()
			return err
		})
	}
	pace := make(chan struct{})
	for range k.people {
		own := rand.New(rand.NewPCG(rnd.Uint64(), 3))
		all.Go(func() error {
			k.live(ctx, pace, own)
			return nil
		})
	}
	holding, release := context.WithCancel(ctx)
	defer release()
	for range k.holders {
		all.Go(func() error { return k.hold(holding) })
	}
	all.Go(func() error {
		defer close(pace)
		k.beat(ctx, pace, stop)
		return nil
	})
	all.Go(func() error {
		waits(ctx, nil, d-calm)
		close(calmed)
		waits(ctx, nil, calm)
		close(stop)
		release()
		return nil
	})
	return all.Wait()
}

// beat lets one thing happen at a time, at the rate.
func (k *soak) beat(ctx context.Context, pace chan<- struct{}, stop <-chan struct{}) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / k.rate))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			select {
			case pace <- struct{}{}:
			default: // all are busy: the rate is a bound, not a promise
			}
		case <-stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// live is one place in which people live, one after the other.
func (k *soak) live(ctx context.Context, pace <-chan struct{}, rnd *rand.Rand) {
	var p *person
	defer func() { k.leave(p) }()
	for range pace {
		if ctx.Err() != nil {
			return
		}
		var err error
		switch {
		case p == nil:
			p, err = k.born(ctx, rnd)
		case rnd.IntN(moves) == 0:
			if rnd.IntN(doomed) == 0 {
				err = p.destroy(ctx)
			}
			k.leave(p)
			p = nil
		default:
			err = p.something(ctx, rnd)
		}
		if err != nil && ctx.Err() == nil {
			k.say("DEFECT: %v", err)
			k.rec.defect(err)
			k.forget(&p)
		}
	}
}

// born is somebody new, who has registered. Nobody when that brought no outcome.
func (k *soak) born(ctx context.Context, rnd *rand.Rand) (*person, error) {
	k.mu.Lock()
	k.sub++
	name := fmt.Sprintf("soak-%d", k.sub)
	k.mu.Unlock()
	p := newPerson(k.site, k.rec, name, rnd)
	err := p.register(ctx)
	if err == nil {
		return p, nil
	}
	p.close()
	if verdictless(err) {
		err = nil
	}
	return nil, err
}

// leave ends a person's phone; the account is looked at again at the end.
func (k *soak) leave(p *person) {
	if p == nil {
		return
	}
	p.close()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = append(k.gone, p)
}

// forget ends a person whose story is a defect already.
func (k *soak) forget(p **person) {
	if *p != nil {
		(*p).close()
		*p = nil
	}
}

// hold keeps a phone connected, whatever happens, until ctx ends.
func (k *soak) hold(ctx context.Context) error {
	k.mu.Lock()
	k.sub++
	p := newPerson(k.site, k.rec, fmt.Sprintf("held-%d", k.sub), rand.New(rand.NewPCG(k.seed, uint64(k.sub))))
	k.mu.Unlock()
	if err := p.newPhone(); err != nil {
		return err
	}
	defer p.close()
	for ctx.Err() == nil {
		if err := p.phone.Watch(ctx); ctx.Err() == nil && !verdictless(err) {
			k.rec.defect(fmt.Errorf("a held connection: %w", err))
			return nil
		}
		pause(ctx, 100*time.Millisecond)
	}
	return nil
}

// finally is how many accounts are looked at at a time.
const finally = 4

// ledgers holds every account's ledger against the vault.
func (k *soak) ledgers(ctx context.Context) error {
	k.say("all faults are over; %d accounts: what the vault counts, and what people were told", len(k.gone))
	var g errgroup.Group
	g.SetLimit(finally)
	for _, p := range k.gone {
		g.Go(func() error {
			if err := p.final(ctx); err != nil {
				k.rec.defect(err)
			}
			return nil
		})
	}
	_ = g.Wait() // defects are in the record
	return ctx.Err()
}

// summary is one page on the whole run.
func (k *soak) summary(w io.Writer, took time.Duration) {
	done, retries, defects := k.rec.total()
	destroyed := 0
	for _, p := range k.gone {
		if p.ledger.destroyed {
			destroyed++
		}
	}
	fmt.Fprintf(w, "soak: %v, seed %d: %d operations, %d tries interrupted by %d faults, %d accounts (%d destroyed on purpose), %d defects\n",
		took.Round(time.Second), k.seed, done, retries, k.faults, len(k.gone), destroyed, defects)
	k.rec.write(w)
}
