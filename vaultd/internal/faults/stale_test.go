//go:build fault

package faults

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

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

// newPartitioned is three members and nodes each of which knows one of them alone:
// an old leader goes on to believe what it has.
func newPartitioned(t *testing.T) (*cluster, *network) {
	n := newNetwork(t, 3)
	c := newCluster(t, 3, n.options(), false)
	c.nodes = c.nodes[1:]
	return c, n
}

// staleRounds is how often a member is left alone at most, until somebody is caught.
const staleRounds = 6

func (c *cluster) convictStale(t *testing.T, n *network) {
	for seed := range seedsOf(2, 5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			var x trial
			x = c.trial(seed, func(ctx context.Context) (told []string, err error) {
				for round := uint64(0); round < staleRounds && err == nil; round++ {
					var more []string
					more, err = Schedule(ctx, seed<<8|round, 1, func(rng *rand.Rand) Fault { return n.alone(c.some(rng), 3) })
					told = append(told, more...)
					if guilty, _ := x.h.check(convictLimit); guilty > 0 {
						break
					}
				}
				return told, err
			})
			x.load.Clients = 20 // most of them wait for the one that is alone
			x.convict(t, false)
		})
	}
}

// An old leader that goes on answering reads has to be caught, by what single
// members tell their nodes.
func TestStaleReadsOfEtcdAreCaught(t *testing.T) {
	c, n := newPartitioned(t)
	for i, endpoint := range c.Endpoints() {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + endpoint}, Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		node := c.nodes[i].(*Local)
		node.Store = local{node.Store, client}
	}
	c.convictStale(t, n)
}

// A LoadStale is good for the expected version of a swap. A node that lets an attempt
// go on because of one, or refuses, has to be caught.
func TestAnswersFromStaleReadsOfEtcdAreCaught(t *testing.T) {
	c, n := newPartitioned(t)
	for _, node := range c.nodes {
		node.(*Local).Trusting = true
	}
	c.convictStale(t, n)
}
