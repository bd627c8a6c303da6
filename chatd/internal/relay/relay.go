// Package relay serves clients: WebSocket, HELLO, AUTH, READY, and then frames
// of vault sessions, which it carries to the vault nodes and back unread.
//
// A connection that is not idle has one goroutine, which reads (park.go). Whoever
// has something for the client writes what the socket takes at once; the rest is
// queued, and a goroutine writes while the queue holds anything (outbox.go). One
// timer wheel serves all connections: AUTH, pings, the end of the ticket, drain.
package relay

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/admission"
	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/count"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/route"
	"chatvault/chatd/internal/uplink"
	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// Config of a Relay. Nothing in it has a default here: chatd's configuration
// has them all.
type Config struct {
	// Hosts are the hosts that AUTH may name.
	Hosts admission.Names
	// Origins may connect from web pages; no Origin header is always allowed.
	Origins admission.Names
	// Proxies, if any, tell the client's address.
	Proxies admission.Proxies
	Limits  *ratelimit.Rules
	// BundleEpoch is what HELLO names, Bundle what FleetPath serves.
	BundleEpoch uint32
	Bundle      []byte
	// Limits, BundleEpoch and Bundle are those of the start: see Reload.

	MaxConnections           int
	MaxSessionsPerConnection int
	// MaxQueuedBytes bounds what waits for all clients together. Beyond it, who
	// has something waiting already is a slow consumer.
	MaxQueuedBytes int64
	AuthTimeout    time.Duration
	Ping           time.Duration
	Drain          time.Duration
}

// Parts are what a Relay works with.
type Parts struct {
	Tickets *ticket.Verifier
	Vaults  *uplink.Pool
	// Directory tells other relays, and hears from them.
	Directory *route.Directory
	Shared    *ratelimit.FailOpen
	Local     *ratelimit.Local
	Clock     clock.Clock
	// Wheel, of that clock, has the timers of all connections. It must turn until
	// Drain has returned.
	Wheel  *wheel.Wheel
	Log    *slog.Logger
	Counts *count.Set
	// Handshake, if set, hears how long each took, from the request to READY.
	Handshake func(time.Duration)
	// Unheard, if set, is told whose doorbell no other device has heard, on
	// any relay. It must not wait.
	Unheard func(ticket.Account)
}

// Relay serves clients. Its handler may be used as soon as it was made.
type Relay struct {
	// static after construction
	cfg Config
	Parts
	upgrader websocket.Upgrader
	ctx      context.Context // ends when the last connection is to be given up
	cancel   context.CancelFunc

	gate      *gate
	verifiers verifiers
	poller    *poller // nil: connections stay active
	trimmer   *trimmer
	// What tests make smaller.
	parkAfter    time.Duration
	parkIdle     time.Duration
	frameTimeout time.Duration
	closeGrace   time.Duration
	writeTimeout time.Duration
	headTimeout  time.Duration
	// creditTimeout too.
	creditTimeout time.Duration

	settings atomic.Pointer[settings]
	traffic  traffic
	parked   atomic.Int64  // connections
	queued   atomic.Int64  // bytes that wait to be written to clients
	places   atomic.Int64  // connections, those on their way in included
	asked    atomic.Uint32 // the last tag of an OPEN or ATTACH to a vault

	mu       sync.Mutex // guards what follows; never held while a conn's mu is taken
	conns    map[*conn]struct{}
	accounts map[accountKey]*conn // the first of each: see seat
	sessions map[frame.SessionID]*conn
	unready  bool          // new clients should go elsewhere
	drains   bool          // new clients are refused
	empty    chan struct{} // made by Drain, closed with the last connection
}

// New returns a Relay.
func New(cfg Config, parts Parts) *Relay {
	r := &Relay{
		cfg: cfg, Parts: parts,
		parkAfter: parkAfter, parkIdle: parkIdle, frameTimeout: frameTimeout, closeGrace: closeGrace, writeTimeout: writeTimeout, headTimeout: headTimeout, creditTimeout: min(creditTimeout, 2*cfg.Ping),
		conns:    map[*conn]struct{}{},
		accounts: map[accountKey]*conn{},
		sessions: map[frame.SessionID]*conn{},
	}
	r.Reload(cfg.Limits, cfg.Bundle, cfg.BundleEpoch)
	r.gate = newGate()
	r.trimmer = newTrimmer(r)
	var err error
	if r.poller, err = newPoller(); err != nil {
		// It costs memory, nothing else.
		parts.Log.Warn("idle connections keep their goroutine", "reason", err)
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.verifiers.ctx, r.verifiers.work, r.verifiers.tickets = r.ctx, make(chan *verification), parts.Tickets
	r.upgrader = websocket.Upgrader{
		ReadBufferSize:  0, // use hijacker's
		WriteBufferSize: 256,
		WriteBufferPool: new(sync.Pool), // for its close frames only: see outbox
		CheckOrigin:     r.originAllowed,
		Error:           func(w http.ResponseWriter, _ *http.Request, status int, _ error) { problem(w, status) },
	}
	return r
}

// settings may change while the relay runs.
type settings struct {
	limits      *ratelimit.Rules
	bundle      []byte
	bundleEpoch uint32
}

// Reload changes the limits, for connections that live too, and the fleet
// bundle, which HELLO names to new connections.
func (r *Relay) Reload(limits *ratelimit.Rules, bundle []byte, epoch uint32) {
	r.settings.Store(&settings{limits: limits, bundle: bundle, bundleEpoch: epoch})
}

// limit is a limit of an address as it stands now.
func (r *Relay) limit(name string, addr netip.Addr) ratelimit.Limit {
	return r.settings.Load().limits.For(name, ratelimit.Who{Addr: addr})
}

// spend counts one against a limit of an account and one of its device, in one
// round trip.
func (r *Relay) spend(perAccount, perDevice string, id *identity) ratelimit.Decision {
	return r.spendAlong(nil, perAccount, perDevice, id)
}

// spendAlong does so, and takes along what else is asked.
func (r *Relay) spendAlong(along ratelimit.Along, perAccount, perDevice string, id *identity) ratelimit.Decision {
	rules, who := r.settings.Load().limits, id.whose()
	return r.Shared.SpendAlong(r.ctx, along,
		ratelimit.Step{Name: perAccount, Limit: rules.For(perAccount, who), ID: string(id.account[:])},
		ratelimit.Step{Name: perDevice, Limit: rules.For(perDevice, who), ID: string(id.peer[:])})
}

// Unready makes Ready false, while new clients are still served: those who
// balance the load need a moment to notice.
func (r *Relay) Unready() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unready = true
}

// Ready says whether the relay can serve a new client.
func (r *Relay) Ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.unready && !r.drains && r.Vaults.Pick() != nil
}

// add makes a connection known; false means that the relay is draining.
func (r *Relay) add(c *conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.drains {
		return false
	}
	r.conns[c] = struct{}{}
	return true
}

// claim makes c the connection of a session, and returns the one that was.
func (r *Relay) claim(id frame.SessionID, c *conn) (before *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before = r.sessions[id]
	r.sessions[id] = c
	return before
}

func (r *Relay) release(id frame.SessionID, c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions[id] == c {
		delete(r.sessions, id)
	}
}

func newNonce() (n [frame.NonceSize]byte) {
	rand.Read(n[:]) // never fails (crypto/rand)
	return n
}
