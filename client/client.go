// Package client is the SDK: what a phone does to keep its backup key in a
// vault, and to get it back.
//
//	c, err := client.New(client.Config{URL: "wss://vault.example.com/v1/ws", Pins: pins,
//		Device: deviceKey, Tickets: askOurBackend, Store: store})
//	...
//	receipt, err := c.Register(ctx, password, key, client.RegisterOptions{})
//	...
//	recovered, err := c.Recover(ctx, password) // on the next phone
//
// Every operation connects when it must, reconnects when the network changes,
// goes on with the same vault session or, when that is gone, with a new one,
// and never pays twice for a password that the person typed once.
//
// Encrypt, Decrypt and the recovery key work without any network.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	"chatvault/client/internal/relay"
	"chatvault/client/internal/state"
	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// Defaults of Config.
const (
	DefaultTimeout     = 2 * time.Minute
	DefaultConnectWait = 8 * time.Second
	DefaultReplyWait   = 10 * time.Second
	DefaultMaxWait     = 5 * time.Second
)

// Config is what a Client is made of. URL, Pins, Tickets, Device and Store are
// required.
type Config struct {
	// URL is the relay's endpoint, wss://host[:port]/v1/ws. The fleet bundle
	// is fetched from /v1/fleet of the same host. ws:// is accepted for
	// loopback addresses only, unless AllowInsecure.
	URL string
	// AllowInsecure accepts ws:// to any host: the relay's TLS hides tickets
	// and who talks from the network. For test beds.
	AllowInsecure bool
	// TLS is used for both; nil means the system's roots. It is cloned, and
	// gets a cache of TLS sessions if it has none.
	TLS *tls.Config
	// Pins name the fleet, its two signers and the lowest bundle epoch. The
	// Store may raise the epoch, never lower it.
	Pins fleet.Pins
	// Tickets asks the app's backend for a ticket for Device. It is called
	// when there is none, before the last one ends, and when the relay or the
	// vault says that it has ended; then it must bring another one. It may be
	// called from a goroutine of the Client, never twice at once.
	Tickets func(ctx context.Context) (string, error)
	// Device is the device key that tickets are bound to.
	Device ticket.DeviceKey
	// Store keeps the Client's state; see there.
	Store Store
	// Notice is called, when set, for each doorbell of the relay: something
	// has happened to this account, ask Status. It must not block.
	Notice func()
	// Dial makes the TCP connections; nil means net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Timeout bounds one operation, reconnecting included, besides its
	// context. 0 means DefaultTimeout.
	Timeout time.Duration
	// ConnectWait bounds one attempt to connect, to READY. An operation that
	// has reached no relay after this time begins no further attempt. 0 means
	// DefaultConnectWait.
	ConnectWait time.Duration
	// ReplyWait is how long a request waits before its bytes are repeated,
	// because the request or its reply may be lost. 0 means DefaultReplyWait.
	ReplyWait time.Duration
	// MaxWait is the longest "retry in" of a relay or vault that an operation
	// waits out by itself; a longer one is returned as an Error. 0 means
	// DefaultMaxWait.
	MaxWait time.Duration

	// Logger receives what happens, without secrets; nil discards.
	Logger *slog.Logger
	// Now is the clock, for tests of expiry; nil means time.Now.
	Now func() time.Time
}

// check fills in the defaults, and says what cannot work.
func (cfg Config) check() (Config, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return cfg, errors.New("client: URL must be like wss://host[:port]" + frame.Path)
	}
	switch u.Scheme {
	case "wss":
	case "ws":
		if !cfg.AllowInsecure && !loopback(u.Hostname()) {
			return cfg, fmt.Errorf("client: ws:// to %s, which is not loopback: use wss://", u.Hostname())
		}
	default:
		return cfg, errors.New("client: URL must begin with wss:// or ws://")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = frame.Path
	}
	cfg.URL = u.String()
	switch {
	case cfg.Tickets == nil:
		return cfg, errors.New("client: Config.Tickets is missing")
	case cfg.Device.IsZero():
		return cfg, errors.New("client: Config.Device is missing")
	case cfg.Store == nil:
		return cfg, errors.New("client: Config.Store is missing")
	}
	if _, err := cfg.Pins.MarshalJSON(); err != nil {
		return cfg, fmt.Errorf("client: %w", err)
	}
	cfg.Timeout = orDefault(cfg.Timeout, DefaultTimeout)
	cfg.ConnectWait = orDefault(cfg.ConnectWait, DefaultConnectWait)
	cfg.ReplyWait = orDefault(cfg.ReplyWait, DefaultReplyWait)
	cfg.MaxWait = orDefault(cfg.MaxWait, DefaultMaxWait)
	if cfg.TLS == nil {
		cfg.TLS = &tls.Config{}
	}
	cfg.TLS = cfg.TLS.Clone()
	if cfg.TLS.ClientSessionCache == nil {
		// The same relay again costs it no signature, and the phone no
		// verification.
		cfg.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg, nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Client talks to the vault for one account on one device. Its operations may
// be called from any goroutine; they run one after the other.
type Client struct {
	cfg     Config // static after construction
	link    *relay.Link
	tickets *tickets
	bundles *bundles
	busy    chan struct{} // the lock of operations, that a context can give up on

	state *state.State // guarded by busy
}

// New checks the configuration and reads the Store. It does not connect.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	blob, err := cfg.Store.Load()
	if err != nil {
		return nil, fmt.Errorf("%w: loading: %w", ErrStore, err)
	}
	st, err := state.Parse(blob)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	c := &Client{cfg: cfg, state: st, busy: make(chan struct{}, 1), tickets: newTickets(cfg)}
	c.bundles = newBundles(c)
	host, err := ticket.Host(cfg.URL)
	if err != nil {
		return nil, err
	}
	c.link = relay.New(relay.Config{
		URL: cfg.URL, TLS: cfg.TLS, Dial: cfg.Dial, Auth: c.auth(host), Notice: cfg.Notice,
		ConnectWait: cfg.ConnectWait, ReplyWait: cfg.ReplyWait, MaxWait: cfg.MaxWait, Log: cfg.Logger,
	})
	return c, nil
}

// Close ends the connection. Operations in flight and later ones fail with
// ErrClosed.
func (c *Client) Close() error {
	c.link.Close()
	return nil
}

// auth answers the relay's HELLO with the ticket and a proof of the device key.
func (c *Client) auth(host string) func(context.Context, frame.Hello, bool) (frame.Auth, time.Time, error) {
	// A connection that is being made and one that is renewed may both ask.
	var last atomic.Pointer[string]
	return func(ctx context.Context, hello frame.Hello, fresh bool) (frame.Auth, time.Time, error) {
		if used := last.Load(); fresh && used != nil {
			c.tickets.ended(*used)
		}
		t, _, due, err := c.tickets.get(ctx)
		if err != nil {
			return frame.Auth{}, due, err
		}
		last.Store(&t)
		proof, err := ticket.SignRelayAuth(c.cfg.Device, hello.Nonce, host, ticket.Hash(t))
		if err != nil {
			return frame.Auth{}, due, err
		}
		return frame.Auth{DeviceKey: c.cfg.Device.Public(), Signature: proof, Host: host, Ticket: t}, due, nil
	}
}

// save stores the state, before whatever depends on it.
func (c *Client) save() error {
	blob, err := c.state.Encode()
	if err == nil {
		err = c.cfg.Store.Save(blob)
	}
	if err != nil {
		return fmt.Errorf("%w: saving: %w", ErrStore, err)
	}
	return nil
}
