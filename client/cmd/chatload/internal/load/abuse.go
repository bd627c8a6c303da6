package load

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

// The operations of abuse.
const (
	opSlow     = "slow-reader" // until the relay cuts one who does not read
	opHalfOpen = "half-open"   // until the relay cuts one who says no more
	opGarbage  = "garbage"     // until the relay has refused it, or closed
)

// A slow reader repeats the longest request there is, and the vault repeats its
// reply of 3 KB, as it would to a phone that lost it: it fills the socket. 40 a
// second stay below the relay's default limit of frames for a connection.
const (
	slowReceive  = 4 << 10 // bytes of its receive buffer
	slowAskEvery = 25 * time.Millisecond
	slowPingSize = 125 // bytes, the most that a ping can carry
)

func cutPrefix(s, prefix string) (string, bool) { return strings.CutPrefix(s, prefix) }

// doSlow is the do of a stream: one who authenticates, asks, and never reads.
// Being cut and being held until the end are both good; what it costs others,
// the probe shows.
func (e *Env) doSlow(ctx context.Context, _ int) measure.Outcome {
	p, err := e.cfg.Phones.New()
	if err != nil {
		return outcome(err)
	}
	w, out := e.abuserWith(ctx, p, wireOptions{receiveBuffer: slowReceive})
	if w == nil {
		return out
	}
	defer w.ws.Close()
	request, err := e.longRequest(ctx, w, p)
	if err != nil {
		return outcome(err)
	}
	for next := time.Now(); ; next = next.Add(slowAskEvery) {
		if !sleepUntil(ctx, next) || time.Now().After(e.stageEnd) {
			return measure.Outcome{Code: "held", Untimed: true}
		}
		if err := w.send(request); err != nil && !isTimeout(err) {
			return measure.Outcome{Code: "cut"}
		}
	}
}

// longRequest opens a vault session and returns its AUTHORISE, sealed: however
// often it is sent, the vault answers it once, and then repeats the answer.
func (e *Env) longRequest(ctx context.Context, w *wire, p phones.Phone) (frame.Data, error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { w.ws.Close() })()
	hs, err := noisenk.NewInitiator(e.keys.Fleet, e.keys.Noise[:])
	if err != nil {
		return frame.Data{}, err
	}
	message1, err := hs.Message1()
	if err != nil {
		return frame.Data{}, err
	}
	if err := w.send(frame.Open{Tag: 1, Payload: message1}); err != nil {
		return frame.Data{}, err
	}
	for {
		f, err := w.next()
		if err != nil {
			return frame.Data{}, err
		}
		switch f := f.(type) {
		case frame.Refuse:
			return frame.Data{}, status(f.Status.String())
		case frame.Close:
			return frame.Data{}, status(f.Status.String())
		case frame.Data:
			n, err := hs.ReadMessage2(f.Payload)
			if err != nil {
				return frame.Data{}, err
			}
			return e.sealAuthorise(ctx, n, f.Session, p)
		}
	}
}

func (e *Env) sealAuthorise(ctx context.Context, n *noisenk.Session, id frame.SessionID, p phones.Phone) (frame.Data, error) {
	t, err := p.Ticket(ctx)
	if err != nil {
		return frame.Data{}, err
	}
	proof, err := ticket.SignVaultAuth(p.Device, e.keys.Fleet, [32]byte(n.HandshakeHash()), ticket.Hash(t))
	if err != nil {
		return frame.Data{}, err
	}
	sealed := n.Seal(id[:], 1, vaultmsg.EncodeRequest(vaultmsg.Authorise{DeviceKey: p.Device.Public(), Signature: proof, Ticket: t}))
	return frame.Data{Session: id, Sequence: 1, Payload: sealed}, nil
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

// abuser is an authenticated connection for abuse, or how that failed.
func (e *Env) abuser(ctx context.Context, o wireOptions) (*wire, measure.Outcome) {
	p, err := e.cfg.Phones.New()
	if err != nil {
		return nil, outcome(err)
	}
	return e.abuserWith(ctx, p, o)
}

func (e *Env) abuserWith(ctx context.Context, p phones.Phone, o wireOptions) (*wire, measure.Outcome) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	w, err := e.connect(ctx, p, o)
	return w, outcome(err)
}

// halfOpen are the ways to say no more, and where the socket stands then.
var halfOpen = []struct {
	name string
	open func(e *Env, ctx context.Context) (io.ReadCloser, measure.Outcome)
}{
	{"connected", func(e *Env, ctx context.Context) (io.ReadCloser, measure.Outcome) { return e.rawHalf(ctx, "") }},
	{"request", func(e *Env, ctx context.Context) (io.ReadCloser, measure.Outcome) {
		return e.rawHalf(ctx, "GET "+frame.Path+" HTTP/1.1\r\nHost: half\r\nUpgrade: web")
	}},
	{"upgraded", func(e *Env, ctx context.Context) (io.ReadCloser, measure.Outcome) {
		return e.wireHalf(ctx, wireOptions{noAuth: true})
	}},
	// Pings are not answered: a phone that has left without a word.
	{"vanished", func(e *Env, ctx context.Context) (io.ReadCloser, measure.Outcome) {
		return e.wireHalf(ctx, wireOptions{})
	}},
}

func (e *Env) rawHalf(ctx context.Context, say string) (io.ReadCloser, measure.Outcome) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	c, err := e.dialRaw(ctx, e.url(), say != "")
	if err == nil && say != "" {
		_, err = io.WriteString(c, say)
	}
	if err != nil {
		return nil, outcome(err)
	}
	return c, measure.Outcome{}
}

func (e *Env) wireHalf(ctx context.Context, o wireOptions) (io.ReadCloser, measure.Outcome) {
	w, out := e.abuser(ctx, o)
	if w == nil {
		return nil, out
	}
	return w.ws.NetConn(), measure.Outcome{} // below the WebSocket nobody answers
}

// doHalfOpen is the do of a stream: one of the ways, and then silence until the
// relay cuts it. One that it leaves for longer than CutWithin is a failure.
func (e *Env) doHalfOpen(ctx context.Context, i int) measure.Outcome {
	way := halfOpen[i%len(halfOpen)]
	c, out := way.open(e, ctx)
	if c == nil {
		return out
	}
	defer c.Close()
	timely, cancel := context.WithTimeout(ctx, e.cfg.CutWithin)
	defer cancel()
	over, stop := context.WithDeadline(timely, e.stageEnd)
	defer stop()
	defer context.AfterFunc(over, func() { c.Close() })()
	if _, err := io.Copy(io.Discard, c); over.Err() == nil || err == nil {
		return measure.Outcome{Code: "cut_" + way.name}
	}
	if timely.Err() != nil && ctx.Err() == nil {
		return measure.Outcome{Code: "not_cut_" + way.name, Failed: true}
	}
	return measure.Outcome{Code: "open_" + way.name, Untimed: true} // the run was over first
}

// garbage are the ways to send what nobody should, on a connection that is
// authenticated unless early.
var garbage = []struct {
	name  string
	o     wireOptions
	write func(w *wire) error
}{
	{name: "text", write: func(w *wire) error { return w.ws.WriteMessage(websocket.TextMessage, []byte("hello")) }},
	{name: "random", write: func(w *wire) error { return w.raw(append([]byte{0xff}, random(200)...)) }},
	{name: "empty", write: func(w *wire) error { return w.raw(nil) }},
	{name: "truncated", write: func(w *wire) error { return w.raw(stray().Append(nil)[:12]) }},
	{name: "oversized", write: func(w *wire) error { return w.raw(random(16 * frame.MaxFrame)) }},
	{name: "wrong-way", write: func(w *wire) error { return w.raw(frame.Ready{PingMillis: 1}.Append(nil)) }},
	{name: "early", o: wireOptions{noAuth: true}, write: func(w *wire) error { return w.raw(stray().Append(nil)) }},
	{name: "stray", write: func(w *wire) error { return w.raw(stray().Append(nil)) }},
	{name: "fragmented", o: wireOptions{fragment: 16}, write: func(w *wire) error { return w.raw(stray().Append(nil)) }},
	{name: "false-handshake", write: func(w *wire) error { return w.raw(frame.Open{Tag: 1, Payload: random(1265)}.Append(nil)) }},
	{name: "framing", write: func(w *wire) error {
		_, err := w.ws.NetConn().Write(append([]byte{0xff, 0x7f}, random(64)...))
		return err
	}},
}

func (w *wire) raw(b []byte) error {
	if err := w.ws.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	return w.ws.WriteMessage(websocket.BinaryMessage, b)
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// stray is a DATA frame of a session that nobody has.
func stray() frame.Data {
	return frame.Data{Session: frame.SessionID(random(frame.SessionIDSize)), Sequence: 1, Payload: random(32)}
}

// doGarbage is the do of a stream: the relay must refuse it, or close, in time.
func (e *Env) doGarbage(ctx context.Context, i int) measure.Outcome {
	kind := garbage[i%len(garbage)]
	w, out := e.abuser(ctx, kind.o)
	if w == nil {
		return out
	}
	defer w.ws.Close()
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { w.ws.Close() })()
	if err := kind.write(w); err != nil {
		return measure.Outcome{Code: "closed_" + kind.name} // it did not even read all of it
	}
	for {
		f, err := w.next()
		if ctx.Err() != nil {
			return measure.Outcome{Code: "silent_" + kind.name, Failed: true}
		}
		if err != nil {
			return measure.Outcome{Code: "closed_" + kind.name}
		}
		switch f.(type) {
		case frame.Refuse, frame.Close:
			return measure.Outcome{Code: "refused_" + kind.name}
		case frame.Data, frame.Attach:
			return measure.Outcome{Code: "accepted_" + kind.name, Failed: true}
		}
	}
}

// validURL says what is wrong with a relay's URL, or returns nil.
func validURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want a URL like wss://host[:port]" + frame.Path)
	}
	if u.Scheme != "ws" && u.Scheme != "wss" {
		return errors.New("the URL must begin with wss:// or ws://")
	}
	if u.Path != frame.Path {
		return errors.New("the URL's path must be " + frame.Path)
	}
	return nil
}
