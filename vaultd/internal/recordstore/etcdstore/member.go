package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/stats"

	"chatvault/protocol/cmdline"
)

// member is one member of the cluster, with a client of its own. clientv3's own
// balancing takes members in turn: a call to the nearest would cost as much as to
// the farthest, and one that hangs would get its share of the calls.
type member struct {
	// static after construction
	endpoint string
	options  Options
	timeout  time.Duration
	ctx      context.Context // of the store

	suspect atomic.Bool // it failed; a prober is at work, others are asked first

	lock chan struct{} // holds one token while nobody makes the link
	link atomic.Pointer[link]
}

// link is a client and what is made of it.
type link struct {
	client *clientv3.Client
	conn   *grpc.ClientConn
	kv     clientv3.KV
}

func newMember(ctx context.Context, endpoint string, o Options, timeout time.Duration) *member {
	m := &member{endpoint: endpoint, options: o, timeout: timeout, ctx: ctx, lock: make(chan struct{}, 1)}
	m.lock <- struct{}{}
	return m
}

// Connecting. gRPC sends keepalives at most every 10 s, and etcd allows them every
// 5 s; a member that hangs is noticed by its calls, long before.
const (
	keepAlive        = 10 * time.Second
	keepAliveTimeout = 3 * time.Second
	connectTimeout   = 3 * time.Second
	reconnectAtMost  = time.Second // gRPC's default is 2 minutes
)

// get returns the member's client, connected, or tries to connect it until the
// deadline, or for a third of the timeout.
func (m *member) get(ctx context.Context, deadline time.Time) (*link, error) {
	if l := m.link.Load(); l != nil && l.conn.GetState() == connectivity.Ready {
		return l, nil
	}
	ctx, cancel := context.WithDeadline(ctx, m.third(deadline))
	defer cancel()
	l, err := m.made(ctx)
	if err != nil {
		return nil, err
	}
	return l, ready(ctx, l.conn)
}

// third is when a third of the timeout will be over, or the deadline.
func (m *member) third(deadline time.Time) time.Time {
	if t := time.Now().Add(m.timeout / 3); t.Before(deadline) {
		return t
	}
	return deadline
}

// made returns the member's client. It is made at the first use, because clientv3
// logs in while it makes one: a member that is down would keep vaultd from starting.
func (m *member) made(ctx context.Context) (*link, error) {
	select {
	case <-m.lock:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { m.lock <- struct{}{} }()
	if l := m.link.Load(); l != nil {
		return l, nil
	}
	c, err := m.dial()
	if err != nil {
		return nil, err
	}
	conn := c.ActiveConnection()
	l := &link{client: c, conn: conn, kv: clientv3.NewKVFromKVClient(failFast{pb.NewKVClient(conn)}, c)}
	m.link.Store(l)
	return l, nil
}

func (m *member) dial() (*clientv3.Client, error) {
	scheme, o := "http://", m.options
	c := clientv3.Config{
		Context:              m.ctx,
		DialTimeout:          m.timeout / 3, // of logging in
		DialKeepAliveTime:    keepAlive,
		DialKeepAliveTimeout: keepAliveTimeout,
		MaxUnaryRetries:      1, // one attempt: see the package comment
		Logger:               zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithStatsHandler(sentHandler{}),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectAtMost},
				MinConnectTimeout: connectTimeout,
			}),
		},
	}
	if o.TLS.CA != "" {
		scheme = "https://"
		t, err := o.TLS.Config("") // gRPC takes the name from the endpoint
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotSendable, err)
		}
		c.TLS = t
	}
	if o.PasswordFile != "" {
		password, err := cmdline.ReadSecretFile(o.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotSendable, err)
		}
		c.Username, c.Password = o.User, string(password)
	}
	c.Endpoints = []string{scheme + m.endpoint}
	return clientv3.New(c)
}

var errDown = errors.New("cannot connect")

// ready waits for a connection, but not for one that was just refused.
func ready(ctx context.Context, conn *grpc.ClientConn) error {
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			return errDown
		case connectivity.Idle:
			conn.Connect()
		}
		if !conn.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
}

// close ends the member's client. No call is under way.
func (m *member) close() {
	<-m.lock
	if l := m.link.Load(); l != nil {
		l.client.Close() // always an error: that its context has ended
	}
}

// failFast has no call wait for a connection.
type failFast struct{ pb.KVClient }

// Txn implements pb.KVClient.
func (f failFast) Txn(ctx context.Context, in *pb.TxnRequest, o ...grpc.CallOption) (*pb.TxnResponse, error) {
	return f.KVClient.Txn(ctx, in, append(o, grpc.WaitForReady(false))...)
}

// txn is one transaction.
type txn struct {
	cmps        []clientv3.Cmp
	then, other []clientv3.Op // then is never empty: see the package comment
	writes      bool
}

// try sends a transaction to a member, once, and waits for the answer until the
// deadline, or, as a read can be repeated, for a third of the timeout.
// sent = it may have got there.
func (m *member) try(ctx context.Context, deadline time.Time, t txn) (resp *clientv3.TxnResponse, sent bool, err error) {
	l, err := m.get(ctx, deadline)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", m.endpoint, err)
	}
	if !t.writes {
		deadline = m.third(deadline)
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	resp, sent, err = l.send(ctx, t)
	if err != nil {
		return nil, sent, fmt.Errorf("%s: %w", m.endpoint, err)
	}
	return resp, true, nil
}

// send sends a transaction, if there is a connection. sent = it may have got there.
func (l *link) send(ctx context.Context, t txn) (resp *clientv3.TxnResponse, sent bool, err error) {
	var flag atomic.Bool
	// A member without a leader says so at once.
	ctx = clientv3.WithRequireLeader(context.WithValue(ctx, sentKey{}, &flag))
	resp, err = l.kv.Txn(ctx).If(t.cmps...).Then(t.then...).Else(t.other...).Commit()
	return resp, flag.Load(), err
}

// sentHandler notes when the header of a request goes out: before it nothing of the
// request can have been seen by the member.
type sentHandler struct{}

type sentKey struct{}

// HandleRPC implements stats.Handler.
func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); !ok {
		return
	}
	if flag, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		flag.Store(true)
	}
}

// TagRPC implements stats.Handler.
func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn implements stats.Handler.
func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (sentHandler) HandleConn(context.Context, stats.ConnStats) {}
