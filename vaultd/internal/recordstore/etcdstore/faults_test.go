package etcdstore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/etcdcluster"
	"chatvault/vaultd/internal/recordstore/engines/proc"
	"chatvault/vaultd/internal/recordstore/etcdstore"
)

const patience = time.Minute

var one = recordstore.ID{15: 1}

func id(n int) (id recordstore.ID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n)+1)
	return id
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantVersion(t *testing.T, s recordstore.Store, id recordstore.ID, want recordstore.Version) {
	t.Helper()
	if _, v, err := s.Load(t.Context(), id); err != nil || v != want {
		t.Fatalf("Load = %d, %v; want version %d", v, err, want)
	}
}

// until calls f until it returns nil.
func until(t *testing.T, c *etcdcluster.Cluster, f func() error) {
	t.Helper()
	must(t, proc.Until(patience, c.Members[0].Process(), f))
}

// within runs f and complains if that takes longer than a call may: its timeout, and
// what a busy machine needs.
func within(t *testing.T, limit time.Duration, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if took := time.Since(began); took > 4500*time.Millisecond { // 5 s is the default
		t.Errorf("took %s; the timeout is %s", took, limit)
	}
}

// The leader hangs: its sockets take everything, nothing answers. Calls end within
// their time, and soon another member leads.
func TestPausedLeader(t *testing.T) {
	cluster := etcdcluster.Start(t, 3, etcdcluster.Options{})
	leader, err := cluster.Leader()
	must(t, err)
	o := fresh(cluster)
	o.Timeout = 2 * time.Second
	e := cluster.Endpoints()
	o.Endpoints = []string{e[leader], e[(leader+1)%3], e[(leader+2)%3]}
	s := open(t, o)
	_, err = s.Swap(t.Context(), one, 0, []byte("x"))
	must(t, err)
	must(t, cluster.Members[leader].Pause())

	within(t, o.Timeout, func() {
		_, err = s.Swap(t.Context(), one, 1, []byte("y"))
		if !errors.Is(err, recordstore.ErrUnknown) {
			t.Errorf("swap at a leader that hangs: %v; want ErrUnknown", err)
		}
	})
	within(t, o.Timeout, func() { s.Load(t.Context(), one) })
	var v recordstore.Version
	until(t, cluster, func() error {
		_, v, err = s.Load(t.Context(), one)
		return err
	})
	if v != 1 && v != 2 {
		t.Fatalf("version %d; 1 was acknowledged, 2 maybe", v)
	}
	// What landed late, or will, competes for its version like any other swap.
	until(t, cluster, func() error {
		_, v, err = s.Load(t.Context(), one)
		if err == nil {
			_, err = s.Swap(t.Context(), one, v, []byte("z"))
		}
		return err
	})
	must(t, cluster.Members[leader].Resume())
	must(t, cluster.WaitFor(leader))
	_, again, err := s.Load(t.Context(), one)
	if err != nil || again < v+1 {
		t.Errorf("with the old leader back: version %d, %v; %d was acknowledged", again, err, v+1)
	}
}

func TestNoMajority(t *testing.T) {
	cluster := etcdcluster.Start(t, 3, etcdcluster.Options{})
	o := fresh(cluster)
	o.Timeout = time.Second
	s := open(t, o)
	_, err := s.Swap(t.Context(), one, 0, []byte("x"))
	must(t, err)
	for _, i := range []int{1, 2} {
		must(t, cluster.Members[i].Kill())
	}
	// The last member takes a moment to see that it has no leader; from then on
	// refusals are certain.
	until(t, cluster, func() (err error) {
		within(t, o.Timeout, func() { _, err = s.Swap(t.Context(), one, 1, []byte("y")) })
		if err == nil {
			t.Fatal("a swap was acknowledged without a majority")
		}
		if errors.Is(err, recordstore.ErrUnknown) || !errors.Is(err, etcdstore.ErrUnavailable) {
			return err
		}
		return nil
	})
	within(t, o.Timeout, func() {
		if _, v, err := s.Load(t.Context(), one); !errors.Is(err, etcdstore.ErrUnavailable) {
			t.Errorf("Load without a majority = %d, %v; want ErrUnavailable", v, err)
		}
	})
	must(t, cluster.Members[0].Kill())
	// A swap that were the first to notice would be in doubt.
	within(t, o.Timeout, func() { s.Load(t.Context(), one) })
	within(t, o.Timeout, func() {
		if _, err := s.Swap(t.Context(), one, 1, []byte("y")); !errors.Is(err, etcdstore.ErrUnavailable) || errors.Is(err, recordstore.ErrUnknown) {
			t.Errorf("swap with all members down: %v; want ErrUnavailable, for certain", err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Swap(ctx, one, 1, []byte("y")); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, recordstore.ErrUnknown) {
		t.Errorf("swap whose caller's time ends first: %v", err)
	}
	for _, m := range cluster.Members {
		must(t, m.Start())
	}
	until(t, cluster, func() error {
		_, v, err := s.Load(t.Context(), one)
		if err == nil && v != 1 && v != 2 { // 2: an early swap was in doubt
			t.Fatalf("version %d after the restart of all", v)
		}
		return err
	})
}

// Several writers; one member is killed under them, then all. Every record is at the
// version that was acknowledged last, or at the one whose swap ended in doubt.
func TestKilledMembersKeepWhatTheyAcknowledged(t *testing.T) {
	const writers = 8
	cluster := etcdcluster.Start(t, 3, etcdcluster.Options{})
	o := fresh(cluster)
	o.Timeout = time.Second
	s := open(t, o)
	for round, kill := range [][]int{{0}, {0, 1, 2}} {
		var wg sync.WaitGroup
		var acked, highest [writers]recordstore.Version
		enough := make(chan struct{}, writers)
		stop := make(chan struct{})
		for w := range writers {
			wg.Go(func() { acked[w], highest[w] = swapUntil(t, s, id(w), enough, stop) })
		}
		for range writers {
			<-enough
		}
		for _, i := range kill {
			must(t, cluster.Members[i].Kill())
		}
		close(stop)
		wg.Wait()
		for _, i := range kill {
			must(t, cluster.Members[i].Start())
		}
		for i := range cluster.Members {
			must(t, cluster.WaitFor(i))
		}
		for w := range writers {
			data, v, err := s.Load(t.Context(), id(w))
			if err != nil || v < acked[w] || v > highest[w] || binary.BigEndian.Uint64(data) != uint64(v) {
				t.Errorf("round %d, writer %d: Load = %x, %d, %v; want %d to %d", round, w, data, v, err, acked[w], highest[w])
			}
		}
	}
}

// swapUntil swaps a record from its present version on, says when it has done 30, and
// goes on until it was told to stop or a swap fails. It returns the version that was
// acknowledged last, and the highest that may have been stored.
func swapUntil(t *testing.T, s recordstore.Store, id recordstore.ID, enough chan<- struct{}, stop <-chan struct{}) (acked, highest recordstore.Version) {
	_, v, err := s.Load(t.Context(), id)
	if err != nil {
		t.Error(err)
	}
	for n := 1; ; n++ {
		_, err := s.Swap(t.Context(), id, v, binary.BigEndian.AppendUint64(nil, uint64(v)+1))
		if err != nil {
			if n <= 30 {
				t.Errorf("swap %d: %v", n, err)
				enough <- struct{}{}
			}
			if errors.Is(err, recordstore.ErrUnknown) {
				return v, v + 1
			}
			return v, v
		}
		v++
		if n == 30 {
			enough <- struct{}{}
		}
		select {
		case <-stop:
			return v, v
		default:
		}
	}
}

// One member of three is down: nobody notices but for a moment.
func TestMemberDown(t *testing.T) {
	cluster := etcdcluster.Start(t, 3, etcdcluster.Options{})
	o := fresh(cluster)
	o.Timeout = 4 * time.Second
	s := open(t, o)
	leader, err := cluster.Leader()
	must(t, err)
	follower := (leader + 1) % 3
	must(t, cluster.Members[follower].Kill())
	for n := range 20 {
		_, err := s.Swap(t.Context(), id(n), 0, []byte("x"))
		if errors.Is(err, recordstore.ErrUnknown) {
			t.Logf("swap %d in doubt: %v", n, err) // it was on its way when the connection broke
			continue
		}
		must(t, err)
		wantVersion(t, s, id(n), 1)
	}
	late := open(t, o) // a vaultd that starts now
	wantVersion(t, late, id(19), 1)
	must(t, cluster.Members[follower].Start())
	must(t, cluster.WaitFor(follower))
}

// A swap that was sent and not answered may have been stored or not, and a caller who
// loads finds out which.
func TestUnknownMeansMaybe(t *testing.T) {
	t.Parallel()
	cluster := etcdcluster.Start(t, 1, etcdcluster.Options{})
	o := fresh(cluster)
	o.Timeout = time.Second
	s := open(t, o)
	m := cluster.Members[0]
	seen := make(map[recordstore.Version]int)
	for n := range 10 {
		must(t, m.Pause())
		_, err := s.Swap(t.Context(), id(n), 0, []byte("x"))
		if !errors.Is(err, recordstore.ErrUnknown) {
			t.Fatalf("swap at a member that hangs: %v; want ErrUnknown", err)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v is a context's error too, which would mean: not stored", err)
		}
		must(t, m.Resume())
		var v recordstore.Version
		until(t, cluster, func() (err error) {
			_, v, err = s.Load(t.Context(), id(n))
			return err
		})
		if v > 1 {
			t.Fatalf("version %d after one swap", v)
		}
		seen[v]++
	}
	t.Logf("of 10 swaps in doubt %d were stored", seen[1])
}
