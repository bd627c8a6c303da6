package main

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// serveDefault is the echo of gorilla/websocket's examples.
func serveDefault(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	for {
		kind, message, err := c.ReadMessage()
		if err != nil {
			return
		}
		if err := c.WriteMessage(kind, message); err != nil {
			return
		}
	}
}

// tuned is what one gets from gorilla/websocket with its own options and two
// habits: the handler returns, so that net/http's buffers are freed, and
// messages are read into pooled memory.
type tuned struct {
	up      websocket.Upgrader
	ping    time.Duration
	buffers sync.Pool
}

// maxMessage is more than what is ever sent here, in bytes.
const maxMessage = 4 << 10

func newTuned(ping time.Duration) *tuned {
	return &tuned{
		up:      websocket.Upgrader{ReadBufferSize: 512, WriteBufferSize: 2048, WriteBufferPool: new(sync.Pool)},
		ping:    ping,
		buffers: sync.Pool{New: func() any { b := make([]byte, maxMessage); return &b }},
	}
}

func (t *tuned) serve(w http.ResponseWriter, r *http.Request) {
	if c, err := t.up.Upgrade(w, r, nil); err == nil {
		go t.echo(c)
	}
}

func (t *tuned) echo(c *websocket.Conn) {
	defer c.Close()
	if t.ping > 0 {
		done := make(chan struct{})
		defer close(done)
		go t.pings(c, done)
	}
	for {
		buf, kind, n, err := t.read(c)
		if err != nil {
			return
		}
		err = c.WriteMessage(kind, (*buf)[:n])
		t.buffers.Put(buf)
		if err != nil {
			return
		}
	}
}

// read reads one message into a pooled buffer.
func (t *tuned) read(c *websocket.Conn) (buf *[]byte, kind, n int, err error) {
	kind, in, err := c.NextReader()
	if err != nil {
		return nil, 0, 0, err
	}
	buf = t.buffers.Get().(*[]byte)
	for n < len(*buf) {
		m, err := in.Read((*buf)[n:])
		n += m
		if err == io.EOF {
			return buf, kind, n, nil
		}
		if err != nil {
			return nil, 0, 0, err
		}
	}
	return nil, 0, 0, errors.New("too long")
}

// pings is the usual way to ping: a ticker and a goroutine for each connection.
func (t *tuned) pings(c *websocket.Conn, done chan struct{}) {
	tick := time.NewTicker(t.ping)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if c.WriteControl(websocket.PingMessage, nil, time.Now().Add(10*time.Second)) != nil {
				return
			}
		case <-done:
			return
		}
	}
}
