package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"

	"github.com/gorilla/websocket"
)

// proxy is the ordinary way to bring WebSockets to a backend: each client has a
// backend connection, two goroutines copy. On it each message follows its
// length, u32.
type proxy struct {
	*tuned
	backend string
	tls     *tls.Config // nil: plain
}

func newProxy(o *options) (*proxy, error) {
	p := &proxy{tuned: newTuned(0), backend: o.backend}
	var err error
	if o.ca != "" {
		p.tls, err = o.backendTLS()
	}
	return p, err
}

func (p *proxy) dial() (net.Conn, error) {
	if p.tls != nil {
		return tls.Dial("tcp", p.backend, p.tls)
	}
	return net.Dial("tcp", p.backend)
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request) {
	c, err := p.up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	b, err := p.dial()
	if err != nil {
		c.Close()
		return
	}
	go p.toBackend(b, c)
	go p.toClient(c, b)
}

func (p *proxy) toBackend(b net.Conn, c *websocket.Conn) {
	defer b.Close()
	defer c.Close()
	out := make([]byte, 0, 512)
	for {
		buf, _, n, err := p.read(c)
		if err != nil {
			return
		}
		out = binary.BigEndian.AppendUint32(out[:0], uint32(n))
		out = append(out, (*buf)[:n]...)
		p.buffers.Put(buf)
		if _, err := b.Write(out); err != nil {
			return
		}
	}
}

func (p *proxy) toClient(c *websocket.Conn, b net.Conn) {
	defer b.Close()
	defer c.Close()
	in := bufio.NewReaderSize(b, 512)
	message := make([]byte, maxMessage)
	for {
		head, err := in.Peek(4)
		if err != nil {
			return
		}
		n := binary.BigEndian.Uint32(head)
		in.Discard(4) // it was peeked: it cannot fail
		if n > maxMessage {
			return
		}
		if _, err := io.ReadFull(in, message[:n]); err != nil {
			return
		}
		if err := c.WriteMessage(websocket.BinaryMessage, message[:n]); err != nil {
			return
		}
	}
}
