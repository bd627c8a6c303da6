package etcdstore_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"chatvault/protocol/cmdline/logtest"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
	"chatvault/vaultd/internal/recordstore/etcdstore"
)

// A cluster fills up: it is told in time, then swaps are refused for certain, and
// loads go on. Once there is room again swaps go on too.
func TestQuota(t *testing.T) {
	t.Parallel()
	const quota = 4 << 20
	cluster := etcdcluster.Start(t, 1, etcdcluster.Options{Args: []string{"--quota-backend-bytes=4194304"}})
	log := logtest.New()
	usages := make(chan etcdstore.Usage, 1)
	o := fresh(cluster)
	o.Log = slog.New(slog.NewJSONHandler(log, nil))
	o.UsageInterval = 20 * time.Millisecond
	o.OnUsage = func(u etcdstore.Usage) {
		select {
		case <-usages:
		default:
		}
		usages <- u
	}
	s := open(t, o)
	if u := <-usages; u.Quota != quota || u.Size <= 0 || u.Endpoint != o.Endpoints[0] {
		t.Errorf("usage %+v", u)
	}
	if strings.Contains(log.String(), "fills up") {
		t.Errorf("warned of an empty cluster: %s", log)
	}

	acked, err := fill(t, s)
	until(t, cluster, func() error {
		_, err = s.Swap(t.Context(), one, acked, make([]byte, recordstore.MaxData))
		if err == nil {
			acked++
			return errors.New("still room")
		}
		if errors.Is(err, recordstore.ErrUnknown) || !errors.Is(err, etcdstore.ErrNoSpace) {
			return err
		}
		return nil // for certain
	})
	if !strings.Contains(log.String(), "fills up") {
		t.Errorf("no warning: %s", log)
	}
	_, v, err := s.Load(t.Context(), one)
	if err != nil || v < acked || v > acked+1 {
		t.Errorf("Load from a full cluster: version %d, %v; %d was acknowledged", v, err, acked)
	}

	makeRoom(t, cluster)
	until(t, cluster, func() error {
		_, v, err := s.Load(t.Context(), one)
		if err == nil {
			_, err = s.Swap(t.Context(), one, v, []byte("small"))
		}
		return err
	})
}

// fill swaps one record until that fails.
func fill(t *testing.T, s recordstore.Store) (acked recordstore.Version, err error) {
	t.Helper()
	for {
		if _, err = s.Swap(t.Context(), one, acked, make([]byte, recordstore.MaxData)); err != nil {
			return acked, err
		}
		acked++
	}
}

// makeRoom does what the manual of etcd says.
func makeRoom(t *testing.T, cluster *etcdcluster.Cluster) {
	t.Helper()
	hand := byHand(t, cluster)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := hand.Get(ctx, "x")
	must(t, err)
	_, err = hand.Compact(ctx, got.Header.Revision, clientv3.WithCompactPhysical())
	must(t, err)
	_, err = hand.Defragment(ctx, cluster.Endpoints()[0])
	must(t, err)
	_, err = hand.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	must(t, err)
}
