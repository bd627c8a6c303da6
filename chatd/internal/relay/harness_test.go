package relay

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/redis/go-redis/v9"

	"chatvault/chatd/internal/admission"
	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/count"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/route"
	"chatvault/chatd/internal/uplink"
	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// withoutPoller makes every relay that is started keep its connections active, as
// where there is no poller: see engines_test.go.
var withoutPoller bool

// house is a relay with everything around it.
type house struct {
	t      testing.TB
	pki    *chatdtest.PKI
	issuer *chatdtest.Issuer
	clock  *clock.Fake
	relay  *Relay
	url    string // ws://host:port
	front  *Front
	dialer *websocket.Dialer // nil: plain
	up     chan struct{}     // one for each uplink that comes up
}

// setup is what a test may change before the relay starts.
type setup struct {
	cfg    Config
	vaults []*chatdtest.Vault
	links  int // to each of them; 0 is 1
	redis  redis.UniversalClient
	clock  *clock.Fake
	log    io.Writer
	// parkAfter is so short that every connection of a test parks again and again.
	parkAfter    time.Duration
	frameTimeout time.Duration // 0: as in production
	headTimeout  time.Duration // 0: as in production
	tls          bool
	listener     func(net.Listener) net.Listener // nil: as it is
	// tickets, if set, stands in for the issuer's verifier.
	tickets *ticket.Verifier
	unheard func(ticket.Account)
}

// newHouse starts a relay; its clock stands still, that of its uplinks runs.
func newHouse(t testing.TB, pki *chatdtest.PKI, issuer *chatdtest.Issuer, change func(*setup)) *house {
	t.Helper()
	bundle := []byte("the bundle\n")
	s := setup{
		cfg: Config{
			Hosts: admission.Names{}, Limits: &ratelimit.Rules{Set: ratelimit.Defaults()}, BundleEpoch: 7, Bundle: bundle,
			MaxConnections: 1000, MaxQueuedBytes: 64 << 20, MaxSessionsPerConnection: 4,
			AuthTimeout: 10 * time.Second, Ping: 30 * time.Second, Drain: 20 * time.Second,
		},
		clock: clock.NewFake(time.Now().Truncate(time.Second)),
		log:   t.Output(), tickets: issuer.Verifier(), parkAfter: time.Millisecond,
	}
	if change != nil {
		change(&s)
	}
	h := &house{t: t, pki: pki, issuer: issuer, clock: s.clock, up: make(chan struct{}, 100)}
	log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	certFile, keyFile := pki.Issue(uplink.ChatRole)
	tlsConfig, err := uplink.LoadTLS(pki.CAFile, certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	directory := route.New(route.Options{Client: s.redis, Clock: s.clock, Change: func(error) {}, Count: func(string) {}, Wait: time.Minute})
	var addrs []string
	for _, v := range s.vaults {
		addrs = append(addrs, v.Addr)
	}
	pool := uplink.NewPool(uplink.Config{
		Fleet: chatdtest.Fleet, TLS: tlsConfig, Vaults: addrs, Links: s.links, Log: log,
		Clock: clock.System{}, Wheel: turning(t, clock.System{}),
		Up:   func(n frame.NodeID, addr string) { directory.NodeUp(n, addr); h.up <- struct{}{} },
		Down: directory.NodeDown,
	})
	local := ratelimit.NewLocal(s.clock)
	var shared ratelimit.Spender
	if s.redis != nil {
		shared = ratelimit.NewRedis(s.redis)
	}
	limits := ratelimit.NewFailOpen(shared, local, s.clock, func(error) {})
	// The clock stands still: a Redis that was slow once would never be asked again.
	limits.Wait = time.Minute
	h.relay = New(s.cfg, Parts{
		Tickets: s.tickets, Vaults: pool, Directory: directory,
		Shared: limits, Local: local,
		Clock: s.clock, Wheel: turning(t, s.clock), Log: log, Counts: new(count.Set), Unheard: s.unheard,
	})
	h.relay.parkAfter, h.relay.parkIdle = s.parkAfter, s.parkAfter
	if s.headTimeout > 0 {
		h.relay.headTimeout = s.headTimeout
	}
	if s.frameTimeout > 0 {
		h.relay.frameTimeout = s.frameTimeout
	}
	if withoutPoller && h.relay.poller != nil {
		h.relay.poller.close()
		h.relay.poller = nil
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	h.url, h.relay.cfg.Hosts[addr] = "ws://"+addr, true
	var secure *tls.Config
	if s.tls {
		secure = &tls.Config{Certificates: []tls.Certificate{pki.Certificate("127.0.0.1")}}
		h.url, h.dialer = "wss://"+addr, &websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: pki.Pool()}}
	}
	h.front = NewFront(h.relay, secure)
	if s.listener != nil {
		listener = s.listener(listener)
	}
	go h.front.Serve(listener)
	h.run(pool, directory)
	for range s.vaults {
		<-h.up
	}
	return h
}

// turning is a wheel that turns until the test has ended.
func turning(t testing.TB, c clock.Clock) *wheel.Wheel {
	w := wheel.New(c)
	t.Cleanup(w.Stop)
	return w
}

func (h *house) run(pool *uplink.Pool, directory *route.Directory) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { pool.Run(ctx); done <- struct{}{} }()
	go func() {
		directory.Run(ctx, route.Heard{Ring: h.relay.Ring, Replace: h.relay.Replace})
		done <- struct{}{}
	}()
	h.t.Cleanup(func() {
		h.relay.beginDrain()
		for _, c := range h.relay.all() {
			c.cut()
		}
		h.front.Shutdown(context.Background())
		poll(h.t, "the end of every connection", func() bool { return h.relay.places.Load() == 0 })
		h.relay.stop()
		cancel()
		<-done
		<-done
	})
}

// simple starts a relay, a vault and an issuer.
func simple(t *testing.T, change func(*setup)) (*house, *chatdtest.Vault) {
	t.Helper()
	pki := chatdtest.NewPKI(t)
	vault := chatdtest.StartVault(t, pki, 1, uplink.VaultRole)
	return newHouse(t, pki, chatdtest.NewIssuer(t), func(s *setup) {
		s.vaults = []*chatdtest.Vault{vault}
		if change != nil {
			change(s)
		}
	}), vault
}

func (h *house) dial() *chatdtest.Client { h.t.Helper(); return chatdtest.Dial(h.t, h.dialer, h.url) }

// login connects and authenticates a device of an account.
func (h *house) login(sub string, device ticket.DeviceKey) *chatdtest.Client {
	h.t.Helper()
	c := h.dial()
	c.Send(c.Auth(device, h.issuer.Ticket(h.clock.Now(), sub, device)))
	ready := chatdtest.Expect[frame.Ready](c)
	if want := h.clock.Now().Add(10 * time.Minute).Unix(); ready.TicketEnds != uint64(want) || ready.PingMillis != millis(h.relay.cfg.Ping) {
		h.t.Fatalf("READY %+v, want the end %d", ready, want)
	}
	return c
}

// phone logs a new device in.
func (h *house) phone(sub string) *chatdtest.Client {
	h.t.Helper()
	return h.login(sub, chatdtest.NewDevice(h.t))
}

// atRest waits until there are n connections and all are parked, where connections
// park.
func (h *house) atRest(n int) {
	h.t.Helper()
	poll(h.t, "rest", func() bool {
		l := h.relay.Load()
		if h.relay.poller == nil {
			return l.Active == n
		}
		return l.Parked == n && l.Active == 0
	})
}
