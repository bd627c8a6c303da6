package relay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/count"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/protocol/frame"
)

// clientFrame is a WebSocket frame as a client sends it.
func clientFrame(first byte, body []byte) []byte {
	b := []byte{first}
	if len(body) <= 125 {
		b = append(b, 0x80|byte(len(body)))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(len(body)))
	}
	key := []byte{0xa1, 0x02, 0x73, 0xf4}
	b = append(b, key...)
	for i, x := range body {
		b = append(b, x^key[i%4])
	}
	return b
}

// tape is a connection from which in is read and to which anything goes.
type tape struct {
	net.Conn
	in io.Reader
}

func (t tape) Read(b []byte) (int, error)         { return t.in.Read(b) }
func (t tape) Write(b []byte) (int, error)        { return len(b), nil }
func (t tape) Close() error                       { return nil }
func (t tape) SetDeadline(time.Time) error        { return nil }
func (t tape) SetReadDeadline(t2 time.Time) error { return nil }
func (t tape) SetWriteDeadline(time.Time) error   { return nil }

// server is a response that can be hijacked.
type server struct {
	http.ResponseWriter
	conn net.Conn
}

func (s server) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return s.conn, bufio.NewReadWriter(bufio.NewReader(s.conn), bufio.NewWriter(s.conn)), nil
}

// alone is a relay without anything around it.
func alone(t testing.TB) *Relay {
	r := New(Config{Limits: &ratelimit.Rules{}, MaxQueuedBytes: 1 << 20}, Parts{Clock: clock.System{}, Wheel: turning(t, clock.System{}), Counts: new(count.Set), Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(r.stop)
	return r
}

// taped is a connection of r that reads in.
func taped(t testing.TB, r *Relay, in io.Reader) *conn {
	t.Helper()
	c := newConn(r, time.Now())
	upgrade(t, &r.upgrader, hijacker{server{httptest.NewRecorder(), tape{in: in}}, c})
	c.in.br.Reset(c.in)
	c.wire.release(frame.Hello{})
	return c
}

func upgrade(t testing.TB, u *websocket.Upgrader, w http.ResponseWriter) *websocket.Conn {
	t.Helper()
	req := httptest.NewRequest("GET", frame.Path, nil)
	for name, value := range map[string]string{
		"Connection": "upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
	} {
		req.Header.Set(name, value)
	}
	ws, err := u.Upgrade(w, req, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

// ours reads a stream as the relay does, and notes what it heard.
func ours(t testing.TB, r *Relay, stream []byte) (heard []string, why Reason) {
	c := taped(t, r, bytes.NewReader(stream))
	note := func(kind int, data string) { heard = append(heard, fmt.Sprintf("%d %x", kind, data)) }
	c.in.br.Peek(1) // it may be made at any time, with much in the buffer
	ws, err := c.gorilla()
	if err != nil {
		t.Fatal(err)
	}
	ws.SetPingHandler(func(data string) error { note(websocket.PingMessage, data); return nil })
	ws.SetPongHandler(func(data string) error { note(websocket.PongMessage, data); return nil })
	for {
		raw, kind, err := c.read()
		if err != nil {
			return heard, readReason(err)
		}
		note(kind, string(*raw))
		frames.Put(raw)
	}
}

// gorillas reads it with gorilla/websocket alone.
func gorillas(t testing.TB, stream []byte) (heard []string, why Reason) {
	ws := upgrade(t, &websocket.Upgrader{}, server{httptest.NewRecorder(), tape{in: bytes.NewReader(stream)}})
	ws.SetReadLimit(frame.MaxFrame)
	note := func(kind int, data string) { heard = append(heard, fmt.Sprintf("%d %x", kind, data)) }
	ws.SetPingHandler(func(data string) error { note(websocket.PingMessage, data); return nil })
	ws.SetPongHandler(func(data string) error { note(websocket.PongMessage, data); return nil })
	for {
		kind, b, err := ws.ReadMessage()
		if err != nil {
			return heard, readReason(err)
		}
		note(kind, string(b))
	}
}

func streams() [][]byte {
	data := frame.Data{Session: frame.SessionID{1}, Payload: bytes.Repeat([]byte("x"), 300)}.Append(nil)
	unmasked := []byte{0x82, 1, 'x'}
	long := append([]byte{0x82, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3, 4}, "abc"...)
	return [][]byte{
		nil,
		slices.Concat(clientFrame(0x82, data), clientFrame(0x89, []byte("ping")), clientFrame(0x82, nil), clientFrame(0x8a, nil)),
		slices.Concat(clientFrame(0x02, data[:7]), clientFrame(0x89, []byte("p")), clientFrame(0x00, data[7:9]), clientFrame(0x80, data[9:]), clientFrame(0x82, data)),
		slices.Concat(clientFrame(0x81, []byte("text")), clientFrame(0x82, data)),
		slices.Concat(clientFrame(0x82, data), clientFrame(0x88, []byte{3, 232}), clientFrame(0x82, data)),
		clientFrame(0x82, make([]byte, frame.MaxFrame)),
		clientFrame(0x82, make([]byte, frame.MaxFrame+1)),
		slices.Concat(clientFrame(0x02, make([]byte, 4000)), clientFrame(0x80, make([]byte, 122))),
		clientFrame(0x89, make([]byte, 126)), clientFrame(0x09, []byte("x")), clientFrame(0x80, []byte("x")), clientFrame(0xc2, data),
		clientFrame(0x83, data), {0x30, 0xfe}, unmasked, long,
		clientFrame(0x82, data)[:5], clientFrame(0x82, data)[:50], clientFrame(0x02, data),
		slices.Concat(clientFrame(0x02, data), clientFrame(0x82, data)),
	}
}

// The part of WebSocket that the relay reads by itself is read as
// gorilla/websocket reads it, and what follows or precedes it, too.
func FuzzReadAgreesWithGorilla(f *testing.F) {
	for _, s := range streams() {
		f.Add(s)
	}
	r := alone(f)
	f.Fuzz(func(t *testing.T, stream []byte) {
		got, gotWhy := ours(t, r, stream)
		want, wantWhy := gorillas(t, stream)
		if !slices.Equal(got, want) || gotWhy != wantWhy {
			t.Errorf("%x:\n got %q, %v\nwant %q, %v", stream, got, gotWhy, want, wantWhy)
		}
	})
}

// What the outbox writes, gorilla's client reads.
func TestWrittenMessagesAreWebSocket(t *testing.T) {
	h, vault := simple(t, nil)
	c := h.phone("alice")
	s := c.Open(1, "x")
	session, _ := vault.Session(s)
	for _, size := range []int{1, 100, 101, 102, 1000, frame.MaxPayload} {
		session.Link.Send(session.Number, frame.Data{Session: s, Sequence: uint32(size), Payload: bytes.Repeat([]byte{7}, size)})
		_, b, err := c.WS.ReadMessage()
		d, bad := frame.ParseData(b)
		if err = errors.Join(err, bad); err != nil || len(d.Payload) != size {
			t.Errorf("%d bytes: %d, %v", size, len(d.Payload), err)
		}
	}
}

// deadlineTape is a connection that tells of the deadlines of its reads.
type deadlineTape struct {
	tape
	set func(time.Time)
}

func (w deadlineTape) SetDeadline(t time.Time) error     { w.set(t); return nil }
func (w deadlineTape) SetReadDeadline(t time.Time) error { w.set(t); return nil }

// A message gives no more time to a client that is to answer our close frame,
// however the end of the connection and the message meet.
func TestAMessageDoesNotOutlastTheEnd(t *testing.T) {
	for name, read := range map[string]func(*conn){
		"the rest of one": func(c *conn) { c.moreTime(os.ErrDeadlineExceeded, false) },
		"a fragment":      func(c *conn) { c.readOther() },
	} {
		for _, before := range []bool{false, true} {
			if before && name == "the rest of one" {
				continue // it has no more time at all
			}
			r := alone(t)
			c := taped(t, r, bytes.NewReader(nil))
			until := time.Now().Add(r.closeGrace)
			end := func() {
				c.mu.Lock()
				c.ended = true
				c.mu.Unlock()
				c.until = until.UnixNano()
			}
			if before {
				end()
			}
			var last time.Time
			c.wire.Conn = deadlineTape{set: func(at time.Time) { end(); last = at }, tape: tape{in: bytes.NewReader(nil)}}
			c.in.conn = c.wire.Conn
			read(c)
			if !last.Equal(until) {
				t.Errorf("%s, ended before %v: it may take %v longer", name, before, last.Sub(until))
			}
		}
	}
}
