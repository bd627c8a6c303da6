// Package session keeps the vault sessions of one node. It knows Noise, sequence
// numbers and connections; what the messages inside mean is a Conversation's
// affair.
//
// A session outlives its connections. It is strictly stop-and-wait: sequence
// number 0 is the handshake, then each request n is answered by a reply n before
// n+1 is accepted. What comes instead of n+1:
//
//	n again, the same bytes, answered       the same reply again, bit by bit
//	n again, the same bytes, being worked on  nothing yet: the reply will go to
//	                                        wherever the session is attached then
//	anything else                           ignored, without a change of state
//
// "Anything else" is other bytes under n, an older or a later number, and n+1 that
// does not decrypt. Only who holds the session's keys can move it, or end it by
// using it up.
//
// Nothing of a session is ever written down. It ends Idle after its last new
// sequence number, when its client closes it, or with the process.
package session

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
)

// Conversation is what a session's client talks to. One goroutine at a time calls
// it; End is called exactly once, last.
type Conversation interface {
	// Handle answers one request, whose bytes are valid until it returns. ring
	// asks for a doorbell (NOTICE) after the reply. An empty reply ends the
	// session; a reply is the table's to overwrite. The context ends
	// Config.Idle after the request came, not with the client's connection.
	Handle(ctx context.Context, request []byte) (reply []byte, ring bool)
	// End drops the session's secrets.
	End()
}

// MaxReply is the longest reply of a Conversation, in bytes.
const MaxReply = frame.MaxPayload - noisenk.TagSize

// Config of a Table. Whatever has no default must be set.
type Config struct {
	// Fleet is the fleet id, in every handshake's prologue.
	Fleet string
	// Node is this vault's place in session ids.
	Node frame.NodeID
	// StaticPublic is the fleet's Noise key (65 bytes, uncompressed), StaticDH
	// its private half in the HSM.
	StaticPublic []byte
	StaticDH     noisenk.StaticDH
	// NewConversation begins what a new session talks to; h is the handshake
	// hash. It must not block.
	NewConversation func(h [noisenk.HashSize]byte) Conversation

	// MaxSessions caps the sessions of this node, those in their handshake
	// included. Each holds about 8 KiB, and one goroutine while it works.
	// Default 10,000.
	MaxSessions int
	// MaxPerPeer caps those of one (account, device), as chatd names it.
	// Default 4. One more takes the place of the oldest that no connection
	// holds; when there is none, it is refused.
	MaxPerPeer int
	// Idle is how long a session lives after its last new sequence number.
	// Default 60 s.
	Idle time.Duration

	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Log gets panics of a Conversation. Default slog.Default().
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.MaxSessions == 0 {
		c.MaxSessions = 10_000
	}
	if c.MaxPerPeer == 0 {
		c.MaxPerPeer = 4
	}
	if c.Idle == 0 {
		c.Idle = 60 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Table is all sessions of one node. Safe for concurrent use.
type Table struct {
	cfg    Config // static after construction
	counts counters

	// work is every handshake and request under way.
	work sync.WaitGroup

	mu       sync.Mutex // guards all below, and every session and line
	sessions map[frame.SessionID]*session
	perPeer  map[Peer]int   // sessions and handshakes under way
	total    int            // the sum of perPeer
	draining bool           // no new sessions
	stopped  bool           // nor those whose handshake is under way
	empty    chan struct{}  // non-nil while draining: closed when total is 0
	ended    []Conversation // to be told so by unlock
}

// New returns an empty table. Run must be running for sessions to end in time.
func New(cfg Config) *Table {
	return &Table{
		cfg:      cfg.withDefaults(),
		sessions: make(map[frame.SessionID]*session),
		perPeer:  make(map[Peer]int),
	}
}

// Run ends idle sessions, looking once a second, until the context ends.
func (t *Table) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.Sweep()
		case <-ctx.Done():
			return
		}
	}
}

// Sweep ends the sessions whose time is over.
func (t *Table) Sweep() {
	now := t.cfg.Now()
	t.mu.Lock()
	defer t.unlock()
	for _, s := range t.sessions {
		t.endIfIdle(s, now)
	}
}

// Len is how many sessions there are, handshakes under way included.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}

// Drain refuses new sessions from now on and waits until those that are here have
// ended. When the context ends first, they are ended; requests in the middle of
// their work are awaited all the same, since a charge may be under way.
func (t *Table) Drain(ctx context.Context) {
	t.mu.Lock()
	t.draining = true
	if t.empty == nil {
		t.empty = make(chan struct{})
		t.checkEmpty()
	}
	empty := t.empty
	t.mu.Unlock()

	select {
	case <-empty:
	case <-ctx.Done():
		t.mu.Lock()
		t.stopped = true
		for _, s := range t.sessions {
			t.endAndTell(s, frame.Draining, EndedDraining)
		}
		t.unlock()
	}
	t.work.Wait()
}

// checkEmpty tells Drain when nothing is left.
func (t *Table) checkEmpty() {
	if t.empty == nil || t.total != 0 {
		return
	}
	select {
	case <-t.empty:
	default:
		close(t.empty)
	}
}

// unlock unlocks, and tells the conversations of ended sessions: a Conversation
// is never called under the table's lock.
func (t *Table) unlock() {
	ended := t.ended
	t.ended = nil
	t.mu.Unlock()
	for _, c := range ended {
		c.End()
	}
}

// reserve takes a place for a session of peer, or says why there is none.
func (t *Table) reserve(peer Peer) (status frame.Status, limit string, event Event) {
	switch {
	case t.draining:
		return frame.Draining, "", RefusedDraining
	case t.total >= t.cfg.MaxSessions:
		return frame.Busy, LimitSessions, RefusedSessions
	case t.perPeer[peer] >= t.cfg.MaxPerPeer && !t.makeRoom(peer):
		return frame.Busy, LimitPerPeer, RefusedPerPeer
	}
	t.total++
	t.perPeer[peer]++
	// Under the lock, so that Drain either sees it or forbade it.
	t.work.Add(1)
	return frame.OK, "", 0
}

// makeRoom ends the oldest of the peer's sessions that no connection holds and
// nothing works on: a phone whose connection breaks again and again leaves one
// behind each time, and must not wait for them to go idle. Nothing is lost by it,
// an attempt goes on in any session.
func (t *Table) makeRoom(peer Peer) bool {
	var oldest *session
	for _, s := range t.sessions {
		if s.peer == peer && s.line == nil && !s.working && (oldest == nil || s.accepted.Before(oldest.accepted)) {
			oldest = s
		}
	}
	if oldest == nil {
		return false
	}
	t.end(oldest, EndedForRoom)
	return true
}

// release gives a place back.
func (t *Table) release(peer Peer) {
	t.total--
	if t.perPeer[peer]--; t.perPeer[peer] == 0 {
		delete(t.perPeer, peer)
	}
	t.checkEmpty()
}

// newID makes a session id that is not in use.
func (t *Table) newID() (id frame.SessionID) {
	copy(id[:], t.cfg.Node[:])
	for {
		rand.Read(id[len(t.cfg.Node):]) // never fails: crypto/rand ends the process instead
		if t.sessions[id] == nil {
			return id
		}
	}
}
