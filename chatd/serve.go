package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"chatvault/chatd/internal/admission"
	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/count"
	"chatvault/chatd/internal/metrics"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/redisconn"
	"chatvault/chatd/internal/relay"
	"chatvault/chatd/internal/route"
	"chatvault/chatd/internal/uplink"
	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/cmdline/admin"
)

type checkCmd struct {
	Config `embed:""`
}

// Run checks.
func (c *checkCmd) Run(std cmdline.IO) error {
	if _, err := newPlan(&c.Config, slog.New(slog.DiscardHandler)); err != nil {
		return cmdline.Usagef("%w", err)
	}
	_, err := fmt.Fprintln(std.Out, "ok")
	return err
}

type serveCmd struct {
	Config `embed:""`
}

// Run serves until a signal, then drains.
func (c *serveCmd) Run(ctx context.Context, std cmdline.IO, args arguments) error {
	log := newLog(&c.Config, std.Err)
	p, err := newPlan(&c.Config, log)
	if err != nil {
		return cmdline.Usagef("%w", err)
	}
	cmdline.LimitMemory(c.MemoryLimit, log)
	ctx, stop := cmdline.Signals(ctx)
	defer stop()
	return p.serve(ctx, log, args)
}

func newLog(cfg *Config, to io.Writer) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(cfg.LogLevel)) // kong has checked it
	o := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(to, o))
	}
	return slog.New(slog.NewJSONHandler(to, o))
}

// serve wires the parts, serves until ctx ends, and drains.
func (p *plan) serve(ctx context.Context, log *slog.Logger, args arguments) error {
	hangup := hangups()
	listener, err := p.listen(ctx)
	if err != nil {
		return err
	}
	defer listener.Close()
	counts := new(count.Set)
	shown := metrics.New(counts)
	p.redis.Watch = redisconn.Watch{Trip: shown.RedisTrip, Dial: shown.RedisDial}
	redis, closeRedis := redisconn.Connect(p.redis)
	defer closeRedis()
	directory := route.New(route.Options{
		Client: redis, Clock: clock.System{}, Change: redisChange(log, counts, "routes and notices"), Count: counts.Add,
	})
	webhook, unheard := p.webhook(counts)
	turning := wheel.New(clock.System{})
	defer turning.Stop()
	pool := uplink.NewPool(uplink.Config{
		Fleet: p.cfg.Fleet, TLS: p.vaultTLS, Vaults: p.cfg.Vault, Links: p.vaultLinks, Clock: clock.System{}, Wheel: turning, Log: log,
		Up: directory.NodeUp, Down: directory.NodeDown,
	})
	local := ratelimit.NewLocal(clock.System{})
	shared := ratelimit.NewFailOpen(p.spender(redis, local), local, clock.System{}, redisChange(log, counts, "limits"))
	r := relay.New(p.relay, relay.Parts{
		Tickets: p.tickets, Vaults: pool, Directory: directory, Shared: shared, Local: local,
		Clock: clock.System{}, Wheel: turning, Log: log, Counts: counts, Handshake: shown.Handshake,
		Unheard: unheard,
	})
	shown.Watch(metrics.Sources{Relay: r, Vaults: pool, RedisFailing: map[string]func() bool{
		"limits": shared.Failing, "routes": directory.Failing,
	}})
	stopAdmin, err := p.cfg.AdminFlags.Start(ctx, log, admin.Config{Ready: r.Ready, Metrics: shown.Registry})
	if err != nil {
		return err
	}
	defer stopAdmin()
	reloads := live{plan: p, args: args, relay: r, vaults: pool, webhook: webhook, counts: counts, log: log}
	defer reloads.reloadOn(hangup)()

	// The background outlives the signal: sessions in flight need it.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { pool.Run(background) })
	running.Go(func() { directory.Run(background, route.Heard{Ring: r.Ring, Replace: r.Replace}) })
	if webhook != nil {
		running.Go(func() { webhook.Run(background) })
	}
	defer running.Wait()
	defer cancel()
	return p.serveHTTP(ctx, log, r, &admission.Listener{
		Listener: listener,
		Max:      admission.Sockets(p.relay.MaxConnections),
		Refused:  func() { counts.Add("refused_sockets") },
	})
}

// spender counts where all relays of this Redis count.
func (p *plan) spender(client ratelimit.Pipeliner, local *ratelimit.Local) ratelimit.Spender {
	if p.redis.Kind == redisconn.Embedded {
		return ratelimit.NewBeside(client, local)
	}
	return ratelimit.NewRedis(client)
}

// listen opens the listener, and names a loopback one if nothing else did.
func (p *plan) listen(ctx context.Context) (net.Listener, error) {
	// No TCP keepalive: it would wake phones every 15 s for nothing. The relay
	// pings.
	listener, err := (&net.ListenConfig{KeepAlive: -1, Control: admission.Control}).Listen(ctx, "tcp", p.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	if p.relay.Hosts == nil {
		if p.relay.Hosts, err = admission.LoopbackHosts(listener.Addr()); err != nil {
			listener.Close()
			return nil, err
		}
	}
	return listener, nil
}

func (p *plan) serveHTTP(ctx context.Context, logger *slog.Logger, r *relay.Relay, sockets *admission.Listener) error {
	server := relay.NewFront(r, p.clientTLS)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(sockets) }()
	logger.Info("listening", "address", sockets.Addr().String(), "tls", p.clientTLS != nil, "max_connections", p.relay.MaxConnections)
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	r.Unready() // before anybody can read that it drains
	logger.Info("draining", "cause", context.Cause(ctx), "delay", p.cfg.DrainDelay.String(), "at_most", p.cfg.Drain.String())
	select {
	case <-time.After(p.cfg.DrainDelay):
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		r.Drain()
	}()
	// Stops accepting at once; waits only for requests that are no WebSocket.
	shut, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(shut); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		logger.Warn("stopping the listener", "reason", err)
	}
	<-drained
	logger.Info("stopped", "counts", r.Counts)
	return nil
}

// redisChange says when Redis begins to fail and when it answers again.
func redisChange(log *slog.Logger, counts *count.Set, what string) func(error) {
	return func(err error) {
		if err == nil {
			log.Info("redis answers again", "for", what)
			return
		}
		counts.Add("redis_failed")
		log.Warn("redis does not answer; this relay goes on alone", "for", what, "reason", err)
	}
}
