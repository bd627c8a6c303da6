// Package relay is the client's side of the outer wire: one authenticated
// connection to a relay, made again when it breaks, and vault sessions that
// survive it. It knows nothing of what the sessions carry.
package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"chatvault/protocol/frame"
)

// Backoff between two attempts to connect: full jitter, that is a uniform
// choice between 0 and a ceiling that doubles from the first to the last. Full,
// because all phones of a relay that died come back at once.
const (
	backoffFirst = 500 * time.Millisecond
	backoffLast  = 20 * time.Second
)

const (
	maxRefusals = 5 // retryable refusals of one request before they are returned
	maxSilences = 3 // repeats without a reply before the connection is given up
	maxBehind   = 8 // sessions left behind that are remembered, to be closed
)

var (
	// ErrLost is in the error of whatever failed because the network did: no
	// connection, one that broke, or one that stays silent.
	ErrLost = errors.New("connection lost")
	// ErrProtocol says that the relay does not speak the protocol.
	ErrProtocol = errors.New("relay violates the protocol")
	// ErrClosed is the answer after Close.
	ErrClosed = errors.New("closed")
)

// Refusal is a relay's refusal, by REFUSE, close code or HTTP status.
type Refusal struct {
	Status  frame.Status
	RetryIn time.Duration // 0 when it did not say
	Limit   string        // printable ASCII
}

func (r *Refusal) Error() string { return "relay refuses: " + r.Status.String() }

// Ended says that a vault session is over and another one may be opened.
type Ended struct{ Status frame.Status }

func (e *Ended) Error() string { return "vault session ended: " + e.Status.String() }

// Config is what a Link needs. All of it is required but Notice.
type Config struct {
	URL  string
	TLS  *tls.Config
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Auth answers a HELLO. With fresh, the ticket used last was refused as
	// ended: bring another one. renewAt is when to authenticate again.
	Auth   func(ctx context.Context, hello frame.Hello, fresh bool) (a frame.Auth, renewAt time.Time, err error)
	Notice func()

	ConnectWait time.Duration // for one connection, to READY
	ReplyWait   time.Duration // before a request's bytes are repeated
	MaxWait     time.Duration // the longest hint of a refusal that is waited out
	Log         *slog.Logger
}

// Link keeps one connection to the relay. Safe for concurrent use; the frames
// of vault sessions go to one caller at a time, which Client sees to.
type Link struct {
	cfg     Config
	dialing chan struct{} // a lock that a context can give up on

	mu      sync.Mutex
	cur     *conn // nil, live, or dead
	last    error // why cur ended, or why the last dial failed
	broken  int   // connections that broke or were not made since the last reply
	tag     uint32
	expired bool // the last ticket was refused as ended
	closed  bool
	behind  []frame.SessionID // left on connections that broke
}

// New makes a Link. It does not connect.
func New(cfg Config) *Link {
	return &Link{cfg: cfg, dialing: make(chan struct{}, 1)}
}

// Close ends the connection and every later use.
func (l *Link) Close() {
	l.mu.Lock()
	l.closed = true
	c := l.cur
	l.mu.Unlock()
	if c != nil {
		c.fail(ErrClosed)
	}
}

// Connect makes sure that a connection stands, and returns the relay's HELLO.
// It tries once, after the delay that earlier failures ask for. With first, it
// is for what the app has begun just now, which may come back after another
// process has taken the connection over; else that is the Refusal replaced.
func (l *Link) Connect(ctx context.Context, first bool) (frame.Hello, error) {
	p := anew
	if first {
		p |= back
	}
	c, err := l.connect(ctx, p)
	if err != nil {
		return frame.Hello{}, err
	}
	return c.hello, nil
}

// Hold keeps a connection up until the context ends, the relay refuses for
// good, or another process with this device's key takes the connection over:
// to dial again would push that one out, and it us, for ever.
func (l *Link) Hold(ctx context.Context) error {
	for p := back; ; p = inFlight {
		c, err := l.connect(ctx, p)
		if err != nil {
			if err := l.retry(ctx, err); err != nil {
				return err
			}
			continue
		}
		select {
		case <-c.done:
			if replaced(c.err) {
				return c.err // also if an operation has come back by now
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// replaced says whether a connection ended because a newer one of the same
// account and device took over.
func replaced(err error) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && r.Status == frame.Replaced
}

// retry waits after a failure if another try may help, else returns it.
func (l *Link) retry(ctx context.Context, err error) error {
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		if !refusal.Status.Retryable() {
			return err
		}
		return Sleep(ctx, refusal.RetryIn)
	}
	if ctx.Err() != nil || !errors.Is(err, ErrLost) {
		return err
	}
	return nil
}

// purpose says what a connection is wanted for.
type purpose uint8

const (
	// inFlight: what goes on takes any connection, and makes none after it was
	// replaced.
	inFlight purpose = 0
	// anew: one that the relay asked to leave finishes what is in flight, and
	// begins nothing.
	anew purpose = 1 << (iota - 1)
	// back: the app has begun something, and so a connection that was replaced
	// may be made again.
	back
)

// connect returns the live connection, or makes one.
func (l *Link) connect(ctx context.Context, p purpose) (*conn, error) {
	select {
	case l.dialing <- struct{}{}:
		defer func() { <-l.dialing }()
	case <-ctx.Done():
		return nil, l.lost(ctx.Err())
	}
	c, delay, err := l.current(p)
	if c != nil || err != nil {
		return c, err
	}
	if err := Sleep(ctx, delay); err != nil {
		return nil, l.lost(err)
	}
	l.mu.Lock()
	fresh := l.expired
	l.mu.Unlock()
	c, err = dial(ctx, &l.cfg, fresh)
	c, err = l.adopt(c, err)
	if err == nil {
		l.closeBehind(c)
	}
	return c, err
}

// leave remembers a session that could not be closed with its connection. A vault
// gives a device few sessions at a time, and keeps one for a minute.
func (l *Link) leave(id frame.SessionID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remember(id)
}

// remember is called with mu held. The oldest are forgotten: the vault ends them
// first.
func (l *Link) remember(ids ...frame.SessionID) {
	l.behind = append(l.behind, ids...)
	l.behind = l.behind[max(0, len(l.behind)-maxBehind):]
}

// closeBehind closes, on a new connection, what others have left behind. Nothing
// waits for it.
func (l *Link) closeBehind(c *conn) {
	l.mu.Lock()
	ids := l.behind
	l.behind = nil
	l.mu.Unlock()
	for _, id := range ids {
		c.farewell(l.nextTag(), id)
	}
}

// current returns the connection if it serves the purpose, else the delay before
// the next one is made.
func (l *Link) current(p purpose) (*conn, time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, 0, ErrClosed
	}
	if l.cur == nil {
		return nil, Backoff(l.broken), nil
	}
	leaveAt := l.cur.leaveAt()
	if p&anew != 0 && !leaveAt.IsZero() {
		l.cur.fail(&Refusal{Status: frame.Draining})
	}
	if !l.cur.dead() {
		return l.cur, 0, nil
	}
	if replaced(l.cur.err) && p&back == 0 {
		return nil, 0, l.cur.err
	}
	if time.Since(l.cur.since) > backoffLast {
		l.broken = 0
	}
	l.remember(l.cur.unparted()...)
	l.last, l.cur = l.cur.err, nil
	l.broken++
	l.noteRefusal(l.last)
	l.cfg.Log.Debug("connection ended", "error", l.last)
	return nil, max(Backoff(l.broken), time.Until(leaveAt)), nil
}

func (l *Link) adopt(c *conn, err error) (*conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.last = err
		l.broken++
		l.noteRefusal(err)
		l.cfg.Log.Debug("connecting failed", "error", err)
		return nil, err
	}
	if l.closed {
		c.fail(ErrClosed)
		return nil, ErrClosed
	}
	l.cur, l.expired = c, false
	return c, nil
}

// noteRefusal remembers that the next AUTH needs another ticket.
func (l *Link) noteRefusal(err error) {
	if r, ok := errors.AsType[*Refusal](err); ok && r.Status == frame.TicketExpired {
		l.expired = true
	}
}

// lost says why an operation's context ended without a connection: the last
// failure tells a person more than "deadline exceeded".
func (l *Link) lost(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last != nil {
		return fmt.Errorf("%w: %w: %w", ErrLost, err, l.last)
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// worked forgets the failures before a reply.
func (l *Link) worked() {
	l.mu.Lock()
	l.broken = 0
	l.mu.Unlock()
}

func (l *Link) nextTag() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tag++
	return l.tag
}

// Backoff returns the delay before the next try after n failures: none after
// none, then full jitter.
func Backoff(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	ceiling := backoffLast
	if n < 16 {
		ceiling = min(backoffLast, backoffFirst<<(n-1))
	}
	return rand.N(ceiling + 1)
}

// Sleep waits, or returns the context's error.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
