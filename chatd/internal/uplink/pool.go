package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"chatvault/chatd/internal/clock"
	"chatvault/protocol/frame"
)

const (
	backoffFirst = 200 * time.Millisecond
	backoffMost  = 5 * time.Second
	// stable is how long a link must have lived for its loss to count as the
	// first failure.
	stable = 10 * time.Second
	// maxLearned bounds the addresses that Redis may make chatd dial.
	maxLearned = 32
	// maxOver bounds the nodes that are remembered as over.
	maxOver = 256
)

// errDuplicate: two addresses lead to one node; one link is enough.
var errDuplicate = errors.New("this vault node is linked already, by another address")

// Config of a Pool.
type Config struct {
	// Fleet is the fleet id that every node must name.
	Fleet string
	// TLS is what LoadTLS returned; SetTLS changes it.
	TLS *tls.Config
	// Vaults are host:port; a host name is resolved again every 15 s, and
	// every address that it has is dialled.
	Vaults []string
	// Resolve looks a host name up; nil means the system's resolver.
	Resolve func(ctx context.Context, host string) ([]string, error)
	Clock   clock.Clock
	Log     *slog.Logger
	// Up and Down hear of links as they come and go.
	Up   func(n frame.NodeID, addr string)
	Down func(n frame.NodeID)
}

// Pool keeps one link to each vault node, for as long as Run runs.
type Pool struct {
	// static after construction
	cfg Config

	running sync.WaitGroup
	tls     atomic.Pointer[tls.Config]

	mu      sync.Mutex // guards what follows
	ctx     context.Context
	keepers map[string]*keeper // by address
	links   map[frame.NodeID]*Link
	over    []frame.NodeID // the last that were succeeded at their address
	changed chan struct{}  // closed, and replaced, at every change
}

// keeper keeps the link to one address.
type keeper struct {
	addr string

	// guarded by Pool.mu
	listed bool // of --vault, else learned from another relay
	failed bool // the last attempt, or the last link, has failed
	link   *Link
	last   frame.NodeID // of the last link, or zero
}

// NewPool returns a Pool that dials nobody yet.
func NewPool(cfg Config) *Pool {
	if cfg.Resolve == nil {
		cfg.Resolve = systemResolve
	}
	p := &Pool{cfg: cfg, keepers: map[string]*keeper{}, links: map[frame.NodeID]*Link{}, changed: make(chan struct{})}
	p.tls.Store(cfg.TLS)
	return p
}

// SetTLS makes the links that are dialled from now on use c, which LoadTLS
// returned. Those that are up stay up.
func (p *Pool) SetTLS(c *tls.Config) { p.tls.Store(c) }

// Load is what the links do at a moment.
type Load struct {
	Up, Draining, Down int   // vault nodes; Down counts addresses
	QueuedBytes        int64 // wait to be written
}

// Load counts the links.
func (p *Pool) Load() Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	var l Load
	for _, k := range p.keepers {
		switch {
		case k.link == nil:
			l.Down++
			continue
		case k.link.Draining():
			l.Draining++
		default:
			l.Up++
		}
		l.QueuedBytes += int64(k.link.queued())
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

// Pick returns a random healthy link that takes new sessions, or nil. What
// Redis named is never picked: which vaults there are, the operator says.
func (p *Pool) Pick() *Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var fit []*Link
	for _, k := range p.keepers {
		if k.listed && k.link != nil && !k.link.Draining() {
			fit = append(fit, k.link)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	return fit[rand.IntN(len(fit))]
}

// Node returns the link to a node, or nil.
func (p *Pool) Node(n frame.NodeID) *Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[n]
}

// Over says that another node answers now where this one was: a vault takes a new
// id at each start, so its sessions ended with it. Behind a balancer it may be
// wrong; that costs a client a new session.
func (p *Pool) Over(n frame.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[n] == nil && slices.Contains(p.over, n)
}

// Learn dials an address at which another relay reaches the node, and waits
// for the link until ctx ends. It returns nil if there is none.
func (p *Pool) Learn(ctx context.Context, n frame.NodeID, addr string) *Link {
	if !p.learn(addr) {
		return nil
	}
	for {
		p.mu.Lock()
		l, k, changed := p.links[n], p.keepers[addr], p.changed
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
	if p.keepers[addr] != nil {
		return true
	}
	learned := 0
	for _, k := range p.keepers {
		if !k.listed {
			learned++
		}
	}
	if p.ctx == nil || learned >= maxLearned {
		return false
	}
	p.startLocked(addr, false)
	return true
}

func (p *Pool) startLocked(addr string, listed bool) {
	k := &keeper{addr: addr, listed: listed}
	p.keepers[addr] = k
	ctx := p.ctx
	p.running.Go(func() { p.keep(ctx, k) })
}

func (p *Pool) changeLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// keep dials again and again: until ctx ends, or until the address is listed
// no more and its link is lost.
func (p *Pool) keep(ctx context.Context, k *keeper) {
	defer p.drop(k)
	for failures := 0; ctx.Err() == nil; failures++ {
		began := p.cfg.Clock.Now()
		wasUp, err := p.once(ctx, k)
		if p.cfg.Clock.Now().Sub(began) >= stable {
			failures = 0
		}
		if !p.again(k) || ctx.Err() != nil {
			return
		}
		if wasUp || failures == 0 {
			p.cfg.Log.Warn("uplink is down", "vault", k.addr, "reason", err)
		}
		// Full jitter: chatds that lost one vault together do not come back
		// together.
		most := min(backoffMost, backoffFirst<<min(failures, 10))
		wait, release := clock.After(p.cfg.Clock, rand.N(most))
		select {
		case <-wait:
		case <-ctx.Done():
		}
		release()
	}
}

// once makes a link and serves it until it ends.
func (p *Pool) once(ctx context.Context, k *keeper) (wasUp bool, err error) {
	l, err := dial(ctx, p.cfg.Clock, p.tls.Load(), p.cfg.Fleet, k.addr)
	if err != nil {
		return false, err
	}
	if err := p.add(k, l); err != nil {
		l.end(err)
		return false, err
	}
	p.cfg.Log.Info("uplink is up", "vault", k.addr)
	p.cfg.Up(l.node, k.addr)
	stop := context.AfterFunc(ctx, func() { l.end(ErrClosed) })
	defer stop()
	reason := l.run(func() {
		p.remove(k, l)
		p.cfg.Down(l.node)
	})
	return true, reason
}

func (p *Pool) add(k *keeper, l *Link) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.links[l.node] != nil {
		return errDuplicate
	}
	if k.last != l.node && k.last != (frame.NodeID{}) {
		p.over = append(p.over, k.last)
		p.over = p.over[max(0, len(p.over)-maxOver):]
	}
	p.links[l.node] = l
	k.link, k.failed, k.last = l, false, l.node
	p.changeLocked()
	return nil
}

func (p *Pool) remove(k *keeper, l *Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.links[l.node] == l {
		delete(p.links, l.node)
		k.link = nil
		p.changeLocked()
	}
}

// again notes that a link failed, and says whether to make another.
func (p *Pool) again(k *keeper) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	k.failed = true
	p.changeLocked()
	return k.listed
}

func (p *Pool) drop(k *keeper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.keepers, k.addr)
	p.changeLocked()
}
