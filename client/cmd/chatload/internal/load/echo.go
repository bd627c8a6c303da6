package load

import (
	"context"
	"log/slog"
	"time"

	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/client/internal/relay"
	"chatvault/client/internal/session"
	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
)

// The operations of echoes.
const (
	opAuthorise = "authorise" // connect, open a vault session, AUTHORISE
	opEcho      = "echo"      // STATUS, there and back
	opProbe     = "probe"     // the same, by a good client beside abuse
)

// echoes is phones with a vault session each, that ask for the status again and
// again. The request is 512 bytes through relay and vault, both ways, and
// touches neither HSM nor record: as near to an echo as a vault has.
type echoes struct {
	e    *Env
	idle chan *echo
}

// echo is one of them, used by one goroutine at a time.
type echo struct {
	e       *Env
	phone   phones.Phone
	link    *relay.Link
	session *session.Session // nil: to be opened
}

func newEchoes(e *Env, n int) *echoes {
	es := &echoes{e: e, idle: make(chan *echo, n)}
	for range n {
		es.idle <- &echo{e: e}
	}
	return es
}

// open is the do of a stream that opens all sessions before the echoes begin.
func (es *echoes) open(ctx context.Context, _ int) measure.Outcome {
	return es.use(ctx, (*echo).authorise)
}

// do is the do of a stream of echoes.
func (es *echoes) do(ctx context.Context, _ int) measure.Outcome { return es.use(ctx, (*echo).do) }

func (es *echoes) use(ctx context.Context, f func(*echo, context.Context) measure.Outcome) measure.Outcome {
	ctx, cancel := context.WithTimeout(ctx, es.e.cfg.Timeout)
	defer cancel()
	x, waited, err := take(ctx, es.e.run, es.idle)
	if err != nil {
		return outcome(err)
	}
	defer func() { es.idle <- x }()
	out := f(x, ctx)
	out.Began = waited
	return out
}

// take takes one thing of those that operations share. Who has to wait for one is
// counted, and waited says until when: a wait here is no service of the relay's.
func take[T any](ctx context.Context, run *measure.Run, from <-chan T) (one T, waited time.Time, err error) {
	select {
	case one = <-from:
		return one, waited, nil
	default:
	}
	run.Waited()
	select {
	case one = <-from:
		return one, time.Now(), nil
	case <-ctx.Done():
		return one, waited, ctx.Err()
	}
}

// close ends all sessions. Nobody uses them any more.
func (es *echoes) close() {
	for range cap(es.idle) {
		x := <-es.idle
		x.end()
		es.idle <- x
	}
}

// do asks for the status. A session that ended is opened again first, which is
// counted by itself and in this echo's time.
func (x *echo) do(ctx context.Context) measure.Outcome {
	if x.session == nil {
		op, now := x.e.run.Op(opAuthorise), time.Now()
		op.Begin(now)
		out := x.authorise(ctx)
		op.End(now, now, time.Now(), out)
		if out.Failed {
			return out
		}
	}
	reply, err := x.session.Call(ctx, vaultmsg.StatusRequest{})
	return x.judge(reply, err)
}

// authorise opens a vault session.
func (x *echo) authorise(ctx context.Context) measure.Outcome {
	if x.session != nil {
		return measure.Outcome{Code: CodeOK, Untimed: true}
	}
	if x.phone.Ticket == nil {
		p, err := x.e.cfg.Phones.New()
		if err != nil {
			return outcome(err)
		}
		x.phone = p
	}
	x.link = x.e.link(x.phone)
	var err error
	if x.session, err = session.Open(ctx, x.link, x.e.keys); err != nil {
		x.end()
		return outcome(err)
	}
	t, err := x.phone.Ticket(ctx)
	if err != nil {
		x.end()
		return outcome(err)
	}
	reply, err := x.session.Authorise(ctx, x.phone.Device, t)
	return x.judge(reply, err)
}

func (x *echo) judge(reply vaultmsg.Reply, err error) measure.Outcome {
	if err == nil && reply.Status != frame.OK {
		err = status(reply.Status.String())
	}
	if err != nil {
		x.end()
	}
	return outcome(err)
}

func (x *echo) end() {
	if x.session != nil {
		x.session.Close()
		x.session = nil
	}
	if x.link != nil {
		x.link.Close()
		x.link = nil
	}
}

// link is the SDK's connection for a phone.
func (e *Env) link(p phones.Phone) *relay.Link {
	url := e.url()
	return relay.New(relay.Config{
		URL: url, TLS: e.tls(""), Dial: e.cfg.Dialer.Dial,
		Auth: func(ctx context.Context, hello frame.Hello, _ bool) (frame.Auth, time.Time, error) {
			a, err := auth(ctx, p, hello, url)
			return a, time.Now().Add(30 * time.Minute), err
		},
		ConnectWait: e.cfg.Timeout, ReplyWait: e.cfg.Timeout, MaxWait: time.Second,
		Log: slog.New(slog.DiscardHandler),
	})
}
