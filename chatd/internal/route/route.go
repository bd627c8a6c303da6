// Package route is what the relays of a fleet tell each other through Redis:
// where a vault node can be reached, which relay holds a device's connection,
// that a doorbell is to be rung, and that a newer connection has taken an
// older one's place.
//
// All of it is advisory (A9): a forged node address only misroutes, because
// the uplink checks the vault's certificate; a forged notice only rings; a
// forged replacement ends a connection, which costs nobody an attempt. What is
// lost is told again. Redis learns no session id: the first four bytes of one
// name its node, a session never leaves its node, and the route of the node is
// all that is kept; so it needs no fencing. Accounts and devices are named by
// the first 16 bytes of a hash.
//
//	cv:node:<node>           string: address, lapses after 90 s
//	cv:relay:<relay>         string: empty, lapses after 90 s; gone before: flushed
//	cv:presence:<account>    hash: relay:device → epoch:when that lapses (Unix ms)
//	cv:relay:<relay>         channel: see message; on a cluster a sharded one
//
// Every command has one key, so that a cluster serves all of them. Presence
// rides along in the one pipeline of a connect (Claim); everything else is told
// by one goroutine, pipeline by pipeline. Frames cost no command.
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
	nodeKeep  = 90 * time.Second       // how long Redis keeps nodes and the relay's mark
	beat      = 5 * time.Second        // how often they are told again
	keep      = 10 * time.Minute       // how long it keeps presence
	refresh   = 3 * time.Minute        // how often that is told again
	restFor   = time.Second            // how long a Redis that failed is left alone
	askFor    = 250 * time.Millisecond // what Options.Wait is where none is given
	batch     = 500                    // bounds one pipeline
	maxRings  = 4096                   // bounds the notices that wait for one
	maxGone   = 65536                  // bounds the ends that wait for one
	maxRelays = 64                     // bounds the relays that are rung for one notice
)

// Account names an account: SHA-256 of lp(issuer name) ‖ lp(sub).
type Account [32]byte

// Device names a device of an account: the first 16 bytes of SHA-256 over the
// account and the thumbprint of the device key.
type Device [16]byte

// Epoch orders the connections of one device, over all relays: microseconds
// of Unix time by Redis' clock, or by this relay's while Redis is away, and
// more if need be to be newer than the one before.
type Epoch int64

func presenceKey(a Account) string     { return "cv:presence:" + hex.EncodeToString(a[:16]) }
func nodeKey(n frame.NodeID) string    { return "cv:node:" + hex.EncodeToString(n[:]) }
func relayKey(relay string) string     { return "cv:relay:" + relay }
func relayChannel(relay string) string { return relayKey(relay) }

// Heard is what Run does with what other relays say. Its functions must not
// wait.
type Heard struct {
	// Ring rings the account's connections.
	Ring func(Account)
	// Replace ends the device's connection if its epoch is below this one.
	Replace func(Account, Device, Epoch)
}

// Options of a Directory.
type Options struct {
	// Client may be nil: then nothing is known and nobody is told.
	Client redis.UniversalClient
	Clock  clock.Clock
	// Change is called with an error when Redis begins to fail, and with nil
	// when it answers again.
	Change func(error)
	// Count counts under names of a closed set; see metrics.
	Count func(name string)
	// Wait bounds what a caller waits for Redis; 0: 250 ms. Telling Redis, in the
	// background, may take eight times as long.
	Wait time.Duration
}

// Directory tells Redis what this relay knows, and asks it what others told.
type Directory struct {
	Options
	sharded bool // a cluster: pub/sub by slots
	self    string
	wake    chan struct{}
	deaf    chan struct{} // the subscription is lost, though nobody said so
	// now, in µs, replaces Redis' clock in tests.
	now func() int64

	mu      sync.Mutex
	present map[place]Epoch
	dirty   map[place]Epoch // what Redis has not been told; the epoch is of one that is gone
	nodes   map[frame.NodeID]string
	untold  map[frame.NodeID]struct{}
	rings   map[Account]ring
	marked  bool // Redis was told the mark of this relay
	beats   bool // the mark is due
	failed  bool
	restTo  time.Time
	last    Epoch // made here
}

// place is whose connection it is.
type place struct {
	account Account
	device  Device
}

// ring is a notice that waits to be sent.
type ring struct {
	from    Device // does not count: it asked for what ended
	unheard func() // nil: it was heard here
}

// New returns a Directory.
func New(o Options) *Directory {
	var id [8]byte
	rand.Read(id[:])
	_, sharded := o.Client.(*redis.ClusterClient)
	if o.Wait == 0 {
		o.Wait = askFor
	}
	return &Directory{
		Options: o, sharded: sharded, self: hex.EncodeToString(id[:]),
		wake: make(chan struct{}, 1), deaf: make(chan struct{}, 1),
		present: map[place]Epoch{}, dirty: map[place]Epoch{},
		nodes: map[frame.NodeID]string{}, untold: map[frame.NodeID]struct{}{},
		rings: map[Account]ring{},
	}
}

// Notify asks every other relay that has a connection of the account to ring,
// but for those of the device from. When that rang nobody, and unheard is not
// nil because nobody here was rung either, unheard is called: also when Redis
// cannot say, for a push too many costs less than a doorbell too few (A19).
func (d *Directory) Notify(a Account, from Device, unheard func()) {
	dropped := d.Client == nil
	d.update(func() {
		before, waits := d.rings[a]
		switch {
		case waits && before.from != from:
			d.rings[a] = ring{unheard: both(before.unheard, unheard)}
		case waits:
			d.rings[a] = ring{from, both(before.unheard, unheard)}
		case len(d.rings) < maxRings:
			d.rings[a] = ring{from, unheard}
		default:
			dropped = true
		}
	})
	if dropped {
		d.undelivered(unheard)
	}
}

// both is for two notices that became one: it was heard when either was.
func both(a, b func()) func() {
	if a == nil {
		return nil
	}
	return b
}

// undelivered is for a notice that no other relay could be told.
func (d *Directory) undelivered(unheard func()) {
	d.Count("notice_not_sent")
	if unheard != nil {
		unheard()
	}
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
	if d.Client == nil {
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

// FindNode asks where other relays reach the node. It waits no longer than Wait.
func (d *Directory) FindNode(ctx context.Context, n frame.NodeID) (addr string, ok bool) {
	if d.Client == nil || d.resting() {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, d.Wait)
	defer cancel()
	addr, err := d.Client.Get(ctx, nodeKey(n)).Result()
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
	return d.Clock.Now().Before(d.restTo)
}

// tellFor bounds one telling.
func (d *Directory) tellFor() time.Duration { return 8 * d.Wait }

// note tells of a change between failing and answering, and lets a failing
// Redis rest for a second.
func (d *Directory) note(err error) {
	d.mu.Lock()
	changed := d.failed != (err != nil)
	d.failed = err != nil
	if err != nil {
		d.restTo = d.Clock.Now().Add(restFor)
	}
	d.mu.Unlock()
	if changed {
		d.Change(err)
	}
}
