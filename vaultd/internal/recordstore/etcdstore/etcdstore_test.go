package etcdstore_test

import (
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
	"chatvault/vaultd/internal/recordstore/etcdstore"
	"chatvault/vaultd/internal/recordstore/storetest"
)

var prefixes atomic.Int64

// fresh are the options of a store of its own in the cluster.
func fresh(c *etcdcluster.Cluster) etcdstore.Options {
	return etcdstore.Options{
		Spec:   etcdstore.Spec{Endpoints: c.Endpoints(), Prefix: "t" + strconv.FormatInt(prefixes.Add(1), 10)},
		Create: true,
		Log:    slog.New(slog.DiscardHandler),
	}
}

func open(t *testing.T, o etcdstore.Options) *etcdstore.Store {
	t.Helper()
	s, err := etcdstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStore(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			started := time.Now()
			cluster := etcdcluster.Start(t, n, etcdcluster.Options{})
			t.Logf("%d members up in %s", n, time.Since(started).Round(time.Millisecond))
			made := make(map[recordstore.Store]etcdstore.Options)
			storetest.Run(t, storetest.Maker{
				New: func(t *testing.T) recordstore.Store {
					o := fresh(cluster)
					s := open(t, o)
					o.Create = false
					made[s] = o
					return s
				},
				Reopen: func(t *testing.T, old recordstore.Store) recordstore.Store {
					if err := old.Close(); err != nil {
						t.Fatal(err)
					}
					s := open(t, made[old])
					made[s] = made[old]
					return s
				},
			})
		})
	}
}
