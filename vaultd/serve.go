package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"chatvault/protocol/cmdline"
	"chatvault/protocol/cmdline/admin"
	"chatvault/protocol/fleet"
	"chatvault/protocol/ticket"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/memhsm"
	"chatvault/vaultd/internal/hsm/p11"
	"chatvault/vaultd/internal/metrics"
	"chatvault/vaultd/internal/rules"
	"chatvault/vaultd/internal/vault"
)

// serveCmd is the configuration of a vault node, and its manual.
type serveCmd struct {
	cmdline.ConfigFlag

	Fleet  string `required:"" help:"Fleet id, as in the bundle."`
	Listen string `default:"127.0.0.1:9700" help:"Where chatd's uplinks arrive. vaultd dials nobody."`

	TLSCert string `name:"tls-cert" placeholder:"FILE" required:"" help:"This node's certificate, for the role vaultd.chatvault.internal (\"vaultd pki\" makes it)."`
	TLSKey  string `name:"tls-key" placeholder:"FILE" required:"" help:"Its private key."`
	TLSCA   string `name:"tls-ca" placeholder:"FILE" required:"" help:"The private CA whose certificates chatd.chatvault.internal are let in."`

	HSM         string `name:"hsm" required:"" placeholder:"URI" help:"Token as an RFC 7512 URI, or \"mem\": keys in memory, lost at exit, only with --insecure-dev."`
	PINFile     string `name:"pin-file" placeholder:"FILE" help:"File with the user PIN, mode 0600, if the URI has no pin-source."`
	HSMSessions int    `name:"hsm-sessions" default:"8" help:"HSM sessions, and so operations at a time. Half of them, 1 to 8, are what a sweep may use."`
	InsecureDev bool   `name:"insecure-dev" help:"Allow --hsm mem and --store mem. Everything is lost at exit."`

	storeFlags
	Epoch uint32 `default:"1" help:"Seal key for records written from now on, 1 to 32."`

	DestroyAfter time.Duration `name:"destroy-after" default:"24h" help:"How long an open attempt keeps a locked record alive."`
	SessionIdle  time.Duration `name:"session-idle" default:"60s" help:"How long a vault session may be silent."`
	ReplaceDelay time.Duration `name:"replace-delay" default:"72h" help:"How long a claim to replace or delete takes to ripen."`
	ClaimWindow  time.Duration `name:"claim-window" default:"168h" help:"How long a ripe claim may be used."`
	Pacing       bool          `default:"true" negatable:"" help:"Slow failures down on devices other than the owner's, from the sixth on."`
	MaxCharges   int           `name:"max-charges-per-hour" default:"100000" help:"Attempts charged in an hour by all vaults of the store together; beyond: paced, uncharged. The same on each. 0: no cap."`
	MaxLocks     int           `name:"max-locks-per-hour" default:"1000" help:"Accounts that may lose their last attempt in an hour, at all vaults of the store together; beyond: paced, uncharged. The same on each. 0: no cap."`
	MaxAccount   int           `name:"max-charges-per-account" default:"60" help:"Attempts charged to one account in an hour, at this vault; beyond: paced, uncharged. 0: no cap."`
	Sweep        time.Duration `default:"5m" help:"How often used-up records are looked for and destroyed, by all vaults of the store together; at most 5m. The same on each."`

	MaxSessions int           `name:"max-sessions" default:"50000" help:"Vault sessions at a time, about 8 KiB each; beyond: busy, uncharged."`
	MaxUplinks  int           `name:"max-uplinks" default:"256" help:"Uplinks of all chatds at a time; each chatd makes 1 to 4, as its vault-links says."`
	Drain       time.Duration `default:"30s" help:"How long sessions in flight may take at shutdown."`
	admin.AdminFlags

	MemoryLimit cmdline.Size `name:"memory-limit" default:"0" placeholder:"SIZE" help:"Soft memory limit of Go's runtime, as 2GiB; 0: nine tenths of the cgroup's, if it has one. GOMEMLIMIT wins."`
	LogLevel    slog.Level   `name:"log-level" default:"INFO" help:"DEBUG, INFO, WARN or ERROR."`
	CheckConfig bool         `name:"check-config" help:"Check flags and configuration, touch nothing, and exit."`

	Issuers []ticket.IssuerConfig `kong:"-" yaml:"issuers"`
}

// Validate is called by kong.
func (c *serveCmd) Validate() error {
	switch {
	case !fleet.ValidID(c.Fleet):
		return errors.New("--fleet: an id has 1 to 64 of a-z 0-9 . -")
	case c.Epoch < 1 || c.Epoch > hsm.Epochs:
		return fmt.Errorf("--epoch: 1 to %d", hsm.Epochs)
	case c.Sweep <= 0 || c.Sweep > 5*time.Minute:
		return errors.New("--sweep: more than 0, at most 5m")
	case c.SessionIdle <= 0 || c.DestroyAfter <= 0 || c.ReplaceDelay < 0 || c.ClaimWindow <= 0:
		return errors.New("times must be more than 0")
	case c.MaxCharges < 0 || c.MaxLocks < 0 || c.MaxAccount < 0:
		return errors.New("--max-charges-per-hour, --max-locks-per-hour and --max-charges-per-account: at least 0")
	case c.MaxSessions < 1 || c.HSMSessions < 1 || c.MaxUplinks < 1:
		return errors.New("--max-sessions, --max-uplinks and --hsm-sessions: at least 1")
	case c.HSM == "mem" && !c.InsecureDev:
		return errors.New("--hsm mem keeps every key in memory and loses it at exit: only with --insecure-dev")
	}
	if err := c.AdminFlags.Check(); err != nil {
		return fmt.Errorf("--%w", err)
	}
	return c.storeFlags.check(c.InsecureDev)
}

// Run serves until a signal comes.
func (c *serveCmd) Run(ctx context.Context, io cmdline.IO) error {
	log := slog.New(slog.NewJSONHandler(io.Err, &slog.HandlerOptions{Level: c.LogLevel}))
	if len(c.Issuers) == 0 {
		return cmdline.Usagef("no issuers: the configuration file must list who mints tickets (issuers:)")
	}
	// No Fetch: a vault dials nobody, so keys come from files.
	tickets, err := ticket.NewVerifier(c.Issuers, []string{c.Fleet}, ticket.Options{})
	if err != nil {
		return cmdline.ExitError{Code: cmdline.ExitUsage, Err: err}
	}
	if c.CheckConfig {
		fmt.Fprintln(io.Out, "the configuration is good")
		return nil
	}
	cmdline.LimitMemory(c.MemoryLimit, log)
	if c.InsecureDev {
		log.Warn("--insecure-dev: keys or records may be in memory only; never use this for anybody's backup")
	}
	n := &node{cfg: c, metrics: metrics.New(), log: log}
	if n.module, err = c.openHSM(ctx, log); err != nil {
		return explain(err)
	}
	defer n.module.Close()
	if n.store, err = c.openStore(ctx, log); err != nil {
		return err
	}
	defer n.store.Close()
	n.vault, err = vault.New(ctx, vault.Config{
		Fleet: c.Fleet, Store: n.metrics.Store(n.store), HSM: n.metrics.HSM(n.module), Tickets: tickets, Epoch: c.Epoch, Logger: log,
		MaxCharges: c.MaxCharges, MaxLocks: c.MaxLocks, MaxAccountCharges: c.MaxAccount, Sweepers: c.sweepers(), Count: n.metrics.Count,
		Params: rules.Params{DestroyAfter: c.DestroyAfter, ReplaceDelay: c.ReplaceDelay, ClaimWindow: c.ClaimWindow, Pacing: c.Pacing},
	})
	if err != nil {
		return explain(err)
	}
	go c.sweep(ctx, n.vault, log)
	go reloadOnHangup(ctx, tickets, log)
	return n.serve(ctx)
}

func (c *serveCmd) openHSM(ctx context.Context, log *slog.Logger) (hsm.Module, error) {
	if c.HSM == "mem" {
		return memhsm.New()
	}
	return p11.Open(ctx, p11.Config{URI: c.HSM, PINFile: c.PINFile, Sessions: c.HSMSessions, Log: log})
}

// sweepers leaves half of the HSM's sessions to people: a sweep opens records without
// a pause, and an HSM serves in turn.
func (c *serveCmd) sweepers() int { return min(max(c.HSMSessions/2, 1), 8) }

// sweep destroys what is used up, at start and then at intervals: this node's part of
// what the vaults of the store share.
func (c *serveCmd) sweep(ctx context.Context, v *vault.Vault, log *slog.Logger) {
	ticker := time.NewTicker(max(c.Sweep/vault.SweepsPerPeriod, time.Millisecond))
	defer ticker.Stop()
	for {
		n, err := v.SweepDue(ctx, c.Sweep)
		switch {
		case err != nil && ctx.Err() == nil:
			log.Error("sweep failed", "destroyed", n, "err", err)
		case n > 0:
			log.Info("swept", "destroyed", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// reloadOnHangup reads the issuers' key files again at SIGHUP.
func reloadOnHangup(ctx context.Context, tickets *ticket.Verifier, log *slog.Logger) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			if err := tickets.Reload(); err != nil {
				log.Error("reload failed, the old keys stay", "err", err)
			} else {
				log.Info("reloaded the issuers' keys")
			}
		}
	}
}
