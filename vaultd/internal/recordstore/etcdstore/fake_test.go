package etcdstore_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	mvccpb "go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/etcdstore"
)

// fakeMember answers transactions as told: a member that fails in ways into which a
// real one is hard to bring. It has one store's description and no records.
type fakeMember struct {
	pb.UnimplementedKVServer
	address string

	mu     sync.Mutex // guards all below
	server *grpc.Server
	writes int   // transactions that put
	reads  int   // the others
	stale  int   // those of them that any member may answer, however stale
	fail   error // of those that put; nil: they succeed
}

const fakeMeta = "chatvault records in etcd, format 1\n0123456789abcdef"

func newFake(t *testing.T) *fakeMember {
	t.Helper()
	f := &fakeMember{address: "127.0.0.1:0"}
	f.start(t)
	t.Cleanup(f.stop)
	return f
}

func (f *fakeMember) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", f.address)
	must(t, err)
	server := grpc.NewServer()
	pb.RegisterKVServer(server, f)
	f.mu.Lock()
	f.server, f.address = server, l.Addr().String()
	f.mu.Unlock()
	go server.Serve(l)
}

func (f *fakeMember) stop() {
	f.mu.Lock()
	server := f.server
	f.mu.Unlock()
	server.Stop()
}

func (f *fakeMember) failWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.writes = err, 0
}

func (f *fakeMember) counts() (writes, reads int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes, f.reads
}

// Txn implements pb.KVServer.
func (f *fakeMember) Txn(_ context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(r.Success) == 0 {
		return nil, errors.New("a transaction with an empty Then")
	}
	answer := &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 1}, Succeeded: true}
	if r.Success[0].GetRequestPut() != nil {
		f.writes++
		if f.fail != nil {
			return nil, f.fail
		}
		answer.Responses = []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}}}
		return answer, nil
	}
	f.reads++
	for _, op := range r.Success {
		get := op.GetRequestRange()
		if get.Serializable {
			f.stale++
		}
		found := &pb.RangeResponse{}
		if string(get.Key) == "p/store" {
			found.Kvs = []*mvccpb.KeyValue{{Key: get.Key, Value: []byte(fakeMeta), Version: 1}}
		}
		answer.Responses = append(answer.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: found}})
	}
	return answer, nil
}

func openFakes(t *testing.T, timeout time.Duration, fakes ...*fakeMember) *etcdstore.Store {
	t.Helper()
	o := etcdstore.Options{Timeout: timeout, Spec: etcdstore.Spec{Prefix: "p"}}
	for _, f := range fakes {
		o.Endpoints = append(o.Endpoints, f.address)
	}
	return open(t, o)
}

// A swap whose member answers with an error that says not for certain that it was not
// applied is in doubt, and is not sent again: the second would meet the version that
// the first one made, and report a conflict for a swap that was done.
func TestDoubtfulSwapIsSentOnce(t *testing.T) {
	a, b := newFake(t), newFake(t)
	s := openFakes(t, 3*time.Second, a, b)
	for _, err := range []error{
		rpctypes.ErrGRPCCanceled, rpctypes.ErrGRPCDeadlineExceeded, // clientv3 repeats these
		rpctypes.ErrGRPCTimeout, rpctypes.ErrGRPCTimeoutDueToLeaderFail, rpctypes.ErrGRPCTimeoutDueToConnectionLost,
		rpctypes.ErrGRPCLeaderChanged, rpctypes.ErrGRPCStopped, rpctypes.ErrGRPCUnhealthy, rpctypes.ErrGRPCCorrupt,
		rpctypes.ErrGRPCNoSpace, // applied all the same, when the apply finds it
		status.Error(codes.Unavailable, "transport is closing"), status.Error(codes.Internal, "x"),
		status.Error(codes.Unknown, "raft proposal dropped"), status.Error(codes.ResourceExhausted, "x"),
	} {
		a.failWith(err)
		b.failWith(err)
		if _, got := s.Swap(t.Context(), one, 0, []byte("x")); !errors.Is(got, recordstore.ErrUnknown) {
			t.Errorf("%v: %v; want ErrUnknown", err, got)
		}
		na, _ := a.counts()
		nb, _ := b.counts()
		if na+nb != 1 {
			t.Errorf("%v: sent %d times", err, na+nb)
		}
	}
}

// What a member certainly did not begin goes on to another.
func TestRefusedSwapGoesOn(t *testing.T) {
	for _, err := range []error{
		rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCNotCapable, rpctypes.ErrGRPCNotSupportedForLearner,
		rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCUserEmpty,
		status.Error(codes.Unknown, "etcdserver: too many requests"),
	} {
		a, b := newFake(t), newFake(t)
		s := openFakes(t, time.Second, a, b)
		a.failWith(err)
		if v, got := s.Swap(t.Context(), one, 0, []byte("x")); got != nil || v != 1 {
			t.Errorf("%v at the first of two: %d, %v", err, v, got)
		}
		b.failWith(err)
		if _, got := s.Swap(t.Context(), one, 0, []byte("x")); got == nil || errors.Is(got, recordstore.ErrUnknown) {
			t.Errorf("%v at both: %v; want a certain refusal", err, got)
		}
	}
	a := newFake(t)
	s := openFakes(t, time.Second, a)
	for _, err := range []error{rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCRequestTooLarge, rpctypes.ErrGRPCAuthFailed} {
		a.failWith(err)
		_, got := s.Swap(t.Context(), one, 0, []byte("x"))
		if !errors.Is(got, rpctypes.Error(err)) || errors.Is(got, recordstore.ErrUnknown) {
			t.Errorf("%v: %v", err, got)
		}
		if n, _ := a.counts(); n != 1 {
			t.Errorf("%v: sent %d times", err, n)
		}
	}
}

// Only LoadStale may be answered by a member that was left behind.
func TestOnlyLoadStaleIsSerializable(t *testing.T) {
	a := newFake(t)
	s := openFakes(t, time.Second, a)
	stale := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.stale
	}
	wantVersion(t, s, one, 0)
	_, err := s.Scan(t.Context(), recordstore.ID{}, 1)
	must(t, err)
	_, err = s.Position(t.Context())
	must(t, err)
	if n := stale(); n != 0 {
		t.Errorf("%d serializable reads by other calls than LoadStale", n)
	}
	_, v, err := s.LoadStale(t.Context(), one)
	if n := stale(); err != nil || v != 0 || n != 1 {
		t.Errorf("LoadStale: version %d, %v, %d serializable reads; want one", v, err, n)
	}
}

// The nearest member gets all calls, while it works, and again when it works again.
func TestNearestFirst(t *testing.T) {
	near, far := newFake(t), newFake(t)
	s := openFakes(t, 4*time.Second, near, far)
	load := func() {
		t.Helper()
		wantVersion(t, s, one, 0)
	}
	for range 20 {
		load()
	}
	if _, n := far.counts(); n != 0 {
		t.Errorf("%d of 20 loads went to the far member", n)
	}
	near.stop()
	load()
	if _, n := far.counts(); n == 0 {
		t.Error("no load went to the far member, with the near one down")
	}
	near.start(t)
	_, before := near.counts()
	deadline := time.Now().Add(patience)
	for {
		load()
		// A prober's read is one; more are ours.
		if _, n := near.counts(); n > before+5 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the near member did not get its calls back")
		}
	}
}

// Reads are repeated at the other member.
func TestHangingMemberIsPassedOver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts by its backlog, says nothing
	must(t, err)
	defer l.Close()
	good := newFake(t)
	s := openFakes(t, 4*time.Second, &fakeMember{address: l.Addr().String()}, good)
	wantVersion(t, s, one, 0)
	if _, err := s.Swap(t.Context(), one, 0, []byte("x")); err != nil {
		t.Error(err)
	}
}
