package uplink

import (
	"context"
	"net"
	"net/netip"
	"time"

	"chatvault/chatd/internal/clock"
)

const (
	resolveEvery   = 15 * time.Second
	resolveTimeout = 5 * time.Second
)

// systemResolve is net's resolver.
func systemResolve(ctx context.Context, host string) ([]string, error) {
	return net.DefaultResolver.LookupHost(ctx, host)
}

// resolveLoop keeps the keepers in step with what --vault means now.
func (p *Pool) resolveLoop(ctx context.Context) {
	known := map[string][]string{} // what each name meant when it was last known
	for ctx.Err() == nil {
		p.list(p.addresses(ctx, known))
		again, release := clock.After(p.cfg.Clock, resolveEvery)
		select {
		case <-again:
		case <-ctx.Done():
		}
		release()
	}
}

// addresses resolves every name of --vault. A name that cannot be resolved now
// keeps its last meaning: an outage of DNS cuts nobody off.
func (p *Pool) addresses(ctx context.Context, known map[string][]string) map[string]bool {
	want := map[string]bool{}
	for _, vault := range p.cfg.Vaults {
		host, port, err := net.SplitHostPort(vault)
		if err != nil {
			continue // the configuration was checked: host:port
		}
		if _, err := netip.ParseAddr(host); err == nil {
			want[vault] = true
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		ips, err := p.cfg.Resolve(ctx, host)
		cancel()
		if err != nil {
			p.cfg.Log.Warn("a vault's name cannot be resolved", "name", host, "reason", err)
		} else {
			known[vault] = ips
		}
		for _, ip := range known[vault] {
			want[net.JoinHostPort(ip, port)] = true
		}
	}
	return want
}

// list starts keepers for each wanted address that has too few. One that is wanted
// no more takes no new sessions and ends with its link.
func (p *Pool) list(want map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s, k := range p.keepers {
		k.listed = want[s.addr]
	}
	for addr := range want {
		for n := range p.cfg.Links {
			if s := (slot{addr, n}); p.keepers[s] == nil {
				p.startLocked(s, true)
			}
		}
	}
	p.changeLocked()
}
