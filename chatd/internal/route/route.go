// Package route is what the relays of a fleet tell each other through Redis:
// where a vault node can be reached, which relay holds an account's
// connections, and that a doorbell is to be rung.
//
// All of it is advisory (A9): a forged node address only misroutes, because
// the uplink checks the vault's certificate; a forged notice only rings; what
// is lost is told again within half a minute. Redis learns no session id: the
// first four bytes of one name its node, a session never leaves its node, and
// the route of the node is all that is kept. Accounts are named by the first 16
// bytes of their hash.
//
//	cv:node:<node>          string: address, lapses after 90 s
//	cv:presence:<account>   sorted set: relay, scored by when that lapses (Unix ms)
//	cv:notice:<relay>       channel: account hash, 32 bytes
package route

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"chatvault/chatd/internal/clock"
	"chatvault/protocol/frame"
)

const (
	keep    = 90 * time.Second // how long Redis keeps what was told
	refresh = 30 * time.Second // how often it is told again
	askFor  = 250 * time.Millisecond
	tellFor = 2 * time.Second
	// batch bounds one pipeline, maxRings the notices that wait for one.
	batch    = 500
	maxRings = 4096
)

// Account names an account: SHA-256 of lp(issuer name) ‖ lp(sub).
type Account [32]byte

func presenceKey(a Account) string      { return "cv:presence:" + hex.EncodeToString(a[:16]) }
func nodeKey(n frame.NodeID) string     { return "cv:node:" + hex.EncodeToString(n[:]) }
func noticeChannel(relay string) string { return "cv:notice:" + relay }

// Directory tells Redis what this relay knows, and asks it what others told.
// A Directory without Redis knows nothing and tells nobody.
type Directory struct {
	client redis.UniversalClient // nil: no Redis
	clock  clock.Clock
	self   string
	change func(err error)
	wake   chan struct{}

	mu      sync.Mutex
	present map[Account]struct{}
	dirty   map[Account]struct{} // whose presence Redis has not been told
	nodes   map[frame.NodeID]string
	untold  map[frame.NodeID]struct{}
	rings   map[Account]struct{}
	failed  bool
	restTo  time.Time
}

// New returns a Directory. client may be nil. change is called with an error
// when Redis begins to fail, and with nil when it answers again.
func New(client redis.UniversalClient, c clock.Clock, change func(error)) *Directory {
	var id [8]byte
	rand.Read(id[:])
	return &Directory{
		client: client, clock: c, self: hex.EncodeToString(id[:]), change: change,
		wake:    make(chan struct{}, 1),
		present: map[Account]struct{}{}, dirty: map[Account]struct{}{},
		nodes: map[frame.NodeID]string{}, untold: map[frame.NodeID]struct{}{},
		rings: map[Account]struct{}{},
	}
}

// Present says that the account has a connection on this relay.
func (d *Directory) Present(a Account) {
	d.update(func() { d.present[a] = struct{}{}; d.dirty[a] = struct{}{} })
}

// Absent says that the account's last connection on this relay has ended.
func (d *Directory) Absent(a Account) {
	d.update(func() { delete(d.present, a); d.dirty[a] = struct{}{} })
}

// Notify asks every other relay on which the account is present to ring.
func (d *Directory) Notify(a Account) {
	d.update(func() {
		if len(d.rings) < maxRings {
			d.rings[a] = struct{}{}
		}
	})
}

// NodeUp says that this relay reaches the node at addr.
func (d *Directory) NodeUp(n frame.NodeID, addr string) {
	d.update(func() { d.nodes[n] = addr; d.untold[n] = struct{}{} })
}

// NodeDown says that it does not any more. Other relays may, so what Redis
// holds is left to lapse.
func (d *Directory) NodeDown(n frame.NodeID) {
	d.update(func() { delete(d.nodes, n); delete(d.untold, n) })
}

// update changes what is to be told, and wakes Run. It never waits for Redis.
func (d *Directory) update(f func()) {
	if d.client == nil {
		return
	}
	d.mu.Lock()
	f()
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// FindNode asks where other relays reach the node, 250 ms at most.
func (d *Directory) FindNode(ctx context.Context, n frame.NodeID) (addr string, ok bool) {
	if d.client == nil || d.resting() {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	addr, err := d.client.Get(ctx, nodeKey(n)).Result()
	if err == redis.Nil {
		err = nil
	}
	d.note(err)
	if _, _, bad := net.SplitHostPort(addr); err != nil || bad != nil {
		return "", false
	}
	return addr, true
}

// Failing says whether Redis failed when it was last asked or told.
func (d *Directory) Failing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

func (d *Directory) resting() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clock.Now().Before(d.restTo)
}

// note tells of a change between failing and answering, and lets a failing
// Redis rest for a second.
func (d *Directory) note(err error) {
	d.mu.Lock()
	changed := d.failed != (err != nil)
	d.failed = err != nil
	if err != nil {
		d.restTo = d.clock.Now().Add(time.Second)
	}
	d.mu.Unlock()
	if changed {
		d.change(err)
	}
}
