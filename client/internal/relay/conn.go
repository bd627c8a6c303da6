package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
)

// What a relay may ask for as its ping interval, and what stands when it asks
// for nothing.
const (
	minPing     = time.Second
	defaultPing = 30 * time.Second
	maxPing     = 5 * time.Minute
	writeWait   = 10 * time.Second
	renewAgain  = 10 * time.Second // after an AUTH that failed on a live connection
	renewFloor  = time.Second      // between two that succeeded
	reasonWait  = time.Second      // for the reason why a write failed
)

// conn is one authenticated connection.
type conn struct {
	// static after construction
	cfg    *Config
	ws     *websocket.Conn
	hello  frame.Hello
	since  time.Time
	ping   time.Duration
	frames chan frame.Frame // of vault sessions; dropped when nobody reads
	done   chan struct{}    // closed when the connection has ended
	events chan event       // from the read loop to the keeper

	leaving atomic.Pointer[time.Time] // when a GOAWAY asks to be gone

	writing sync.Mutex // held for each write of a data frame

	mu        sync.Mutex
	farewells map[uint32]frame.SessionID // by the tag of their ATTACH; guarded by mu

	once sync.Once
	err  error // why it ended; written before done is closed
}

// dial connects and authenticates, once.
func dial(ctx context.Context, cfg *Config, fresh bool) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.ConnectWait)
	defer cancel()
	d := websocket.Dialer{
		NetDialContext:  cfg.Dial,
		TLSClientConfig: cfg.TLS,
		Subprotocols:    []string{frame.Subprotocol},
		// No compression: the payloads are ciphertext, and the context of a
		// compressor would cost more memory than the session.
	}
	ws, resp, err := d.DialContext(ctx, cfg.URL, nil)
	if err != nil {
		return nil, dialError(resp, err)
	}
	c := &conn{
		cfg: cfg, ws: ws, since: time.Now(),
		frames: make(chan frame.Frame, 16),
		done:   make(chan struct{}),
		events: make(chan event, 16),
	}
	ws.SetReadLimit(frame.MaxFrame)
	stop := context.AfterFunc(ctx, func() { ws.Close() })
	renewAt, err := c.authenticate(ctx, fresh)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		ws.Close()
		if ctx.Err() != nil && !errors.Is(err, ErrLost) {
			err = fmt.Errorf("%w: %w: %w", ErrLost, ctx.Err(), err)
		}
		return nil, err
	}
	c.alive()
	ws.SetPongHandler(func(string) error { c.alive(); return nil })
	go c.read()
	go c.keep(renewAt)
	return c, nil
}

// dialError tells a relay's refusal of the upgrade from a network that fails.
func dialError(resp *http.Response, err error) error {
	if resp == nil || !errors.Is(err, websocket.ErrBadHandshake) {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	r := &Refusal{}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		r.RetryIn = time.Duration(min(s, 86400)) * time.Second
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		r.Status = frame.RateLimited
		r.read(resp.Body)
	case http.StatusServiceUnavailable:
		r.Status = frame.Busy
	case http.StatusUnauthorized, http.StatusForbidden:
		r.Status = frame.NotAuthorised
	default:
		if resp.StatusCode >= 500 { // a proxy without its relay
			return fmt.Errorf("%w: HTTP status %d", ErrLost, resp.StatusCode)
		}
		return fmt.Errorf("%w: HTTP status %d instead of a WebSocket", ErrProtocol, resp.StatusCode)
	}
	return r
}

// maxProblem is how much of a refusal's body is read, in bytes.
const maxProblem = 1024

// read takes over which limit refused the upgrade, and when to come back to the
// millisecond. What it cannot read changes nothing.
func (r *Refusal) read(body io.Reader) {
	var problem struct {
		Limit        string `json:"limit"`
		RetryAfterMS uint32 `json:"retry_after_ms"`
	}
	b, err := io.ReadAll(io.LimitReader(body, maxProblem))
	if err != nil || json.Unmarshal(b, &problem) != nil {
		return
	}
	if len(problem.Limit) <= frame.MaxLimit {
		r.Limit = printable(problem.Limit)
	}
	if problem.RetryAfterMS > 0 {
		r.RetryIn = min(millis(problem.RetryAfterMS), 24*time.Hour)
	}
}

// authenticate is HELLO, AUTH, READY.
func (c *conn) authenticate(ctx context.Context, fresh bool) (renewAt time.Time, err error) {
	if got := c.ws.Subprotocol(); got != frame.Subprotocol {
		return renewAt, fmt.Errorf("%w: it does not speak %s", ErrProtocol, frame.Subprotocol)
	}
	f, err := c.next()
	if err != nil {
		return renewAt, err
	}
	hello, ok := f.(frame.Hello)
	if !ok {
		return renewAt, refusalOr(f, "a frame of type %d before HELLO", f.Type())
	}
	if hello.Version != frame.Version {
		return renewAt, &Refusal{Status: frame.UnsupportedVersion}
	}
	c.hello = hello
	a, renewAt, err := c.cfg.Auth(ctx, hello, fresh)
	if err != nil {
		return renewAt, err
	}
	if err := c.send(a); err != nil {
		return renewAt, err
	}
	if f, err = c.next(); err != nil {
		return renewAt, err
	}
	ready, ok := f.(frame.Ready)
	if !ok {
		return renewAt, refusalOr(f, "a frame of type %d before READY", f.Type())
	}
	c.ping = pingEvery(ready)
	return renewAt, nil
}

func pingEvery(r frame.Ready) time.Duration {
	if r.PingMillis == 0 {
		return defaultPing
	}
	return min(max(time.Duration(r.PingMillis)*time.Millisecond, minPing), maxPing)
}

// refusalOr is the refusal that f is, or else a violation of the protocol.
func refusalOr(f frame.Frame, format string, args ...any) error {
	switch f := f.(type) {
	case frame.Refuse:
		return refusal(f)
	case frame.Goaway:
		return &Refusal{Status: f.Status, RetryIn: millis(f.ReconnectMillis)}
	}
	return fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...)
}

func refusal(f frame.Refuse) *Refusal {
	return &Refusal{Status: f.Status, RetryIn: millis(f.RetryMillis), Limit: printable(f.Limit)}
}

// printable is s, or nothing: a stranger's text goes to a person's terminal.
func printable(s string) string {
	for _, b := range []byte(s) {
		if b < ' ' || b > '~' {
			return ""
		}
	}
	return s
}

func millis(ms uint32) time.Duration { return time.Duration(ms) * time.Millisecond }

// next reads one frame. A WebSocket close becomes the refusal of its code.
func (c *conn) next() (frame.Frame, error) {
	kind, b, err := c.ws.ReadMessage()
	if err != nil {
		return nil, closeError(err)
	}
	if kind != websocket.BinaryMessage {
		return nil, fmt.Errorf("%w: a text message", ErrProtocol)
	}
	f, err := frame.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return f, nil
}

func closeError(err error) error {
	var ce *websocket.CloseError
	if errors.As(err, &ce) {
		for _, base := range []int{4500, 4000} {
			if s := frame.Status(ce.Code - base); ce.Code > base && s.Known() && s.CloseCode() == ce.Code {
				return &Refusal{Status: s}
			}
		}
		// The peer's reason is a stranger's text: only the code is told.
		return fmt.Errorf("%w: WebSocket close code %d", ErrLost, ce.Code)
	}
	if errors.Is(err, websocket.ErrReadLimit) {
		return fmt.Errorf("%w: a frame over %d bytes", ErrProtocol, frame.MaxFrame)
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// send writes one frame.
func (c *conn) send(f frame.Frame) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.ws.SetWriteDeadline(time.Now().Add(writeWait))
	if err := c.ws.WriteMessage(websocket.BinaryMessage, f.Append(nil)); err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}

// alive moves the moment at which a silent relay is given up.
func (c *conn) alive() { c.ws.SetReadDeadline(time.Now().Add(2*c.ping + writeWait)) }

// fail ends the connection with a reason. Only the first counts.
func (c *conn) fail(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.done)
		code := websocket.CloseNormalClosure
		if errors.Is(err, ErrProtocol) {
			code = frame.Malformed.CloseCode()
		}
		c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
		c.ws.Close()
	})
}

func (c *conn) dead() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// leaveAt is when the relay asked this connection to be gone, or zero.
func (c *conn) leaveAt() time.Time {
	if at := c.leaving.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// read owns the reading side.
func (c *conn) read() {
	for {
		f, err := c.next()
		if err != nil {
			c.fail(err)
			return
		}
		c.alive()
		switch f := f.(type) {
		case frame.Attach:
			if id, ok := c.parting(f.Tag); ok {
				c.tell(event{parted: &id}) // who reads must never wait for a write
			} else {
				c.deliver(f)
			}
		case frame.Data, frame.Close:
			c.deliver(f)
		case frame.Notice:
			if c.cfg.Notice != nil {
				c.cfg.Notice()
			}
		case frame.Ready:
			c.tell(event{ready: true})
		case frame.Goaway:
			delay := max(millis(f.ReconnectMillis), time.Millisecond)
			at := time.Now().Add(delay)
			if c.leaving.CompareAndSwap(nil, &at) {
				c.tell(event{leave: delay})
			}
		case frame.Refuse:
			switch {
			case f.Refused == frame.TAuth:
				c.tell(event{refused: f.Status})
			case f.Refused == frame.TAttach && c.parted(f.Tag):
			default:
				c.deliver(f)
			}
		default:
			c.fail(fmt.Errorf("%w: a frame of type %d from a relay", ErrProtocol, f.Type()))
			return
		}
	}
}

// deliver hands a frame to whoever waits. One that nobody takes is dropped:
// a reply that was needed comes again when its request is repeated.
func (c *conn) deliver(f frame.Frame) {
	select {
	case c.frames <- f:
	default:
		c.cfg.Log.Debug("frame dropped", "type", f.Type())
	}
}
