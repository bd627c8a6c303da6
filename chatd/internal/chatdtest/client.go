package chatdtest

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// Client is a phone: it speaks the outer wire.
type Client struct {
	t  testing.TB
	WS *websocket.Conn
	// Hello is what the relay said first.
	Hello frame.Hello
	// Host is what AUTH names.
	Host string
}

// Dial connects to a relay at ws://host or wss://host and reads its HELLO.
func Dial(t testing.TB, d *websocket.Dialer, relayURL string) *Client {
	t.Helper()
	c := &Client{t: t}
	var err error
	if c.Host, err = ticket.Host(relayURL); err != nil {
		t.Fatal(err)
	}
	dialer := websocket.Dialer{HandshakeTimeout: patience}
	if d != nil {
		dialer = *d
	}
	dialer.Subprotocols = []string{frame.Subprotocol}
	ws, resp, err := dialer.Dial(relayURL+frame.Path, nil)
	if err != nil {
		t.Fatalf("dialling %s: %v (%v)", relayURL, err, resp)
	}
	t.Cleanup(func() { ws.Close() })
	c.WS = ws
	hello, ok := c.Next().(frame.Hello)
	if !ok || hello.Version != frame.Version || ws.Subprotocol() != frame.Subprotocol {
		t.Fatalf("the relay began with %+v, subprotocol %q", hello, ws.Subprotocol())
	}
	c.Hello = hello
	return c
}

// Upgrade tries to upgrade with these headers, and returns the status code of
// the answer.
func Upgrade(t testing.TB, relayURL string, header http.Header) int {
	t.Helper()
	ws, resp, err := (&websocket.Dialer{HandshakeTimeout: patience}).Dial(relayURL+frame.Path, header)
	if err == nil {
		ws.Close()
	}
	if resp == nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// Auth is a good AUTH for this connection.
func (c *Client) Auth(device ticket.DeviceKey, tok string) frame.Auth {
	c.t.Helper()
	sig, err := ticket.SignRelayAuth(device, c.Hello.Nonce, c.Host, ticket.Hash(tok))
	if err != nil {
		c.t.Fatal(err)
	}
	return frame.Auth{DeviceKey: device.Public(), Signature: sig, Host: c.Host, Ticket: tok}
}

// Send sends a frame.
func (c *Client) Send(f frame.Frame) {
	c.t.Helper()
	c.SendRaw(websocket.BinaryMessage, f.Append(nil))
}

// SendRaw sends a message of any kind.
func (c *Client) SendRaw(kind int, b []byte) {
	c.t.Helper()
	if err := c.WS.WriteMessage(kind, b); err != nil {
		c.t.Fatalf("sending: %v", err)
	}
}

// Next returns the next frame.
func (c *Client) Next() frame.Frame {
	c.t.Helper()
	f, err := c.next()
	if err != nil {
		c.t.Fatalf("waiting for a frame: %v", err)
	}
	return f
}

func (c *Client) next() (frame.Frame, error) {
	c.WS.SetReadDeadline(time.Now().Add(patience))
	kind, b, err := c.WS.ReadMessage()
	if err != nil {
		return nil, err
	}
	if kind != websocket.BinaryMessage {
		return nil, errors.New("not a binary message")
	}
	return frame.Parse(b)
}

// Expect returns the next frame as an F.
func Expect[F frame.Frame](c *Client) F {
	c.t.Helper()
	f := c.Next()
	want, ok := f.(F)
	if !ok {
		c.t.Fatalf("got %T %+v, want %T", f, f, want)
	}
	return want
}

// Closed reads to the end of the connection and returns the frames that still
// came and the close code: 1006 if there was none.
func (c *Client) Closed() (last []frame.Frame, code int) {
	c.t.Helper()
	for {
		f, err := c.next()
		var closed *websocket.CloseError
		if errors.As(err, &closed) {
			return last, closed.Code
		}
		if err != nil {
			c.t.Logf("closed by %v", err)
			return last, websocket.CloseAbnormalClosure
		}
		last = append(last, f)
	}
}

// ExpectRefusedAndClosed wants REFUSE with the status, then the close code of
// it, and nothing else.
func (c *Client) ExpectRefusedAndClosed(s frame.Status) {
	c.t.Helper()
	last, code := c.Closed()
	refused := slices.ContainsFunc(last, func(f frame.Frame) bool {
		r, ok := f.(frame.Refuse)
		return ok && r.Status == s
	})
	if !refused || len(last) != 1 || code != s.CloseCode() {
		c.t.Fatalf("got %+v, then close code %d; want REFUSE %s and %d", last, code, s, s.CloseCode())
	}
}

// Open opens a vault session with a payload that the vault echoes.
func (c *Client) Open(tag uint32, payload string) frame.SessionID {
	c.t.Helper()
	c.Send(frame.Open{Tag: tag, Payload: []byte(payload)})
	a := Expect[frame.Attach](c)
	d := Expect[frame.Data](c)
	if a.Tag != tag || d.Session != a.Session || d.Sequence != 0 || string(d.Payload) != payload {
		c.t.Fatalf("opened %+v, %+v", a, d)
	}
	return a.Session
}

// Echo sends DATA and wants the same back.
func (c *Client) Echo(s frame.SessionID, sequence uint32, payload string) {
	c.t.Helper()
	c.Send(frame.Data{Session: s, Sequence: sequence, Payload: []byte(payload)})
	if d := Expect[frame.Data](c); d.Session != s || d.Sequence != sequence || string(d.Payload) != payload {
		c.t.Fatalf("echo of %q: %+v", payload, d)
	}
}
