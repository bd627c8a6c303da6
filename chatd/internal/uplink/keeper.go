package uplink

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"chatvault/chatd/internal/clock"
	"chatvault/protocol/frame"
)

const (
	backoffFirst = 200 * time.Millisecond
	backoffMost  = 2 * time.Second
	// stable is how long a link must have lived for its loss to count as the
	// first failure.
	stable = 10 * time.Second
)

// errDuplicate: two addresses lead to one node; the links to one are enough.
var errDuplicate = errors.New("this vault node is linked already, by another address")

// slot is the place of one link: which of those to an address.
type slot struct {
	addr   string
	number int // from 0 on
}

// keeper keeps the link of a slot.
type keeper struct {
	slot // static after construction

	// guarded by Pool.mu
	listed bool // of --vault, else learned from another relay
	failed bool // the last attempt, or the last link, has failed
	link   *Link
	last   frame.NodeID // of the last link, or zero
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
			p.cfg.Log.Warn("uplink is down", "vault", k.addr, "link", k.number, "reason", err)
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
	l, err := dial(ctx, p.cfg.Wheel, p.tls.Load(), p.cfg.Fleet, k.addr)
	if err != nil {
		return false, err
	}
	if err := p.add(k, l); err != nil {
		l.end(err)
		return false, err
	}
	p.cfg.Log.Info("uplink is up", "vault", k.addr, "link", k.number)
	stop := context.AfterFunc(ctx, func() { l.end(ErrClosed) })
	defer stop()
	return true, l.run(func() { p.remove(k, l) })
}

func (p *Pool) add(k *keeper, l *Link) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	there := p.links[l.node]
	if len(there) > 0 && there[0].addr != l.addr {
		return errDuplicate
	}
	if k.last != l.node && k.last != (frame.NodeID{}) && !slices.Contains(p.over, k.last) {
		p.over = append(p.over, k.last)
		p.over = p.over[max(0, len(p.over)-maxOver):]
	}
	p.links[l.node] = append(there, l)
	k.link, k.failed, k.last = l, false, l.node
	p.changeLocked()
	if len(there) == 0 {
		p.cfg.Up(l.node, l.addr)
	}
	return nil
}

func (p *Pool) remove(k *keeper, l *Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k.link = nil
	left := slices.DeleteFunc(p.links[l.node], func(other *Link) bool { return other == l })
	if p.links[l.node] = left; len(left) == 0 {
		delete(p.links, l.node)
		p.cfg.Down(l.node)
	}
	p.changeLocked()
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
	delete(p.keepers, k.slot)
	p.changeLocked()
}
