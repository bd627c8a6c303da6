package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"chatvault/protocol/cmdline"
	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/pki"
	"chatvault/vaultd/internal/session"
	"chatvault/vaultd/internal/uplink"
	"chatvault/vaultd/internal/vault"
)

// serve takes uplinks until ctx ends, then drains: sessions in flight finish, new
// ones are refused.
func (c *serveCmd) serve(ctx context.Context, v *vault.Vault, module hsm.Module, log *slog.Logger) error {
	tls, err := pki.ServerTLS(c.TLSCert, c.TLSKey, c.TLSCA)
	if err != nil {
		return cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	}
	static, err := module.Public(ctx, hsm.Noise)
	if err != nil {
		return fmt.Errorf("noise public key: %w", err)
	}
	// A node id lives as long as the process, as its sessions do.
	var node frame.NodeID
	rand.Read(node[:])
	sessions := session.New(session.Config{
		Fleet: c.Fleet, Node: node, StaticPublic: static,
		StaticDH: func(peer []byte) ([]byte, error) {
			// Else handshakes would queue without end behind a slow HSM.
			ctx, cancel := context.WithTimeout(context.Background(), c.SessionIdle)
			defer cancel()
			return module.DHX(ctx, hsm.Noise, peer)
		},
		NewConversation: func(h [32]byte) session.Conversation { return v.NewConversation(h) },
		MaxSessions:     c.MaxSessions, Idle: c.SessionIdle, Log: log,
	})
	running, stop := context.WithCancel(context.Background()) // through the drain
	defer stop()
	go sessions.Run(running)
	server := uplink.New(uplink.Config{TLS: tls, Node: node, Fleet: c.Fleet, Sessions: sessions, Log: log})
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	log.Info("listening", "address", listener.Addr().String(), "fleet", c.Fleet, "node", fmt.Sprintf("%x", node), "pid", os.Getpid())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return errors.Join(errors.New("uplinks are no longer accepted"), err)
	case <-ctx.Done():
	}
	log.Info("draining", "cause", context.Cause(ctx).Error(), "sessions", sessions.Len(), "for", c.Drain.String())
	drain, cancel := context.WithTimeout(context.Background(), c.Drain)
	defer cancel()
	server.Shutdown(drain)
	<-failed
	log.Info("drained")
	return nil
}
