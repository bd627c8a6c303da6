// Package redisconn connects to the Redis that relays share: one server, one
// behind sentinels, a cluster, or a twin in this process.
//
// Whatever the kind, nothing waits for Redis longer than it was given: a
// context's deadline ends the wait, dialling and each answer take a second at
// most, and nothing is tried again behind the caller's back. A Redis that
// cannot be reached is no error here: it is one that is down, and callers go
// on without it.
package redisconn

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// defaultTimeout is Options.Timeout where none is given.
const defaultTimeout = time.Second

// buffer is the size of each of a connection's two buffers, in bytes. go-redis'
// 32 KiB, and 128 KiB for pipelines, are for much longer ones than those of a
// connect: a few hundred bytes.
const buffer = 4 << 10

// Options of a connection.
type Options struct {
	Address
	// Login is shown to the servers that hold data; nil: the Address's user,
	// without a password.
	Login *Login
	// SentinelUser and SentinelPassword are for the sentinels, which have
	// credentials of their own.
	SentinelUser, SentinelPassword string
	// Config is used when Address wants TLS. Its ServerName stays empty: each
	// server must have a certificate for the address by which it is dialled,
	// and sentinels and clusters tell the addresses of servers themselves.
	Config *tls.Config
	// Timeout bounds one dialling and one answer; 0: a second.
	Timeout time.Duration
	// Watch is told of what happens; its functions may be nil.
	Watch Watch
}

// Watch is told how Redis does. Its functions must not wait.
type Watch struct {
	// Trip hears of each round trip: a command, or a whole pipeline.
	Trip func(took time.Duration, commands int, err error)
	// Dial hears of each new connection.
	Dial func(err error)
}

// Connect returns a client. It never fails and never waits. stop closes it.
func Connect(o Options) (client redis.UniversalClient, stop func()) {
	silence()
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if !o.TLS {
		o.Config = nil
	}
	if o.Login == nil {
		o.Login = NewLogin(o.User, nil)
	}
	after := func() {}
	switch o.Kind {
	case Embedded:
		client, after = o.embedded()
	case Single:
		client = redis.NewClient(o.single())
	case Sentinel:
		client = redis.NewFailoverClient(o.sentinel())
	case Cluster:
		cluster := redis.NewClusterClient(o.cluster())
		// Its nodes dial, one by one.
		cluster.OnNewNode(func(node *redis.Client) { node.AddHook(hook{Dial: o.Watch.Dial}) })
		client = cluster
	}
	client.AddHook(hook(o.Watch))
	return client, func() {
		client.Close()
		after()
	}
}

// embedded starts a Redis in memory, without a port that others on this
// machine could use.
func (o Options) embedded() (redis.UniversalClient, func()) {
	server := miniredis.NewMiniRedis()
	opt := o.single()
	opt.Dialer = func(context.Context, string, string) (net.Conn, error) { return server.Dial() }
	over := make(chan struct{})
	go lapse(server, over)
	return redis.NewClient(opt), func() {
		close(over)
		server.Close()
	}
}

// lapse lets keys of the embedded Redis lapse, every second: by itself it walks
// all of them at each command, or never.
func lapse(server *miniredis.Miniredis, over <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case now := <-tick.C:
			server.FastForward(now.Sub(last))
			last = now
		case <-over:
			return
		}
	}
}

func (o Options) single() *redis.Options {
	opt := &redis.Options{
		Network: "tcp", CredentialsProvider: o.Login.get, DB: o.DB, TLSConfig: o.Config,
		// Without it go-redis ignores the deadlines of contexts.
		ContextTimeoutEnabled: true,
		DialTimeout:           o.Timeout, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout, PoolTimeout: o.Timeout,
		MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		ReadBufferSize: buffer, WriteBufferSize: buffer, PipelineReadBufferSize: buffer, PipelineWriteBufferSize: buffer,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if o.Socket != "" {
		opt.Network, opt.Addr = "unix", o.Socket
	} else if len(o.Hosts) > 0 {
		opt.Addr = o.Hosts[0]
	}
	return opt
}

func (o Options) sentinel() *redis.FailoverOptions {
	return &redis.FailoverOptions{
		MasterName: o.Master, SentinelAddrs: o.Hosts,
		SentinelUsername: o.SentinelUser, SentinelPassword: o.SentinelPassword,
		CredentialsProvider: o.Login.get, DB: o.DB, TLSConfig: o.Config,
		ContextTimeoutEnabled: true,
		DialTimeout:           o.Timeout, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout, PoolTimeout: o.Timeout,
		MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		ReadBufferSize: buffer, WriteBufferSize: buffer, PipelineReadBufferSize: buffer, PipelineWriteBufferSize: buffer,
	}
}

// redirects bounds how often a cluster may send one command elsewhere: once
// for a slot that has moved, and once more for one that is moving.
const redirects = 3

func (o Options) cluster() *redis.ClusterOptions {
	return &redis.ClusterOptions{
		Addrs: o.Hosts, CredentialsProvider: o.Login.get, TLSConfig: o.Config,
		ContextTimeoutEnabled: true,
		DialTimeout:           o.Timeout, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout, PoolTimeout: o.Timeout,
		// A node that died sends nobody elsewhere: the map is asked for.
		ClusterStateReloadInterval: defaultTimeout,
		MaxRedirects:               redirects, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		ReadBufferSize: buffer, WriteBufferSize: buffer, PipelineReadBufferSize: buffer, PipelineWriteBufferSize: buffer,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// hook measures at the client, not at each node: what one caller waits for is
// one trip.
type hook Watch

// DialHook implements redis.Hook.
func (h hook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if h.Dial != nil {
			h.Dial(err)
		}
		return conn, err
	}
}

// ProcessHook implements redis.Hook.
func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		start := time.Now()
		err := next(ctx, cmd)
		h.trip(start, []redis.Cmder{cmd}, err)
		return err
	}
}

// ProcessPipelineHook implements redis.Hook.
func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		start := time.Now()
		err := next(ctx, cmds)
		h.trip(start, cmds, err)
		return err
	}
}

// greets are the commands by which go-redis begins a connection.
var greets = map[string]bool{"hello": true, "auth": true, "select": true, "client": true}

func (h hook) trip(start time.Time, cmds []redis.Cmder, err error) {
	if err == redis.Nil || redis.HasErrorPrefix(err, "NOSCRIPT") { // an answer like any other
		err = nil
	}
	if h.Trip != nil && len(cmds) > 0 && !greets[cmds[0].Name()] {
		h.Trip(time.Since(start), len(cmds), err)
	}
}

// silence sets the logger, which go-redis reads without a lock, only once.
var silence = sync.OnceFunc(func() { redis.SetLogger(Silence{}) })

// Silence keeps go-redis off standard error: what matters is logged where it
// is noticed.
type Silence struct{}

// Printf drops what go-redis says.
func (Silence) Printf(context.Context, string, ...any) {}
