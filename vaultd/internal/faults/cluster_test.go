//go:build fault

package faults

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
	"chatvault/vaultd/internal/recordstore/etcdstore"
	"chatvault/vaultd/internal/recordstore/remote"
)

// The longest that anything may take to work again after the last fault.
const recovery = 30 * time.Second

// callLimit bounds the calls of the stores of these tests.
const callLimit = time.Second

// cluster is etcd with its faults, and vault nodes over it.
type cluster struct {
	*etcdcluster.Cluster
	clock *Clock
	nodes []Node
}

// newCluster starts n members, and one vault node for each that knows no other:
// what such a node is answered is what its member believes. One more knows all. With
// vaults they are those of package vault.
func newCluster(t *testing.T, n int, o etcdcluster.Options, vaults bool) *cluster {
	t.Helper()
	c := &cluster{Cluster: etcdcluster.Start(t, n, o), clock: NewClock()}
	all := c.Endpoints()
	var stores []recordstore.Store
	for i, endpoints := range append([][]string{all}, slices.Collect(slices.Chunk(all, 1))...) {
		store, err := etcdstore.Open(t.Context(), etcdstore.Options{
			Spec:   etcdstore.Spec{Endpoints: endpoints, Prefix: etcdstore.DefaultPrefix},
			Create: i == 0, Timeout: callLimit, Log: slog.New(slog.DiscardHandler),
			TLS: remote.TLS{Plaintext: o.Host != nil}, // network namespaces are other machines
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		stores = append(stores, store)
	}
	c.nodes = nodesOver(t, c.clock, vaults, stores...)
	return c
}

// nodesOver is a node over each store: the rules alone, or a vault and its phones.
func nodesOver(t *testing.T, clock *Clock, vaults bool, stores ...recordstore.Store) (nodes []Node) {
	t.Helper()
	if vaults {
		return phones(t, clock, stores...)
	}
	for _, store := range stores {
		nodes = append(nodes, &Local{Store: store, Rules: Vault()})
	}
	return nodes
}

// clients is the load of the stores with several members.
func clients(seed uint64, clock *Clock, nodes []Node) Load {
	return Load{Seed: seed, Nodes: nodes, Clock: clock, Clients: 12, Accounts: 4, AccountOps: 150, Timeout: 2 * callLimit}
}

func (c *cluster) trial(seed uint64, faults func(ctx context.Context) ([]string, error)) trial {
	return trial{store: storeName("etcd", c.nodes), members: len(c.Members), load: clients(seed, c.clock, c.nodes), limit: recovery, faults: faults}
}

func storeName(store string, nodes []Node) string {
	if _, vaults := nodes[0].(*Phones); vaults {
		return store + " through package vault"
	}
	return store
}

// inTurn makes faults happen one after the other.
func inTurn(seed uint64, faults ...func(*rand.Rand) Fault) func(ctx context.Context) ([]string, error) {
	return func(ctx context.Context) (told []string, err error) {
		for i, f := range faults {
			more, err := Schedule(ctx, seed<<8|uint64(i), 1, f)
			told = append(told, more...)
			if err != nil {
				return told, err
			}
		}
		return told, nil
	}
}

// atRandom makes n faults happen, each as likely as the others.
func atRandom(seed uint64, n int, faults ...func(*rand.Rand) Fault) func(ctx context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		return Schedule(ctx, seed, n, func(rng *rand.Rand) Fault { return faults[rng.IntN(len(faults))](rng) })
	}
}

// some picks one member, mostly the leader.
func (c *cluster) some(rng *rand.Rand) int {
	i, mostly := rng.IntN(len(c.Members)), rng.IntN(3) != 0
	if leader, err := c.Leader(); err == nil && mostly {
		return leader
	}
	return i
}

func (c *cluster) killOne(rng *rand.Rand) Fault {
	m := c.Members[c.some(rng)]
	return Fault{"kill -9 of one", m.Kill, m.Start, [2]time.Duration{100 * time.Millisecond, 1500 * time.Millisecond}}
}

func (c *cluster) killAll(*rand.Rand) Fault {
	return Fault{"kill -9 of all", func() error { return c.each((*etcdcluster.Member).Kill) },
		func() error { return c.each((*etcdcluster.Member).Start) }, [2]time.Duration{0, 300 * time.Millisecond}}
}

func (c *cluster) pauseOne(rng *rand.Rand) Fault {
	m := c.Members[c.some(rng)]
	return Fault{"SIGSTOP of one", m.Pause, m.Resume, [2]time.Duration{500 * time.Millisecond, 3 * time.Second}}
}

func (c *cluster) each(f func(*etcdcluster.Member) error) error {
	var failed []error
	for _, m := range c.Members {
		failed = append(failed, f(m))
	}
	return errors.Join(failed...)
}

// The rules alone at the first seed, package vault at the second, and so on.
func TestEtcdUnderKillsAndPauses(t *testing.T) {
	for _, n := range []int{3, 5} {
		for seed := range seedsOf(2, 10) {
			t.Run(fmt.Sprintf("%d/%d", n, seed), func(t *testing.T) {
				c := newCluster(t, n, etcdcluster.Options{}, seed%2 == 1)
				x := c.trial(seed, atRandom(seed, 6, c.killOne, c.killOne, c.killAll, c.pauseOne))
				x.prove(t)
			})
		}
	}
}
