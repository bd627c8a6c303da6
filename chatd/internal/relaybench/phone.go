//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// What a phone talks to.
const (
	kindRaw   = "raw"   // bytes come back
	kindWS    = "ws"    // WebSocket messages come back
	kindRelay = "relay" // chatd's wire; DATA comes back from the vault
	kindDoor  = "door"  // chatd's wire up to READY
)

// frameSize is the size of what is echoed: a whole WebSocket message, and for
// chatd a whole DATA frame with its header of 25 bytes.
const frameSize = 256

// The opcodes of RFC 6455 §5.2 that are used.
const (
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// phone is a client as cheap as can be: the messages that it sends are made once.
type phone struct {
	kind    string
	conn    net.Conn
	in      *bufio.Reader
	session frame.SessionID
	message []byte // what is echoed, as it goes on the wire
	want    []byte // the payload that must come back
}

// mask is every phone's masking key: servers must unmask, whatever it is.
var mask = [4]byte{0x9c, 0x35, 0xe1, 0x58}

// appendMasked appends a WebSocket frame as a client sends it.
func appendMasked(b []byte, opcode byte, payload []byte) []byte {
	b = append(b, 0x80|opcode)
	if len(payload) < 126 {
		b = append(b, 0x80|byte(len(payload)))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(len(payload)))
	}
	b = append(b, mask[:]...)
	for i, x := range payload {
		b = append(b, x^mask[i%4])
	}
	return b
}

// connectWait is how long a phone waits until it is READY: as the SDK does.
const connectWait = 8 * time.Second

// dial connects the i-th phone, from one of 64 addresses in turn.
func (c *clients) dial(ctx context.Context, o order, i int) (*phone, error) {
	d := net.Dialer{KeepAlive: -1, Timeout: connectWait, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%64))}}
	conn, err := d.DialContext(ctx, "tcp", o.Addr)
	if err != nil {
		return nil, err
	}
	p := &phone{kind: o.Kind, conn: conn}
	conn.SetDeadline(time.Now().Add(connectWait))
	if err := c.greet(p, o, i); err != nil {
		conn.Close()
		return nil, err
	}
	p.conn.SetDeadline(time.Time{})
	return p, nil
}

func (c *clients) greet(p *phone, o order, i int) error {
	if o.TLS {
		t := tls.Client(p.conn, c.tls)
		if err := t.Handshake(); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		p.conn = t
	}
	p.in = bufio.NewReaderSize(p.conn, 2*frameSize)
	if p.kind == kindRaw {
		p.want = bytes.Repeat([]byte{0xa5}, frameSize)
		p.message = p.want
		return nil
	}
	if err := p.upgrade(o.Addr); err != nil {
		return err
	}
	if p.kind == kindWS {
		p.want = bytes.Repeat([]byte{0xa5}, frameSize)
		p.message = appendMasked(nil, opBinary, p.want)
		return nil
	}
	return c.authenticate(p, o, i)
}

func (p *phone) upgrade(host string) error {
	request := "GET " + frame.Path + " HTTP/1.1\r\nHost: " + host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: " + frame.Subprotocol + "\r\n\r\n"
	if _, err := io.WriteString(p.conn, request); err != nil {
		return err
	}
	status, err := p.in.ReadString('\n')
	for line := status; err == nil && strings.TrimSpace(line) != ""; {
		line, err = p.in.ReadString('\n')
	}
	if err == nil && !strings.HasPrefix(status, "HTTP/1.1 101 ") {
		err = errors.New("not upgraded: " + strings.TrimSpace(status))
	}
	return err
}

// authenticate goes from HELLO to READY with the ticket of the i-th account.
func (c *clients) authenticate(p *phone, o order, i int) error {
	hello, err := expect[frame.Hello](p)
	if err != nil {
		return err
	}
	tok := c.tickets[i]
	proof, err := ticket.SignRelayAuth(c.device, hello.Nonce, o.Addr, ticket.Hash(tok))
	if err != nil {
		return err
	}
	if err := p.send(frame.Auth{DeviceKey: c.device.Public(), Signature: proof, Host: o.Addr, Ticket: tok}); err != nil {
		return err
	}
	_, err = expect[frame.Ready](p)
	return err
}

// open opens a vault session.
func (p *phone) open() error {
	if err := p.send(frame.Open{Tag: 1, Payload: []byte("the benchmark")}); err != nil {
		return err
	}
	a, err := expect[frame.Attach](p)
	if err != nil {
		return err
	}
	p.session = a.Session
	if _, err := expect[frame.Data](p); err != nil {
		return err
	}
	d := frame.Data{Session: p.session, Sequence: 1}
	d.Payload = bytes.Repeat([]byte{0xa5}, frameSize-len(d.Session)-5)
	p.want = d.Append(nil)
	p.message = appendMasked(nil, opBinary, p.want)
	return nil
}

// attach continues the session on this connection, and repeats what was sent last.
func (p *phone) attach(before *phone) error {
	p.session, p.want, p.message = before.session, before.want, before.message
	p.conn.SetDeadline(time.Now().Add(connectWait))
	defer p.conn.SetDeadline(time.Time{})
	if err := p.send(frame.Attach{Tag: 2, Session: p.session}); err != nil {
		return err
	}
	if _, err := expect[frame.Attach](p); err != nil {
		return err
	}
	return p.roundTrip()
}

func (p *phone) send(f frame.Frame) error {
	_, err := p.conn.Write(appendMasked(nil, opBinary, f.Append(nil)))
	return err
}

// expect reads the next frame, which must be an F.
func expect[F frame.Frame](p *phone) (want F, err error) {
	b, err := p.read()
	if err != nil {
		return want, fmt.Errorf("waiting for %T: %w", want, err)
	}
	f, err := frame.Parse(b)
	if err != nil {
		return want, err
	}
	want, ok := f.(F)
	if !ok {
		return want, fmt.Errorf("got %T %+v, want %T", f, f, want)
	}
	return want, nil
}

// read returns the payload of the next binary message; it is valid until the next
// call. Pings are answered.
func (p *phone) read() ([]byte, error) {
	for {
		opcode, b, err := p.next()
		switch {
		case err != nil:
			return nil, err
		case opcode == opBinary:
			return b, nil
		case opcode == opPing:
			if _, err := p.conn.Write(appendMasked(nil, opPong, b)); err != nil {
				return nil, err
			}
		case opcode == opClose:
			return nil, fmt.Errorf("closed: %q", b)
		}
	}
}

// next reads a message of any kind, of less than the reader's buffer.
func (p *phone) next() (opcode byte, payload []byte, err error) {
	head, err := p.in.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	opcode = head[0] & 0x0f
	size, n := 2, int(head[1])
	if n >= 126 {
		if head, err = p.in.Peek(4); err != nil {
			return 0, nil, err
		}
		size, n = 4, int(binary.BigEndian.Uint16(head[2:]))
	}
	b, err := p.in.Peek(size + n)
	if err != nil {
		return 0, nil, err
	}
	p.in.Discard(size + n) // it was peeked: it cannot fail
	return opcode, b[size:], nil
}

// roundTrip sends the message and waits until it came back.
func (p *phone) roundTrip() error {
	if _, err := p.conn.Write(p.message); err != nil {
		return err
	}
	var b []byte
	var err error
	if p.kind == kindRaw {
		if b, err = p.in.Peek(frameSize); err == nil {
			p.in.Discard(frameSize)
		}
	} else {
		b, err = p.read()
	}
	if err == nil && !bytes.Equal(b, p.want) {
		err = fmt.Errorf("%d bytes came back, not the same", len(b))
	}
	return err
}

// use does what a phone does that fetches its backup: a session of four round
// trips. It is idle afterwards.
func (p *phone) use() error {
	trips := 4
	if p.kind == kindRelay {
		if err := p.open(); err != nil {
			return err
		}
		trips-- // it was one
	}
	for range trips {
		if err := p.roundTrip(); err != nil {
			return err
		}
	}
	if p.kind == kindRelay {
		return p.send(frame.Close{Session: p.session, Status: frame.SessionEnded})
	}
	return nil
}
