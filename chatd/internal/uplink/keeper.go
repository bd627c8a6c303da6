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
	// refusedMost bounds the wait of another link to a node that has one, after
	// the node had no place for it: a chatd that has none comes first.
	refusedMost = 30 * time.Second
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
	twin   frame.NodeID // that the last attempt led to, by another address linked already; or zero
}

// keep dials again and again: until ctx ends, or until the address is listed
// no more and its link is lost.
func (p *Pool) keep(ctx context.Context, k *keeper) {
	defer p.drop(k)
	for failures := 0; p.turn(ctx, k); failures++ {
		began := p.cfg.Clock.Now()
		wasUp, err := p.once(ctx, k)
		if p.cfg.Clock.Now().Sub(began) >= stable {
			failures = 0
		}
		if !p.again(k, err) || ctx.Err() != nil {
			return
		}
		if wasUp || failures == 0 {
			p.cfg.Log.Warn("uplink is down", "vault", k.addr, "link", k.number, "reason", err)
		}
		late, release := clock.After(p.cfg.Clock, k.pause(err, failures))
		p.await(ctx, late, func() bool { return k.twin != (frame.NodeID{}) && len(p.links[k.twin]) == 0 })
		release()
	}
}

// turn waits until the keeper may dial: the first link to an address at once, more
// of them while there is that one. It says whether to dial.
func (p *Pool) turn(ctx context.Context, k *keeper) bool {
	if k.number == 0 {
		return ctx.Err() == nil
	}
	may := false
	p.await(ctx, nil, func() bool {
		first := p.keepers[slot{k.addr, 0}]
		may = k.listed && first != nil && first.link != nil
		return may || !k.listed
	})
	return may && ctx.Err() == nil
}

// await waits until ok, which is asked under mu, or late, or the end of ctx.
func (p *Pool) await(ctx context.Context, late <-chan struct{}, ok func() bool) {
	for {
		p.mu.Lock()
		over, changed := ok(), p.changed
		p.mu.Unlock()
		if over {
			return
		}
		select {
		case <-changed:
		case <-late:
			return
		case <-ctx.Done():
			return
		}
	}
}

// pause is how long to wait before the next attempt.
func (k *keeper) pause(err error, failures int) time.Duration {
	switch {
	case errors.Is(err, errDuplicate):
		// Until the other address loses its links. Whether this one leads elsewhere by
		// now is asked as seldom as what a name means.
		return resolveEvery + rand.N(resolveEvery)
	case k.number > 0 && errors.Is(err, ErrHello):
		return refusedMost/2 + rand.N(refusedMost/2)
	}
	// Full jitter: chatds that lost one vault together do not come back together.
	return rand.N(min(backoffMost, backoffFirst<<min(failures, 10)))
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
		k.twin = l.node
		return errDuplicate
	}
	if k.last != l.node && k.last != (frame.NodeID{}) && !slices.Contains(p.over, k.last) {
		p.over = append(p.over, k.last)
		p.over = p.over[max(0, len(p.over)-maxOver):]
	}
	p.links[l.node] = append(there, l)
	k.link, k.failed, k.last, k.twin = l, false, l.node, frame.NodeID{}
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

// again notes why a link failed, and says whether to make another.
func (p *Pool) again(k *keeper, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	k.failed = true
	if !errors.Is(err, errDuplicate) {
		k.twin = frame.NodeID{}
	}
	p.changeLocked()
	return k.listed
}

func (p *Pool) drop(k *keeper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.keepers, k.slot)
	p.changeLocked()
}

// spareLocked says that no link of the keeper is missed: the node at its address is
// linked by another one that is listed.
func (p *Pool) spareLocked(k *keeper) bool {
	first := p.keepers[slot{k.addr, 0}]
	if k.link != nil || first == nil || len(p.links[first.twin]) == 0 {
		return false
	}
	other := p.keepers[slot{p.links[first.twin][0].addr, 0}]
	return other != nil && other.listed
}
