package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"chatvault/docker/goals"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
	"chatvault/vaultd/internal/recordstore/etcdstore"
)

// The members of a cluster over the world: each is this far from every other, and
// vaultd stands beside its member.
const (
	distantMembers = 5
	distance       = 80 * time.Millisecond // there and back
)

// followerRows measures a charge through a member that does not lead.
func followerRows(ctx context.Context, p plan) []*goals.Row {
	r := &goals.Row{
		Name: fmt.Sprintf("etcd x%d, charge through a follower, p50", distantMembers),
		Unit: fmt.Sprintf("round trips of %d ms", distance.Milliseconds()), Goal: 2.3,
	}
	if err := measureFollower(ctx, p, r); err != nil {
		goals.Fail([]*goals.Row{r}, err)
	}
	return []*goals.Row{r}
}

func measureFollower(ctx context.Context, p plan, r *goals.Row) error {
	cluster, end, err := startDistant()
	defer end()
	if err != nil {
		return err
	}
	leader, err := cluster.Leader()
	if err != nil {
		return err
	}
	follower := (leader + 1) % distantMembers
	store, err := etcdstore.Open(ctx, etcdstore.Options{
		Spec:   etcdstore.Spec{Endpoints: cluster.Endpoints()[follower : follower+1], Prefix: etcdstore.DefaultPrefix},
		Create: true, Log: quiet,
	})
	if err != nil {
		return err
	}
	defer store.Close()
	c, err := newCharger(store)
	if err != nil {
		return err
	}
	if err := each(ctx, p.followed, c.register); err != nil {
		return err
	}
	parts := &loadTimes{Store: store}
	c.store = parts
	measure(ctx, p, r, func(ctx context.Context, _ int) (goals.Repetition, error) {
		return followerRepetition(ctx, c, p.followed)
	})
	if is, err := cluster.Leader(); err != nil || is == follower {
		return errors.Join(err, errors.New("the follower came to lead meanwhile, or there is no leader"))
	}
	if r.Error == "" && r.Measured < 1 {
		return fmt.Errorf("%.2f round trips: the members do not talk through the proxies", r.Measured)
	}
	r.Note = fmt.Sprintf("p50 %.0f ms, of which the load %.0f ms",
		1000*r.Median(func(m goals.Repetition) float64 { return m.Ours }), 1000*goals.Median(parts.took))
	return nil
}

// followerRepetition is the median of some charges, one after the other. The value
// is in round trips as they are meant to be; those of the proxies are measured beside it,
// and are never shorter.
func followerRepetition(ctx context.Context, c *charger, charges int) (goals.Repetition, error) {
	trip, err := roundTrip(distance / 2)
	if err != nil {
		return goals.Repetition{}, fmt.Errorf("measuring a round trip: %w", err)
	}
	fmt.Fprintf(os.Stderr, "  a round trip through a proxy: %v\n", trip)
	var took []float64
	for account := range charges {
		began := time.Now()
		if err := c.charge(ctx, account); err != nil {
			return goals.Repetition{}, err
		}
		took = append(took, time.Since(began).Seconds())
	}
	p50 := goals.Median(took)
	return goals.Repetition{Ours: p50, Value: p50 / distance.Seconds()}, nil
}

// startDistant starts members that reach each other only through proxies.
func startDistant() (cluster *etcdcluster.Cluster, end func(), err error) {
	var proxies []*delayProxy
	var failed error
	cluster, err = etcdcluster.New(distantMembers, etcdcluster.Options{
		Args: etcdArgs,
		PeerURL: func(_ int, listens string) string {
			u, err := url.Parse(listens)
			if err != nil {
				failed = errors.Join(failed, err)
				return listens
			}
			p, err := newDelayProxy(u.Host, distance/2)
			if err != nil {
				failed = errors.Join(failed, err)
				return listens
			}
			proxies = append(proxies, p)
			u.Host = p.addr()
			return u.String()
		},
	})
	end = func() {
		if cluster != nil {
			cluster.Close()
		}
		for _, p := range proxies {
			p.close()
		}
	}
	return cluster, end, errors.Join(err, failed)
}

// loadTimes notes how long loads take: which part of a charge is the read.
type loadTimes struct {
	recordstore.Store
	took []float64 // seconds; one charge at a time, so nothing guards it
}

// LoadStale implements recordstore.Store.
func (l *loadTimes) LoadStale(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	began := time.Now()
	data, v, err := l.Store.LoadStale(ctx, id)
	l.took = append(l.took, time.Since(began).Seconds())
	return data, v, err
}
