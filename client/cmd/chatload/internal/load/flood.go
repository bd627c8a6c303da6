package load

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
)

// More operations of abuse.
const (
	opSlowloris = "slowloris"  // until the relay cuts one who says everything, a byte at a time
	opPingFlood = "ping-flood" // until the relay cuts one who pings without end
	opSessions  = "sessions"   // a connection of one account that opens vault sessions
)

// dripEvery is how often a slowloris sends a byte: often enough to look alive.
const dripEvery = 400 * time.Millisecond

// drips are what slowloris says slowly: the request for the upgrade, or AUTH.
var drips = []struct {
	name string
	open func(e *Env, ctx context.Context) (net.Conn, []byte, measure.Outcome)
}{
	{"request", func(e *Env, ctx context.Context) (net.Conn, []byte, measure.Outcome) {
		ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
		defer cancel()
		c, err := e.dialRaw(ctx, e.url(), true)
		return c, append([]byte("GET "+frame.Path+" HTTP/1.1\r\nHost: slow\r\nX: "), make([]byte, 4096)...), outcome(err)
	}},
	{"auth", func(e *Env, ctx context.Context) (net.Conn, []byte, measure.Outcome) {
		w, out := e.abuser(ctx, wireOptions{noAuth: true})
		if w == nil {
			return nil, nil, out
		}
		// A masked binary message of 1,024 bytes (RFC 6455 §5.2), of which
		// there will always be more to come.
		return w.ws.NetConn(), append([]byte{0x82, 0xfe, 0x04, 0x00, 1, 2, 3, 4}, random(1024)...), out
	}},
}

// doSlowloris is the do of a stream. One that the relay leaves for longer than
// CutWithin is a failure.
func (e *Env) doSlowloris(ctx context.Context, i int) measure.Outcome {
	drip := drips[i%len(drips)]
	c, text, out := drip.open(e, ctx)
	if c == nil || out.Failed {
		return out
	}
	defer c.Close()
	end := time.Now().Add(e.cfg.CutWithin)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, c) // until the relay closes, or this side does
	}()
	for n := 0; ; n = (n + 1) % len(text) {
		if _, err := c.Write(text[n : n+1]); err != nil {
			return measure.Outcome{Code: "cut_" + drip.name}
		}
		select {
		case <-gone:
			return measure.Outcome{Code: "cut_" + drip.name}
		case <-time.After(dripEvery):
		case <-ctx.Done():
		}
		if now := time.Now(); ctx.Err() != nil || now.After(e.stageEnd) {
			return measure.Outcome{Code: "open_" + drip.name, Untimed: true}
		} else if now.After(end) {
			return measure.Outcome{Code: "not_cut_" + drip.name, Failed: true}
		}
	}
}

// doPingFlood is the do of a stream. A relay whose limit of frames was lifted
// may hold it to the end.
func (e *Env) doPingFlood(ctx context.Context, _ int) measure.Outcome {
	w, out := e.abuser(ctx, wireOptions{})
	if w == nil {
		return out
	}
	defer w.ws.Close()
	payload := make([]byte, slowPingSize)
	go func() {
		for { // reads, so that it is the flood that ends it, not the pongs
			if _, _, err := w.ws.NextReader(); err != nil {
				return
			}
		}
	}()
	for ctx.Err() == nil && time.Now().Before(e.stageEnd) {
		err := w.ws.WriteControl(websocket.PingMessage, payload, time.Now().Add(time.Second))
		if errors.Is(err, websocket.ErrCloseSent) || err != nil && !isTimeout(err) {
			return measure.Outcome{Code: "cut"}
		}
	}
	return measure.Outcome{Code: "held", Untimed: true}
}

// opens is how many vault sessions each connection of the one account asks for.
const opens = 8

// hog is one account that wants everything.
type hog struct {
	e     *Env
	first func() (phones.Phone, error)
}

func newHog(e *Env) *hog { return &hog{e: e, first: sync.OnceValues(e.cfg.Phones.New)} }

// do is the do of a stream: another connection of the account, that opens as
// many vault sessions as it may and keeps them to the end.
func (h *hog) do(ctx context.Context, _ int) measure.Outcome {
	p, err := h.first()
	if err == nil {
		p, err = h.e.cfg.Phones.Again(p)
	}
	if err != nil {
		return outcome(err)
	}
	timely, cancel := context.WithTimeout(ctx, h.e.cfg.Timeout)
	defer cancel()
	w, err := h.e.connect(timely, p, wireOptions{})
	if err != nil {
		out := outcome(err)
		// That one account is refused at some point is what a relay is for.
		out.Failed = out.Code != frame.RateLimited.String() && out.Code != frame.Busy.String()
		return out
	}
	defer w.ws.Close()
	code, err := h.openAll(timely, w)
	if err != nil {
		return outcome(err)
	}
	over, stop := context.WithDeadline(ctx, h.e.stageEnd)
	defer stop()
	<-over.Done()
	return measure.Outcome{Code: code, Untimed: true}
}

// openAll asks for sessions and waits for all answers.
func (h *hog) openAll(ctx context.Context, w *wire) (code string, err error) {
	defer context.AfterFunc(ctx, func() { w.ws.Close() })()
	for tag := range uint32(opens) {
		hs, err := noisenk.NewInitiator(h.e.keys.Fleet, h.e.keys.Noise[:])
		if err != nil {
			return "", err
		}
		message1, err := hs.Message1()
		if err != nil {
			return "", err
		}
		if err := w.send(frame.Open{Tag: tag + 1, Payload: message1}); err != nil {
			return "", err
		}
	}
	code = "all_opened"
	for answered := 0; answered < opens; {
		f, err := w.next()
		if err != nil {
			return "", err
		}
		switch f := f.(type) {
		case frame.Attach:
			answered++
		case frame.Refuse:
			answered++
			code = "some_" + f.Status.String()
		}
	}
	return code, nil
}
