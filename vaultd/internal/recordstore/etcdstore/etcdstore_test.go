package etcdstore_test

import (
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
	"chatvault/vaultd/internal/recordstore/etcdstore"
	"chatvault/vaultd/internal/recordstore/storetest"
)

var prefixes atomic.Int64

// The single member of all tests that leave it in peace.
var (
	singleOnce    sync.Once
	singleCluster *etcdcluster.Cluster
	errSingle     error
)

func TestMain(m *testing.M) {
	code := m.Run()
	if singleCluster != nil {
		singleCluster.Close()
	}
	os.Exit(code)
}

func single(t *testing.T) *etcdcluster.Cluster {
	t.Helper()
	singleOnce.Do(func() { singleCluster, errSingle = etcdcluster.New(1, etcdcluster.Options{}) })
	if errSingle != nil {
		t.Fatal(errSingle)
	}
	return singleCluster
}

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
	t.Run("1", func(t *testing.T) { suite(t, single(t)) })
	t.Run("3", func(t *testing.T) { suite(t, etcdcluster.Start(t, 3, etcdcluster.Options{})) })
}

func suite(t *testing.T, cluster *etcdcluster.Cluster) {
	storetest.Run(t, storetest.Lasting(func(t *testing.T) func(*testing.T, bool) recordstore.Store {
		o := fresh(cluster)
		o.Timeout = patience // a busy machine is not this suite's matter
		return func(t *testing.T, create bool) recordstore.Store {
			o.Create = create
			return open(t, o)
		}
	}))
}
