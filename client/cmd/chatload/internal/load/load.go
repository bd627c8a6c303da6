// Package load is the load that chatload puts on a relay and the vault behind
// it: an open loop, and the scenarios that run in it.
package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// Config of a run. All of it is required, but TLS and what the scenario does
// not use.
type Config struct {
	URLs   []string // of relays, ws or wss; used in turn
	TLS    *tls.Config
	Pins   fleet.Pins
	Phones phones.Source
	Dialer *phones.Dialer

	Rate        float64       // arrivals a second
	Duration    time.Duration // over which they are offered
	MaxInFlight int           // operations at a time
	Timeout     time.Duration // of one operation; and for what is in flight at the end

	Connections int           // that a scenario holds
	Accounts    int           // that are registered before; 0: as many as the scenario needs
	Every       time.Duration // between two storms
	ProbeRate   float64       // of a good client's echoes beside abuse, a second
	CutWithin   time.Duration // the longest that a relay may leave a half-open socket
	// Drain tells the relay to drain; nil: somebody else does.
	Drain func() error
	KSF   client.KSF // of registrations
	Say   func(format string, args ...any)
}

// Env is what a scenario works with.
type Env struct {
	cfg  Config // static after construction
	keys fleet.Keys

	run      *measure.Run
	stageEnd time.Time // written between stages only
	failed   error     // why a stage could not begin; likewise
	target   atomic.Uint64
}

// plan is a scenario that was made ready.
type plan struct {
	prepare func(ctx context.Context) error // nil: nothing to do
	stages  []stage
	settle  func(ctx context.Context) // nil: nothing to do
	close   func()                    // nil: nothing to do
}

// Prepared is a scenario that can run.
type Prepared struct {
	env  *Env
	plan plan
}

// Prepare fetches the fleet's bundle and makes ready what the scenario needs,
// such as accounts with a registration. Nothing of it is measured.
func Prepare(ctx context.Context, s Scenario, cfg Config) (*Prepared, error) {
	e := &Env{cfg: cfg}
	if err := e.fetchBundle(ctx); err != nil {
		return nil, fmt.Errorf("fleet bundle: %w", err)
	}
	p, err := s.plan(e)
	if err != nil {
		return nil, err
	}
	if p.prepare != nil {
		if err := p.prepare(ctx); ctx.Err() != nil {
			return nil, errors.New("interrupted while preparing: nothing was measured")
		} else if err != nil {
			return nil, fmt.Errorf("prepare %s: %w", s.Name, err)
		}
	}
	return &Prepared{env: e, plan: p}, nil
}

// Length is how long the run will take, without what is in flight at its end.
func (p *Prepared) Length() (length time.Duration) {
	for _, s := range p.plan.stages {
		most := s.atLeast
		for _, st := range s.streams {
			most = max(most, st.arrivals.Span())
		}
		length += most
	}
	return length
}

// Run offers the load and returns when it is over, or soon after ctx ended;
// then it reports false. Connections that the scenario holds stand until Close.
func (p *Prepared) Run(ctx context.Context, run *measure.Run) (whole bool, err error) {
	p.env.run = run
	for _, s := range p.plan.stages {
		if !p.env.runStage(ctx, s) {
			return false, p.env.failed
		}
	}
	if p.plan.settle != nil {
		p.plan.settle(ctx)
	}
	return true, nil
}

// Close ends whatever the scenario holds. After Run only.
func (p *Prepared) Close() {
	if p.plan.close != nil {
		p.plan.close()
	}
}

// url is the next relay.
func (e *Env) url() string {
	return e.cfg.URLs[(e.target.Add(1)-1)%uint64(len(e.cfg.URLs))]
}

// fetchBundle gets the fleet's keys the way a phone does.
func (e *Env) fetchBundle(ctx context.Context) error {
	u, err := url.Parse(e.cfg.URLs[0])
	if err != nil {
		return err
	}
	u.Scheme = map[string]string{"wss": "https", "ws": "http"}[u.Scheme]
	u.Path = frame.FleetPath
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	h := &http.Client{Transport: &http.Transport{DialContext: e.cfg.Dialer.Dial, TLSClientConfig: e.tls(""), DisableKeepAlives: true}}
	resp, err := h.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	signed, err := io.ReadAll(io.LimitReader(resp.Body, fleet.MaxSize+1))
	if err != nil {
		return err
	}
	bundle, err := e.cfg.Pins.Open(signed, time.Now())
	if err != nil {
		return err
	}
	keys, _, ok := bundle.Find(e.cfg.Pins.Fleet)
	if !ok {
		return errors.New("it does not have the fleet")
	}
	e.keys = keys
	return nil
}

// tls is a configuration of its own for one user, for a host unless that is
// empty.
func (e *Env) tls(host string) *tls.Config {
	c := &tls.Config{}
	if e.cfg.TLS != nil {
		c = e.cfg.TLS.Clone()
	}
	if host != "" && c.ServerName == "" {
		c.ServerName = host
	}
	return c
}

// auth answers a HELLO for a phone.
func auth(ctx context.Context, p phones.Phone, hello frame.Hello, relayURL string) (frame.Auth, error) {
	host, err := ticket.Host(relayURL)
	if err != nil {
		return frame.Auth{}, err
	}
	t, err := p.Ticket(ctx)
	if err != nil {
		return frame.Auth{}, err
	}
	proof, err := ticket.SignRelayAuth(p.Device, hello.Nonce, host, ticket.Hash(t))
	if err != nil {
		return frame.Auth{}, err
	}
	return frame.Auth{DeviceKey: p.Device.Public(), Signature: proof, Host: host, Ticket: t}, nil
}

// dialRaw is a connection below the WebSocket: TCP, or TLS over it.
func (e *Env) dialRaw(ctx context.Context, relayURL string, withTLS bool) (net.Conn, error) {
	u, err := url.Parse(relayURL)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"wss": "443", "ws": "80"}[u.Scheme]
	}
	raw, err := e.cfg.Dialer.Dial(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil || u.Scheme != "wss" || !withTLS {
		return raw, err
	}
	c := tls.Client(raw, e.tls(u.Hostname()))
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}
