//go:build fault

package faults

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/etcdstore"
)

// local is a broken store: it reads what one member has, without a majority.
type local struct {
	recordstore.Store
	member *clientv3.Client
}

func (s local) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	got, err := s.member.Get(ctx, etcdstore.DefaultPrefix+"/r/"+string(id[:]), clientv3.WithSerializable())
	if err != nil || len(got.Kvs) == 0 {
		return nil, 0, err
	}
	value := got.Kvs[0].Value
	return value[8:], recordstore.Version(binary.BigEndian.Uint64(value)), nil
}

// An old leader that goes on answering reads has to be caught, by what single
// members tell their nodes.
func TestStaleReadsOfEtcdAreCaught(t *testing.T) {
	const members = 3
	n := newNetwork(t, members)
	c := newCluster(t, members, n.options())
	for i, endpoint := range c.Endpoints() {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + endpoint}, Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		node := c.nodes[1+i].(*Local)
		node.Store = local{node.Store, client}
	}
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := under(t, c.load(seed), recovery, func(ctx context.Context) ([]string, error) {
				return Schedule(ctx, seed, 1, func(rng *rand.Rand) Fault {
					i := c.some(rng)
					others := slices.DeleteFunc([]int{0, 1, 2}, func(j int) bool { return j == i })
					return Fault{"no peers", n.cut("add", i, others...), n.cut("del", i, others...), [2]time.Duration{3 * time.Second, 4 * time.Second}}
				})
			})
			guilty, _ := h.Check()
			if guilty == 0 {
				t.Fatalf("not caught in %s", h)
			}
			t.Logf("caught on %d accounts in %s", guilty, h)
		})
	}
}
