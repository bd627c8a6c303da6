package uplink

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
)

const (
	// MaxLinks bounds Config.Links.
	MaxLinks = 4
	// maxLearned bounds the addresses that Redis may make chatd dial.
	maxLearned = 32
	// maxOver bounds the nodes that are remembered as over.
	maxOver = 256
)

// Config of a Pool.
type Config struct {
	// Fleet is the fleet id that every node must name.
	Fleet string
	// TLS is what LoadTLS returned; SetTLS changes it.
	TLS *tls.Config
	// Vaults are host:port; a host name is resolved again every 15 s, and
	// every address that it has is dialled.
	Vaults []string
	// Links is how many links there are to each vault node, 1 to MaxLinks; 0 is
	// 1. One reader serves each: it writes to the clients what the node answers.
	Links int
	// Resolve looks a host name up; nil means the system's resolver.
	Resolve func(ctx context.Context, host string) ([]string, error)
	Clock   clock.Clock
	// Wheel has the pings of all links.
	Wheel *wheel.Wheel
	Log   *slog.Logger
	// Up and Down hear of a node when its first link has come, and when its last
	// has gone. They must not wait, nor call the Pool.
	Up   func(n frame.NodeID, addr string)
	Down func(n frame.NodeID)
}

// Pool keeps the links to each vault node, for as long as Run runs.
type Pool struct {
	// static after construction
	cfg Config

	running sync.WaitGroup
	tls     atomic.Pointer[tls.Config]

	mu      sync.Mutex // guards what follows
	ctx     context.Context
	keepers map[slot]*keeper
	links   map[frame.NodeID][]*Link // of one address, none is empty
	over    []frame.NodeID           // the last that were succeeded at their address
	changed chan struct{}            // closed, and replaced, at every change
}

// NewPool returns a Pool that dials nobody yet.
func NewPool(cfg Config) *Pool {
	if cfg.Resolve == nil {
		cfg.Resolve = systemResolve
	}
	cfg.Links = max(cfg.Links, 1)
	p := &Pool{cfg: cfg, keepers: map[slot]*keeper{}, links: map[frame.NodeID][]*Link{}, changed: make(chan struct{})}
	p.tls.Store(cfg.TLS)
	return p
}

// SetTLS makes the links that are dialled from now on use c, which LoadTLS
// returned. Those that are up stay up.
func (p *Pool) SetTLS(c *tls.Config) { p.tls.Store(c) }

// Load is what the links do at a moment.
type Load struct {
	Up, Draining, Down int   // vault nodes, by their best link; Down counts addresses that lead to none of the others
	Links, Missing     int   // links that are up, and those that should be
	QueuedBytes        int64 // wait to be written
}

// Load counts the links.
func (p *Pool) Load() Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	const down, draining, up = 0, 1, 2
	var l Load
	best := map[string]int{} // by address
	for _, k := range p.keepers {
		if p.spareLocked(k) {
			continue
		}
		state := down
		switch {
		case k.link == nil:
			l.Missing++
		case k.link.Draining():
			state = draining
		default:
			state = up
		}
		if k.link != nil {
			l.Links++
			l.QueuedBytes += int64(k.link.queued())
		}
		best[k.addr] = max(best[k.addr], state)
	}
	for _, state := range best {
		switch state {
		case up:
			l.Up++
		case draining:
			l.Draining++
		default:
			l.Down++
		}
	}
	return l
}

// Run keeps the links until ctx ends, then closes them and tells their peers.
func (p *Pool) Run(ctx context.Context) {
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
	p.resolveLoop(ctx)
	p.mu.Lock()
	p.ctx = nil // nobody is added any more
	p.mu.Unlock()
	p.running.Wait()
}

// Pick returns the least used link of a random healthy node that takes new
// sessions, or nil. What Redis named is never picked: which vaults there are, the
// operator says.
func (p *Pool) Pick() *Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var fit []*Link // one of each node
	for _, k := range p.keepers {
		if !k.listed || k.link == nil || k.link.Draining() {
			continue
		}
		i := slices.IndexFunc(fit, func(l *Link) bool { return l.node == k.link.node })
		if i < 0 {
			fit = append(fit, k.link)
		} else {
			fit[i] = lessUsed(fit[i], k.link)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	return fit[rand.IntN(len(fit))]
}

// Node returns the least used link to a node, or nil.
func (p *Pool) Node(n frame.NodeID) *Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodeLocked(n)
}

func (p *Pool) nodeLocked(n frame.NodeID) (least *Link) {
	for _, l := range p.links[n] {
		least = lessUsed(l, least)
	}
	return least
}

// lessUsed is the one of two links that has fewer clients. b may be nil.
func lessUsed(a, b *Link) *Link {
	if b != nil && b.clients.Load() < a.clients.Load() {
		return b
	}
	return a
}

// Over says that another node answers now where this one was: a vault takes a new
// id at each start, so its sessions ended with it. Behind a balancer it may be
// wrong; that costs a client a new session.
func (p *Pool) Over(n frame.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links[n]) == 0 && slices.Contains(p.over, n)
}

// Learn dials an address at which another relay reaches the node, and waits
// for the link until ctx ends. It returns nil if there is none.
func (p *Pool) Learn(ctx context.Context, n frame.NodeID, addr string) *Link {
	if !p.learn(addr) {
		return nil
	}
	for {
		p.mu.Lock()
		l, k, changed := p.nodeLocked(n), p.keepers[slot{addr, 0}], p.changed
		over := k == nil || k.failed || k.link != nil
		p.mu.Unlock()
		if l != nil || over {
			return l
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *Pool) learn(addr string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := slot{addr, 0} // more are for those that are listed
	if p.keepers[first] != nil {
		return true
	}
	learned := 0
	for s, k := range p.keepers {
		if !k.listed && s.number == 0 {
			learned++
		}
	}
	if p.ctx == nil || learned >= maxLearned {
		return false
	}
	p.startLocked(first, false)
	return true
}

func (p *Pool) startLocked(s slot, listed bool) {
	k := &keeper{slot: s, listed: listed}
	p.keepers[s] = k
	ctx := p.ctx
	p.running.Go(func() { p.keep(ctx, k) })
}

func (p *Pool) changeLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}
