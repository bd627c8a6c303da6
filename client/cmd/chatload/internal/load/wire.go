package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/protocol/frame"
)

// writeWait bounds one write of a well-behaved connection.
const writeWait = 10 * time.Second

// writeBuffers are shared: connections that are only held need none.
var writeBuffers sync.Pool

// wire is an authenticated connection, smaller than the SDK's: thousands of
// them fit into one process.
type wire struct {
	ws    *websocket.Conn
	url   string
	hello frame.Hello
	ready frame.Ready
}

// wireOptions change how a connection is made. The zero value is a good
// client's.
type wireOptions struct {
	receiveBuffer int  // of the socket, in bytes; 0: the system's
	fragment      int  // size of the fragments that messages are cut into; 0: whole
	noAuth        bool // stop after HELLO
}

// connect dials, and exchanges HELLO, AUTH and READY.
func (e *Env) connect(ctx context.Context, p phones.Phone, o wireOptions) (*wire, error) {
	w := &wire{url: e.url()}
	d := websocket.Dialer{
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := e.cfg.Dialer.Dial(ctx, network, address)
			if tcp, ok := c.(*net.TCPConn); ok && o.receiveBuffer > 0 {
				err = tcp.SetReadBuffer(o.receiveBuffer)
			}
			return c, err
		},
		TLSClientConfig: e.tls(""),
		Subprotocols:    []string{frame.Subprotocol},
		ReadBufferSize:  512, WriteBufferSize: 1024, WriteBufferPool: &writeBuffers,
	}
	if o.fragment > 0 {
		d.WriteBufferSize, d.WriteBufferPool = o.fragment, nil
	}
	ws, resp, err := d.DialContext(ctx, w.url, nil)
	if err != nil {
		if resp != nil && errors.Is(err, websocket.ErrBadHandshake) {
			return nil, status(httpCode(resp))
		}
		return nil, err
	}
	w.ws = ws
	ws.SetReadLimit(frame.MaxFrame)
	stop := context.AfterFunc(ctx, func() { ws.Close() })
	err = w.authenticate(ctx, p, o)
	if !stop() && err != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	if err != nil {
		ws.Close()
		return nil, err
	}
	return w, nil
}

func (w *wire) authenticate(ctx context.Context, p phones.Phone, o wireOptions) error {
	f, err := w.next()
	if err != nil {
		return err
	}
	hello, ok := f.(frame.Hello)
	if !ok {
		return unexpected(f)
	}
	w.hello = hello
	if o.noAuth {
		return nil
	}
	a, err := auth(ctx, p, hello, w.url)
	if err != nil {
		return err
	}
	if err := w.send(a); err != nil {
		return err
	}
	if f, err = w.next(); err != nil {
		return err
	}
	ready, ok := f.(frame.Ready)
	if !ok {
		return unexpected(f)
	}
	w.ready = ready
	return nil
}

// unexpected is the refusal that f is, or else a violation of the protocol.
func unexpected(f frame.Frame) error {
	switch f := f.(type) {
	case frame.Refuse:
		return status(f.Status.String())
	case frame.Goaway:
		return status(f.Status.String())
	}
	return fmt.Errorf("%w: type %d where it does not belong", frame.ErrMalformed, f.Type())
}

// next reads one frame.
func (w *wire) next() (frame.Frame, error) {
	kind, b, err := w.ws.ReadMessage()
	if err != nil {
		return nil, err
	}
	if kind != websocket.BinaryMessage {
		return nil, fmt.Errorf("%w: a text message", frame.ErrMalformed)
	}
	return frame.Parse(b)
}

// send writes one frame. One goroutine at a time.
func (w *wire) send(f frame.Frame) error {
	if err := w.ws.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	return w.ws.WriteMessage(websocket.BinaryMessage, f.Append(nil))
}

// pingEvery is how often the relay wants to hear of a silent client.
func (w *wire) pingEvery() time.Duration {
	d := time.Duration(w.ready.PingMillis) * time.Millisecond
	if d == 0 {
		d = 30 * time.Second
	}
	return min(max(d, time.Second), 5*time.Minute)
}
