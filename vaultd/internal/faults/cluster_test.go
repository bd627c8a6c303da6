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

	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
	"chatvault/vaultd/internal/recordstore/engines/postgres"
	"chatvault/vaultd/internal/recordstore/etcdstore"
	"chatvault/vaultd/internal/recordstore/pgstore"
	"chatvault/vaultd/internal/recordstore/remote"
)

// The longest that anything may take to work again after the last fault.
const recovery = 30 * time.Second

// callLimit bounds the calls of the stores of these tests.
const callLimit = time.Second

// cluster is etcd with its faults, and vault nodes over it.
type cluster struct {
	*etcdcluster.Cluster
	nodes []Node
}

// newCluster starts n members, and one vault node for each that knows no other:
// what such a node is answered is what its member believes. One more knows all.
func newCluster(t *testing.T, n int, o etcdcluster.Options) *cluster {
	t.Helper()
	c := &cluster{Cluster: etcdcluster.Start(t, n, o)}
	all := c.Endpoints()
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
		c.nodes = append(c.nodes, &Local{Store: store, Rules: Vault()})
	}
	return c
}

func (c *cluster) load(seed uint64) Load {
	return Load{Seed: seed, Nodes: c.nodes, Clients: 12, Accounts: 4, AccountOps: 150, Timeout: 2 * callLimit}
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
	return Fault{"pause of one", m.Pause, m.Resume, [2]time.Duration{500 * time.Millisecond, 3 * time.Second}}
}

func (c *cluster) each(f func(*etcdcluster.Member) error) error {
	var failed []error
	for _, m := range c.Members {
		failed = append(failed, f(m))
	}
	return errors.Join(failed...)
}

// one of the faults, each as likely as the others.
func one(faults ...func(*rand.Rand) Fault) func(*rand.Rand) Fault {
	return func(rng *rand.Rand) Fault { return faults[rng.IntN(len(faults))](rng) }
}

func TestEtcdUnderKillsAndPauses(t *testing.T) {
	for _, n := range []int{3, 5} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%d/%d", n, seed), func(t *testing.T) {
				c := newCluster(t, n, etcdcluster.Options{})
				h := under(t, c.load(seed), recovery, func(ctx context.Context) ([]string, error) {
					return Schedule(ctx, seed, 7, one(c.killOne, c.killOne, c.killAll, c.pauseOne))
				})
				mustBeLinearizable(t, h)
			})
		}
	}
}

func TestPostgresUnderKillsAndPauses(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			server := postgres.Start(t, postgres.Options{})
			var nodes []Node
			for i := range 3 {
				store, err := pgstore.Open(t.Context(), pgstore.Options{
					Spec:         pgstore.Spec{User: postgres.Role, Endpoints: []string{server.Endpoint()}, Database: postgres.Database, Schema: pgstore.DefaultSchema},
					PasswordFile: server.PasswordFile, Create: i == 0, Timeout: callLimit, Log: slog.New(slog.DiscardHandler),
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { store.Close() })
				nodes = append(nodes, &Local{Store: store, Rules: Vault()})
			}
			load := Load{Seed: seed, Nodes: nodes, Clients: 12, Accounts: 4, AccountOps: 150, Timeout: 2 * callLimit}
			h := under(t, load, recovery, func(ctx context.Context) ([]string, error) {
				return Schedule(ctx, seed, 5, one(
					func(*rand.Rand) Fault {
						return Fault{"kill -9", server.Kill, server.Start, [2]time.Duration{0, 300 * time.Millisecond}}
					},
					func(*rand.Rand) Fault {
						return Fault{"pause", server.Pause, server.Resume, [2]time.Duration{300 * time.Millisecond, 2 * time.Second}}
					},
				))
			})
			mustBeLinearizable(t, h)
		})
	}
}
