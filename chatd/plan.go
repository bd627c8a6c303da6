package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"chatvault/chatd/internal/admission"
	"chatvault/chatd/internal/redisconn"
	"chatvault/chatd/internal/relay"
	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/fleet"
	"chatvault/protocol/ticket"
	"chatvault/protocol/ticket/jwksurl"
)

// plan is a configuration that was checked, with its files read.
type plan struct {
	cfg       *Config
	relay     relay.Config // Hosts nil: those of the loopback listener
	clientTLS *tls.Config  // nil: plain
	vaultTLS  *tls.Config
	// vaultLinks is how many uplinks each vault node has.
	vaultLinks int
	tickets    *ticket.Verifier
	redis      redisconn.Options
	notices    *noticePlan // nil: nobody is told
	// certificate is the clients'; nil without clientTLS.
	certificate atomic.Pointer[tls.Certificate]
	// redisCertificate is chatd's for Redis; nil: none.
	redisCertificate atomic.Pointer[tls.Certificate]
}

// newPlan checks everything that can be checked before anything is opened.
func newPlan(cfg *Config, log *slog.Logger) (*plan, error) {
	p := &plan{cfg: cfg}
	for _, step := range []func() error{
		p.checkNumbers, cfg.AdminFlags.Check, p.checkListener, p.checkNames, p.checkVaults, p.checkFleet, p.checkRedis,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if err := p.checkIssuers(log); err != nil {
		return nil, err
	}
	return p, p.checkNotices()
}

func (p *plan) checkNumbers() (err error) {
	cfg, r := p.cfg, &p.relay
	for _, d := range []struct {
		name     string
		value    time.Duration
		min, max time.Duration
	}{
		{"auth-timeout", cfg.AuthTimeout, time.Second, time.Minute},
		{"ping", cfg.Ping, time.Second, 10 * time.Minute},
		{"drain", cfg.Drain, 0, time.Hour},
		{"drain-delay", cfg.DrainDelay, 0, 5 * time.Minute},
	} {
		if d.value < d.min || d.value > d.max {
			return fmt.Errorf("%s: %v is not between %v and %v", d.name, d.value, d.min, d.max)
		}
	}
	if n := cfg.MaxSessionsPerConnection; n < 1 || n > 1000 {
		return fmt.Errorf("max-sessions-per-connection: %d is not between 1 and 1000", n)
	}
	if n := cfg.MaxQueuedMB; n < 1 || n > 1<<20 {
		return fmt.Errorf("max-queued-mb: %d is not between 1 and %d", n, 1<<20)
	}
	if cfg.MaxConnections < 0 {
		return fmt.Errorf("max-connections: %d is negative", cfg.MaxConnections)
	}
	if r.MaxConnections, err = admission.Capacity(cfg.MaxConnections); err != nil {
		return fmt.Errorf("max-connections: %w", err)
	}
	if r.Limits, err = readLimits(cfg); err != nil {
		return err
	}
	r.MaxSessionsPerConnection = cfg.MaxSessionsPerConnection
	r.MaxQueuedBytes = int64(cfg.MaxQueuedMB) << 20
	r.AuthTimeout, r.Ping, r.Drain = cfg.AuthTimeout, cfg.Ping, cfg.Drain
	return nil
}

func (p *plan) checkListener() error {
	cfg := p.cfg
	if _, _, err := net.SplitHostPort(cfg.Listen); err != nil {
		return fmt.Errorf("listen: want HOST:PORT or :PORT: %w", err)
	}
	for _, s := range cfg.BehindProxy {
		prefix, err := netip.ParsePrefix(s)
		if err != nil || prefix != prefix.Masked() {
			return fmt.Errorf("behind-proxy: %q is no range such as 10.0.0.0/8", s)
		}
		p.relay.Proxies = append(p.relay.Proxies, prefix)
	}
	if (cfg.TLSCert == "") != (cfg.TLSKey == "") {
		return errors.New("tls-cert and tls-key: set both or none")
	}
	if cfg.TLSCert == "" {
		if !admission.IsLoopback(cfg.Listen) && len(cfg.BehindProxy) == 0 {
			return fmt.Errorf("listen: %s can be reached from elsewhere: set tls-cert and tls-key, or behind-proxy", cfg.Listen)
		}
		return nil
	}
	cert, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
	if err != nil {
		return fmt.Errorf("tls-cert and tls-key: %w", err)
	}
	p.certificate.Store(&cert)
	p.clientTLS = p.serverTLS()
	return nil
}

func (p *plan) checkNames() (err error) {
	if len(p.cfg.Host) == 0 && !admission.IsLoopback(p.cfg.Listen) {
		return fmt.Errorf("host: wanted, because %s is not on loopback", p.cfg.Listen)
	}
	if len(p.cfg.Host) > 0 {
		if p.relay.Hosts, err = admission.Hosts(p.cfg.Host); err != nil {
			return err
		}
	}
	p.relay.Origins, err = admission.Origins(p.cfg.Origin)
	return err
}

func (p *plan) checkVaults() (err error) {
	for _, v := range p.cfg.Vault {
		if host, port, err := net.SplitHostPort(v); err != nil || host == "" || port == "" {
			return fmt.Errorf("vault: %q: want HOST:PORT", v)
		}
	}
	if n := p.cfg.VaultLinks; n < 0 || n > uplink.MaxLinks {
		return fmt.Errorf("vault-links: %d is not between 0 and %d", n, uplink.MaxLinks)
	}
	p.vaultLinks = p.cfg.VaultLinks
	if p.vaultLinks == 0 {
		p.vaultLinks = linksFor(runtime.GOMAXPROCS(0))
	}
	p.vaultTLS, err = uplink.LoadTLS(p.cfg.VaultCA, p.cfg.VaultCert, p.cfg.VaultKey)
	return err
}

// linksFor is how many uplinks a vault node has when nobody says it: one for each
// four cores, since there are several nodes.
func linksFor(cores int) int { return min((cores+3)/4, uplink.MaxLinks) }

// maxBundle is the size of the largest fleet bundle that is read, in bytes.
const maxBundle = 1 << 20

func (p *plan) checkFleet() error {
	if !fleet.ValidID(p.cfg.Fleet) {
		return fmt.Errorf("fleet: %q is no fleet id", p.cfg.Fleet)
	}
	info, err := os.Stat(p.cfg.FleetBundle)
	if err == nil && info.Size() > maxBundle {
		err = fmt.Errorf("%s is larger than %d bytes", p.cfg.FleetBundle, maxBundle)
	}
	if err == nil {
		p.relay.Bundle, err = os.ReadFile(p.cfg.FleetBundle)
	}
	if err == nil {
		p.relay.BundleEpoch, err = fleet.Epoch(p.relay.Bundle)
	}
	if err != nil {
		return fmt.Errorf("fleet-bundle: %w", err)
	}
	return nil
}

func (p *plan) checkIssuers(log *slog.Logger) (err error) {
	p.tickets, err = ticket.NewVerifier(p.cfg.Issuers, []string{p.cfg.Fleet}, ticket.Options{
		Fetch: jwksurl.Fetcher(nil),
		Report: func(issuer string, err error) {
			log.Warn("an issuer's keys cannot be fetched", "issuer", issuer, "reason", err)
		},
	})
	return err
}
