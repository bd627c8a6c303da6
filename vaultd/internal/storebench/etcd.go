package main

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
	"chatvault/vaultd/internal/recordstore/etcdstore"
)

// etcdArgs leave room for the versions that a run makes, and none is compacted.
var etcdArgs = []string{"--quota-backend-bytes", "8589934592"}

func etcdEngine(members int) engine {
	return engine{fmt.Sprintf("etcd x%d", members), func(ctx context.Context, slow bool, accounts int) (*sides, error) {
		o := etcdcluster.Options{Args: etcdArgs}
		if slow {
			if err := checkSlowly(ctx); err != nil {
				return nil, err
			}
			o.Wrap = func(_ int, argv []string) []string { return slowly(argv) }
		}
		return startEtcd(ctx, members, o, accounts)
	}}
}

func startEtcd(ctx context.Context, members int, o etcdcluster.Options, accounts int) (*sides, error) {
	cluster, err := etcdcluster.New(members, o)
	if err != nil {
		return nil, err
	}
	s := &sides{}
	s.onClose(func() error { cluster.Close(); return nil })
	store, err := etcdstore.Open(ctx, etcdstore.Options{
		Spec:   etcdstore.Spec{Endpoints: cluster.Endpoints(), Prefix: etcdstore.DefaultPrefix},
		Create: true, Log: quiet,
	})
	if err != nil {
		return s, err
	}
	s.onClose(store.Close)
	client, err := clientv3.New(clientv3.Config{Endpoints: cluster.Endpoints()[:1], Logger: zap.NewNop()})
	if err != nil {
		return s, err
	}
	s.onClose(client.Close)
	status, err := client.Status(ctx, cluster.Endpoints()[0])
	if err != nil {
		return s, err
	}
	s.server = status.Version
	return s, s.fill(ctx, store, plainEtcd{client}, accounts)
}

// plainEtcd is etcd's client without our layer: a serializable get, as LoadStale is
// one, and a put if nobody was faster. It talks to the member that ours talks to, over one
// connection, as ours.
type plainEtcd struct{ client *clientv3.Client }

func plainKey(account int) string {
	id := accountID(account)
	return "floor/" + string(id[:])
}

func (p plainEtcd) register(ctx context.Context, account int) error {
	_, err := p.client.Put(ctx, plainKey(account), string(plainRecord()))
	return err
}

func (p plainEtcd) charge(ctx context.Context, account int) error {
	key := plainKey(account)
	for {
		got, err := p.client.Get(ctx, key, clientv3.WithSerializable())
		if err != nil {
			return err
		}
		if len(got.Kvs) != 1 {
			return errors.New("etcd has no such plain record")
		}
		kv := got.Kvs[0]
		if err := touch(kv.Value); err != nil {
			return err
		}
		put, err := p.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
			Then(clientv3.OpPut(key, string(kv.Value))).Commit()
		if err != nil || put.Succeeded {
			return err
		}
	}
}
