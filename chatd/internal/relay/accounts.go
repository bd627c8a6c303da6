package relay

import (
	"chatvault/chatd/internal/route"
	"chatvault/protocol/frame"
)

// seat is a connection's place among those of its account: they are a list,
// since most accounts have one.
type seat struct {
	id    *identity // nil: it has none
	epoch route.Epoch
	next  *conn
}

// accountKey is the part of its name that tells an account from all others, here
// as in Redis.
type accountKey [16]byte

func keyOf(a route.Account) accountKey { return accountKey(a[:]) }

// unseatLocked takes a connection off its account's list. The caller holds mu.
func (r *Relay) unseatLocked(c *conn) {
	a := c.seat.id.account
	first := r.accounts[keyOf(a)]
	for at := &first; *at != nil; at = &(*at).seat.next {
		if *at == c {
			*at = c.seat.next
			break
		}
	}
	c.seat = seat{}
	if first == nil {
		delete(r.accounts, keyOf(a))
	} else {
		r.accounts[keyOf(a)] = first
	}
}

// enter adds an authenticated connection to its account and queues READY, both
// at once: a doorbell that rings after READY reaches it, and none before. It
// takes the place of an older one of the same device. It reports false when the
// queue is full.
func (r *Relay) enter(c *conn, id *identity, claim *route.Claim, ready frame.Ready) bool {
	a, device := id.account, id.device()
	var older []*conn
	r.mu.Lock()
	for other := r.accounts[keyOf(a)]; other != nil; other = other.seat.next {
		if other.seat.id.device() == device {
			older = append(older, other)
		}
	}
	// Under the lock, so that presence and absence are told in order.
	c.seat = seat{id: id, epoch: claim.Keep(), next: r.accounts[keyOf(a)]}
	r.accounts[keyOf(a)] = c
	c.out.mu.Lock() // whoever rings it now waits for READY; nobody else for the socket
	r.mu.Unlock()
	queued := c.out.sendFrameLocked(ready)
	c.out.mu.Unlock()
	for _, other := range older {
		other.end(replaced)
	}
	return queued
}

// leave forgets a connection.
func (r *Relay) leave(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	if s := c.seat; s.id != nil {
		r.Directory.Left(s.id.account, s.id.device(), s.epoch)
		r.unseatLocked(c)
	}
	if r.empty != nil && len(r.conns) == 0 {
		close(r.empty)
		r.empty = nil
	}
}

// Replace ends the connection of a device because a newer one, of this epoch,
// has come to another relay.
func (r *Relay) Replace(a route.Account, device route.Device, epoch route.Epoch) {
	var older []*conn
	r.mu.Lock()
	for c := r.accounts[keyOf(a)]; c != nil; c = c.seat.next {
		if c.seat.id.device() == device && c.seat.epoch < epoch {
			older = append(older, c)
		}
	}
	r.mu.Unlock()
	for _, c := range older {
		c.end(replaced)
	}
}

// Ring rings every connection of the account that this relay has.
func (r *Relay) Ring(a route.Account) { r.ring(a, nil, route.Device{}) }

// ring rings every connection of the account but one, and says whether another
// device than from was among them.
func (r *Relay) ring(a route.Account, but *conn, from route.Device) (heard bool) {
	r.mu.Lock()
	var bells []*conn
	for c := r.accounts[keyOf(a)]; c != nil; c = c.seat.next {
		if c != but {
			bells = append(bells, c)
			heard = heard || c.seat.id.device() != from
		}
	}
	r.mu.Unlock()
	for _, c := range bells {
		c.sendFrame(frame.Notice{})
	}
	return heard
}

// ringEverywhere rings the account's other connections, here and on every
// other relay. When no other device heard it, the app is told, so that it can
// wake one: the connection of a thief must not keep the owner from hearing
// (A19).
func (r *Relay) ringEverywhere(id *identity, but *conn) {
	r.Counts.Add("notices")
	var unheard func()
	if heard := r.ring(id.account, but, id.device()); !heard && id.name != nil {
		unheard = func() { r.Unheard(*id.name) }
	}
	r.Directory.Notify(id.account, id.device(), unheard)
}
