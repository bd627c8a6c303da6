package etcdstore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/certs"
	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
	"chatvault/vaultd/internal/recordstore/etcdstore"
	"chatvault/vaultd/internal/recordstore/remote"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, foreign := certs.NewCA(t), certs.NewCA(t)
	member, vaultd := ca.Issue(t, "member"), ca.Issue(t, "vaultd")
	cluster := etcdcluster.Start(t, 1, etcdcluster.Options{TLS: remote.TLS{CA: ca.File, Cert: member.Cert, Key: member.Key}})
	o := fresh(cluster)
	o.Timeout = time.Second
	o.TLS = remote.TLS{CA: ca.File, Cert: vaultd.Cert, Key: vaultd.Key}
	s := open(t, o)
	_, err := s.Swap(t.Context(), one, 0, []byte("x"))
	must(t, err)
	stranger := foreign.Issue(t, "vaultd")
	for name, files := range map[string]remote.TLS{
		"another CA":             {CA: foreign.File, Cert: vaultd.Cert, Key: vaultd.Key},
		"no client certificate":  {CA: ca.File},
		"certificate of another": {CA: ca.File, Cert: stranger.Cert, Key: stranger.Key},
		"plaintext":              {},
	} {
		o.TLS = files
		if _, err := etcdstore.Open(t.Context(), o); !errors.Is(err, etcdstore.ErrUnavailable) {
			t.Errorf("%s: %v; want ErrUnavailable", name, err)
		}
	}
}

// A login's token dies with the member that gave it: the store logs in anew.
func TestPassword(t *testing.T) {
	t.Parallel()
	cluster := etcdcluster.Start(t, 1, etcdcluster.Options{})
	hand := byHand(t, cluster)
	o := fresh(cluster)
	o.User, o.PasswordFile = "vaultd", filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(o.PasswordFile, []byte("open\n"), 0o600))
	ctx := t.Context()
	for _, err := range []error{
		second(hand.RoleAdd(ctx, "records")),
		second(hand.RoleGrantPermission(ctx, "records", o.Prefix+"/", clientv3.GetPrefixRangeEnd(o.Prefix+"/"), clientv3.PermissionType(clientv3.PermReadWrite))),
		second(hand.UserAdd(ctx, "vaultd", "open")),
		second(hand.UserGrantRole(ctx, "vaultd", "records")),
		second(hand.UserAdd(ctx, "root", "root")),
		second(hand.UserGrantRole(ctx, "root", "root")),
		second(hand.AuthEnable(ctx)),
	} {
		must(t, err)
	}
	s := open(t, o)
	_, err := s.Swap(ctx, one, 0, []byte("x"))
	must(t, err)
	m := cluster.Members[0]
	must(t, m.Kill())
	must(t, m.Start())
	until(t, cluster, func() error {
		_, v, err := s.Load(ctx, one)
		if err == nil && v != 1 {
			t.Fatalf("version %d; want 1", v)
		}
		return err
	})
	// A swap with a dead token is refused before it is begun, and so sent again.
	must(t, m.Kill())
	must(t, m.Start())
	until(t, cluster, func() error {
		root, err := clientv3.New(clientv3.Config{
			Endpoints: cluster.Endpoints(), Username: "root", Password: "root", DialTimeout: time.Second, Logger: zap.NewNop(),
		})
		if err == nil {
			err = root.Close()
		}
		return ignoreClosed(err)
	})
	until(t, cluster, func() error {
		_, err := s.Swap(ctx, one, 1, []byte("y"))
		if errors.Is(err, recordstore.ErrUnknown) || errors.Is(err, recordstore.ErrConflict) {
			t.Fatalf("swap with a token of a dead member: %v", err)
		}
		return err
	})

	o.Timeout = time.Second
	for name, change := range map[string]func(*etcdstore.Options){
		"no login":       func(o *etcdstore.Options) { o.User, o.PasswordFile = "", "" },
		"wrong password": func(o *etcdstore.Options) { must(t, os.WriteFile(o.PasswordFile, []byte("shut"), 0o600)) },
		"other prefix":   func(o *etcdstore.Options) { o.Prefix = "theirs" },
	} {
		must(t, os.WriteFile(o.PasswordFile, []byte("open"), 0o600))
		bad := o
		change(&bad)
		if _, err := etcdstore.Open(ctx, bad); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// ignoreClosed: a client's Close returns that its context has ended.
func ignoreClosed(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
