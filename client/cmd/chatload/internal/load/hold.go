package load

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/client/internal/relay"
	"chatvault/protocol/frame"
)

// The operations of connections that are held.
const (
	opConnect   = "connect"   // dial, HELLO, AUTH, READY
	opPing      = "ping"      // a ping of a held connection, to its pong
	opHold      = "hold"      // the end of a held connection that nobody here wanted, or that a GOAWAY asked for
	opComeback  = "comeback"  // from such an end until the phone is READY again, on any relay
	opReconnect = "reconnect" // from a storm's cut until READY
)

// crowd is connections that are held.
type crowd struct {
	e    *Env
	all  []*held
	ends context.Context // until the crowd is closed
	stop context.CancelFunc
	wait sync.WaitGroup

	drain drain
}

func newCrowd(e *Env) *crowd {
	c := &crowd{e: e}
	c.ends, c.stop = context.WithCancel(context.Background())
	return c
}

// open is the do of a stream: connection i is made and held.
func (c *crowd) open(ctx context.Context, i int) measure.Outcome {
	h := c.all[i]
	ctx, cancel := context.WithTimeout(ctx, c.e.cfg.Timeout)
	defer cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.have(); err != nil {
		return outcome(err)
	}
	return outcome(h.connect(ctx))
}

// places makes room for n connections.
func (c *crowd) places(n int) {
	for range n {
		c.all = append(c.all, &held{crowd: c})
	}
}

// settle waits for those that are coming back, unless ctx ends before.
func (c *crowd) settle(ctx context.Context) {
	defer context.AfterFunc(ctx, c.stop)()
	for _, h := range c.all {
		h.settled()
	}
}

// close ends all of them.
func (c *crowd) close() {
	c.stop()
	for _, h := range c.all {
		h.mu.Lock()
		h.drop()
		h.mu.Unlock()
	}
	c.wait.Wait()
}

// held is one phone with its connection.
type held struct {
	crowd *crowd // static

	mu    sync.Mutex // held while it connects, or comes back
	phone phones.Phone
	line  *line // nil: not connected
}

// line is one connection of a phone.
type line struct {
	*wire
	timers []*time.Timer // guarded by the phone's mu

	mu      sync.Mutex
	pinged  time.Time
	dropped bool // by this side
}

// have gets a phone, unless it has one. It is called with mu held.
func (h *held) have() (err error) {
	if h.phone.Ticket == nil {
		h.phone, err = h.crowd.e.cfg.Phones.New()
	}
	return err
}

// settled returns when it is not coming back, or has come.
func (h *held) settled() {
	h.mu.Lock()
	defer h.mu.Unlock()
}

// connect is called with mu held.
func (h *held) connect(ctx context.Context) error {
	w, err := h.crowd.e.connect(ctx, h.phone, wireOptions{})
	if err != nil {
		return err
	}
	l := &line{wire: w}
	h.line = l
	h.crowd.e.run.Hold(1)
	patience := 2*w.pingEvery() + writeWait
	alive := func() { w.ws.SetReadDeadline(time.Now().Add(patience)) }
	alive()
	ping := h.crowd.e.run.Op(opPing)
	w.ws.SetPongHandler(func(string) error {
		alive()
		l.mu.Lock()
		at := l.pinged
		l.pinged = time.Time{}
		l.mu.Unlock()
		if !at.IsZero() {
			ping.End(at, at, time.Now(), measure.Outcome{Code: CodeOK})
		}
		return nil
	})
	l.every(w.pingEvery(), func() { l.ping(ping) })
	if ends := time.Until(time.Unix(int64(min(w.ready.TicketEnds, 1<<37)), 0)); ends > 0 {
		l.every(ends*4/5, func() { l.renew(h.phone) })
	}
	h.crowd.wait.Go(func() { h.read(l) })
	return nil
}

// every calls f again and again, until the line's timers are stopped.
func (l *line) every(d time.Duration, f func()) {
	var t *time.Timer
	ready := make(chan struct{})
	t = time.AfterFunc(d, func() {
		<-ready
		l.mu.Lock()
		dropped := l.dropped
		l.mu.Unlock()
		if !dropped {
			f()
			t.Reset(d)
		}
	})
	close(ready)
	l.timers = append(l.timers, t)
}

// ping sends a ping, unless the pong of the last one is still awaited.
func (l *line) ping(op *measure.Op) {
	now := time.Now()
	l.mu.Lock()
	waiting := !l.pinged.IsZero()
	if !waiting {
		l.pinged = now
	}
	l.mu.Unlock()
	if waiting {
		return
	}
	op.Begin(now)
	// An error is met by the reader too.
	_ = l.ws.WriteControl(websocket.PingMessage, nil, now.Add(writeWait))
}

// renew authenticates again before the ticket ends. The relay's READY, or its
// refusal, arrives at the reader.
func (l *line) renew(p phones.Phone) {
	if a, err := auth(context.Background(), p, l.hello, l.url); err == nil {
		_ = l.send(a) // an error is met by the reader too
	}
}

// drop ends the connection from this side, as a phone without network does:
// no close frame. It is called with the phone's mu held.
func (h *held) drop() {
	l := h.line
	if l == nil {
		return
	}
	h.line = nil
	for _, t := range l.timers {
		t.Stop()
	}
	l.mu.Lock()
	l.dropped = true
	unanswered := l.pinged
	l.pinged = time.Time{}
	l.mu.Unlock()
	if now := time.Now(); !unanswered.IsZero() {
		h.crowd.e.run.Op(opPing).End(unanswered, unanswered, now, measure.Outcome{Code: "cut", Untimed: true})
	}
	l.ws.Close()
	h.crowd.e.run.Hold(-1)
}

// read reads until the end of the connection, and when that was the relay's
// doing, notes it and comes back.
func (h *held) read(l *line) {
	code, told := "", false
	for code == "" {
		f, err := l.next()
		if err != nil {
			code = codeOf(err)
			break
		}
		if g, ok := f.(frame.Goaway); ok {
			// The relay drains, and says when to come back.
			h.crowd.drain.note("goaway_"+g.Status.String(), true)
			told = true
			wait := time.Duration(g.ReconnectMillis) * time.Millisecond
			if relay.Sleep(h.crowd.ends, wait) == nil {
				code = "goaway_" + g.Status.String()
			}
			break
		}
	}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.line != l {
		return // it was cut here
	}
	h.drop()
	if h.crowd.ends.Err() != nil {
		return // the run is over
	}
	if !told {
		h.crowd.drain.note(code, false)
	}
	hold := h.crowd.e.run.Op(opHold)
	hold.Begin(now)
	_, asked := cutPrefix(code, "goaway_")
	hold.End(now, now, now, measure.Outcome{Code: code, Failed: !asked, Untimed: true})
	comeback := h.crowd.e.run.Op(opComeback)
	comeback.Begin(now)
	out := outcome(h.comeback(h.crowd.ends))
	comeback.End(now, now, time.Now(), out)
}

// comeback connects again until it succeeds, with the protocol's pauses after
// the first try, within the time of an operation. It is called with mu held.
func (h *held) comeback(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.crowd.e.cfg.Timeout)
	defer cancel()
	for n := 1; ; n++ {
		err := h.connect(ctx)
		if err == nil {
			return nil
		}
		if pause := relay.Sleep(ctx, relay.Backoff(n)); pause != nil {
			return errors.Join(err, pause)
		}
	}
}

// again is the do of a storm: the phone's connection is cut, and made anew.
func (c *crowd) again(ctx context.Context, i int) measure.Outcome {
	h := c.all[i%len(c.all)]
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.have(); err != nil {
		return outcome(err)
	}
	h.drop()
	return outcome(h.comeback(ctx))
}
