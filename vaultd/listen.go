package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"chatvault/protocol/cmdline"
	"chatvault/protocol/cmdline/admin"
	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/p11"
	"chatvault/vaultd/internal/metrics"
	"chatvault/vaultd/internal/pki"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/session"
	"chatvault/vaultd/internal/uplink"
	"chatvault/vaultd/internal/vault"
)

// node is a vault node whose parts are there.
type node struct {
	cfg      *serveCmd
	vault    *vault.Vault
	module   hsm.Module
	store    recordstore.Store
	metrics  *metrics.Metrics
	log      *slog.Logger
	draining atomic.Bool
}

// serve takes uplinks until ctx ends, then drains: sessions in flight finish, new
// ones are refused.
func (n *node) serve(ctx context.Context) error {
	c, log := n.cfg, n.log
	tls, err := pki.ServerTLS(c.TLSCert, c.TLSKey, c.TLSCA)
	if err != nil {
		return cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	}
	// A node id lives as long as the process, as its sessions do.
	var id frame.NodeID
	rand.Read(id[:])
	sessions, err := n.sessions(ctx, id)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.Background()) // through the drain
	defer stop()
	go sessions.Run(running)
	server := uplink.New(uplink.Config{TLS: tls, Node: id, Fleet: c.Fleet, Sessions: sessions, MaxUplinks: c.MaxUplinks, Log: log})
	go n.reloadTLS(running, server)
	stopAdmin, err := n.admin(running, sessions, server)
	if err != nil {
		return err
	}
	defer stopAdmin()
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	log.Info("listening", "address", listener.Addr().String(), "fleet", c.Fleet, "node", fmt.Sprintf("%x", id), "pid", os.Getpid())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return errors.Join(errors.New("uplinks are no longer accepted"), err)
	case <-ctx.Done():
	}
	n.draining.Store(true)
	log.Info("draining", "cause", context.Cause(ctx).Error(), "sessions", sessions.Len(), "for", c.Drain.String())
	drain, cancel := context.WithTimeout(context.Background(), c.Drain)
	defer cancel()
	server.Shutdown(drain)
	<-failed
	log.Info("drained")
	return nil
}

// sessions makes the table of the vault sessions of this node.
func (n *node) sessions(ctx context.Context, id frame.NodeID) (*session.Table, error) {
	static, err := n.module.Public(ctx, hsm.Noise)
	if err != nil {
		return nil, fmt.Errorf("noise public key: %w", err)
	}
	module, c := n.metrics.HSM(n.module), n.cfg
	return session.New(session.Config{
		Fleet: c.Fleet, Node: id, StaticPublic: static,
		StaticDH: func(peer []byte) ([]byte, error) {
			// Else handshakes would queue without end behind a slow HSM.
			ctx, cancel := context.WithTimeout(context.Background(), c.SessionIdle)
			defer cancel()
			return module.DHX(ctx, hsm.Noise, peer)
		},
		NewConversation: func(h [32]byte) session.Conversation { return n.metrics.Conversation(n.vault.NewConversation(h)) },
		MaxSessions:     c.MaxSessions, Idle: c.SessionIdle, Log: n.log,
	}), nil
}

// admin opens the operators' listener, if there is to be one. It stays until the
// drain is over.
func (n *node) admin(ctx context.Context, sessions *session.Table, server *uplink.Server) (stop func(), err error) {
	if n.cfg.Admin == "" {
		return func() {}, nil
	}
	module := metrics.NewHealth(n.metrics.HSM(n.module).Healthy)
	store := metrics.NewHealth(func(ctx context.Context) error {
		_, err := n.store.Position(ctx)
		return err
	})
	go module.Run(ctx)
	go store.Run(ctx)
	sources := metrics.Sources{
		Sessions: sessions, Uplinks: server,
		Ready: map[string]func() bool{"hsm": module.Good, "store": store.Good},
	}
	if m, ok := n.module.(*p11.Module); ok {
		sources.HSM = func() metrics.HSMState {
			s := m.Stats()
			return metrics.HSMState{Idle: s.Idle, Busy: s.Busy, Recoveries: s.Recoveries, Recycles: s.Recycles}
		}
	}
	n.metrics.Watch(sources)
	return n.cfg.AdminFlags.Start(ctx, n.log, admin.Config{
		Ready:   func() bool { return !n.draining.Load() && module.Good() && store.Good() },
		Metrics: n.metrics.Registry,
	})
}

// reloadTLS reads this node's certificate and the private CA again at SIGHUP: for
// the uplinks that begin from then on.
func (n *node) reloadTLS(ctx context.Context, server *uplink.Server) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			config, err := pki.ServerTLS(n.cfg.TLSCert, n.cfg.TLSKey, n.cfg.TLSCA)
			if err != nil {
				n.log.Error("reload failed, the old certificates stay", "err", err)
				continue
			}
			server.SetTLS(config)
			n.log.Info("reloaded the uplink's certificates")
		}
	}
}
