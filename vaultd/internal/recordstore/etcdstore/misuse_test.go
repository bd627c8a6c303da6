package etcdstore_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
	"chatvault/vaultd/internal/recordstore/etcdstore"
	"chatvault/vaultd/internal/recordstore/remote"
	"chatvault/vaultd/internal/recordstore/storetest"
)

// byHand is a client beside the store, for what nobody should do.
func byHand(t *testing.T, c *etcdcluster.Cluster) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

func TestNoStoreAndOtherStore(t *testing.T) {
	cluster := single(t)
	hand := byHand(t, cluster)
	o := fresh(cluster)
	o.Create = false
	if _, err := etcdstore.Open(t.Context(), o); !errors.Is(err, etcdstore.ErrNoStore) {
		t.Errorf("nothing there: %v; want ErrNoStore", err)
	}
	o.Create = true
	s := open(t, o)
	_, err := s.Swap(t.Context(), one, 0, []byte("x"))
	must(t, err)

	// The cluster is emptied under us: nothing may look as if nobody were registered.
	_, err = hand.Delete(t.Context(), o.Prefix, clientv3.WithPrefix())
	must(t, err)
	_, _, loadErr := s.Load(t.Context(), one)
	_, swapErr := s.Swap(t.Context(), one, 0, []byte("x"))
	_, scanErr := s.Scan(t.Context(), recordstore.ID{}, 1)
	_, posErr := s.Position(t.Context())
	for name, err := range map[string]error{"Load": loadErr, "Swap": swapErr, "Scan": scanErr, "Position": posErr} {
		if !errors.Is(err, etcdstore.ErrOtherStore) || errors.Is(err, recordstore.ErrConflict) || errors.Is(err, recordstore.ErrUnknown) {
			t.Errorf("%s: %v; want ErrOtherStore", name, err)
		}
	}
	// Another store takes its place.
	open(t, o)
	if _, err := s.Swap(t.Context(), one, 0, []byte("x")); !errors.Is(err, etcdstore.ErrOtherStore) {
		t.Errorf("Swap: %v; want ErrOtherStore", err)
	}
}

func TestWhatOthersWroteIsRefused(t *testing.T) {
	cluster := single(t)
	hand := byHand(t, cluster)
	o := fresh(cluster)
	s := open(t, o)
	key := o.Prefix + "/r/" + string(one[:])
	_, err := s.Swap(t.Context(), one, 0, []byte("x"))
	must(t, err)
	old, err := hand.Get(t.Context(), key)
	must(t, err)
	_, err = s.Swap(t.Context(), one, 1, []byte("y"))
	must(t, err)

	// An old value put back counts as a put, and so does not fit its version.
	_, err = hand.Put(t.Context(), key, string(old.Kvs[0].Value))
	must(t, err)
	if _, v, err := s.Load(t.Context(), one); !errors.Is(err, etcdstore.ErrFormat) {
		t.Errorf("an old value put back: version %d, %v; want ErrFormat", v, err)
	}
	_, err = hand.Put(t.Context(), key+"longer", "x")
	must(t, err)
	if ids, err := s.Scan(t.Context(), recordstore.ID{}, 10); !errors.Is(err, etcdstore.ErrFormat) {
		t.Errorf("a key that is no record's: %v, %v; want ErrFormat", ids, err)
	}
	_, err = hand.Delete(t.Context(), o.Prefix+"/store")
	must(t, err)
	if _, err := etcdstore.Open(t.Context(), o); !errors.Is(err, etcdstore.ErrFormat) {
		t.Errorf("records without a description: %v; want ErrFormat", err)
	}
	_, err = hand.Put(t.Context(), o.Prefix+"/store", "something else")
	must(t, err)
	if _, err := etcdstore.Open(t.Context(), o); !errors.Is(err, etcdstore.ErrFormat) {
		t.Errorf("another description: %v; want ErrFormat", err)
	}
}

func TestManyMakeOneStore(t *testing.T) {
	o := fresh(single(t))
	storetest.ManyMakeOne(t, func() (recordstore.Store, error) { return etcdstore.Open(t.Context(), o) })
}

func TestOptionsAreChecked(t *testing.T) {
	good := etcdstore.Options{Spec: etcdstore.Spec{Endpoints: []string{"127.0.0.1:1"}, Prefix: "p"}}
	for name, change := range map[string]func(*etcdstore.Options){
		"user without password file": func(o *etcdstore.Options) { o.User = "u" },
		"password file without user": func(o *etcdstore.Options) { o.PasswordFile = "f" },
		"missing password file":      func(o *etcdstore.Options) { o.User, o.PasswordFile = "u", filepath.Join(t.TempDir(), "none") },
		"missing CA file":            func(o *etcdstore.Options) { o.TLS.CA = filepath.Join(t.TempDir(), "none") },
		"certificate without CA":     func(o *etcdstore.Options) { o.TLS.Cert = "f" },
	} {
		o := good
		change(&o)
		if s, err := etcdstore.Open(t.Context(), o); err == nil || errors.Is(err, etcdstore.ErrUnavailable) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	o := good
	o.Endpoints = []string{"127.0.0.1:1", "etcd.example.com:2379"}
	if _, err := etcdstore.Open(t.Context(), o); !errors.Is(err, remote.ErrPlaintext) {
		t.Errorf("plaintext to another machine: %v; want ErrPlaintext", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := etcdstore.Open(ctx, good); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}
