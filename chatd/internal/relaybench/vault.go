//go:build linux

package main

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
)

// vault is the role of a process that stands for vaultd at the other end of the
// uplink, with its certificate: DATA comes back as it went. Answers are written
// together, when nothing whole is left to read.
//
// What a vault works on, it may charge; so it counts what it worked on: each
// OPEN, and each sequence number of a session when it first comes. A repeated
// one is answered without work.
type vault struct {
	node    frame.NodeID
	work    atomic.Int64
	records atomic.Int64 // of TLS, written to uplinks

	mu       sync.Mutex
	sessions map[frame.SessionID]*flow
}

// runVault obeys as a vault. Beside the uplink it has a listener for proxies, with
// mutual TLS too, where every message comes back on the connection that brought it.
func runVault(ca, cert, key string) error {
	config, err := vaultTLS(ca, cert, key)
	if err != nil {
		return err
	}
	v := &vault{node: frame.NodeID{1, 0, 0, 1}, sessions: map[frame.SessionID]*flow{}}
	uplinks, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	echoes, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	go serve(uplinks, v.uplink)
	go serve(echoes, echo)
	return obey(func(o order) (answer, error) {
		return answer{Addr: uplinks.Addr().String(), Echo: echoes.Addr().String(), Work: v.work.Load(), Records: v.records.Load()}, nil
	})
}

func vaultTLS(ca, cert, key string) (*tls.Config, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate of the authority")
	}
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}, nil
}

func serve(l net.Listener, one func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			one(c)
		}()
	}
}

// echo is the backend of a proxy: messages after their length.
func echo(c net.Conn) {
	buf := make([]byte, 1024)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// maxRecord is how much a record of TLS carries, in bytes (RFC 8446 section 5.1).
const maxRecord = 16 << 10

func (v *vault) uplink(c net.Conn) {
	in := bufio.NewReaderSize(c, 64<<10)
	buf := make([]byte, frame.MaxFrame)
	out := frame.AppendEnvelope(nil, 0, frame.UplinkHello{Version: frame.UplinkVersion, Node: v.node, Fleet: chatdtest.Fleet})
	for {
		if len(out) > 0 && !whole(in) {
			if _, err := c.Write(out); err != nil {
				return
			}
			v.records.Add(int64(len(out)+maxRecord-1) / maxRecord)
			out = out[:0]
		}
		number, raw, err := frame.ReadEnvelope(in, buf)
		if err != nil {
			return
		}
		out, err = v.answer(out, number, raw)
		if err != nil {
			return
		}
	}
}

// whole says whether an envelope can be read without waiting.
func whole(in *bufio.Reader) bool {
	const head = 4
	if in.Buffered() < head {
		return false
	}
	b, err := in.Peek(head)
	return err == nil && in.Buffered() >= head+int(binary.BigEndian.Uint32(b))
}

func (v *vault) answer(out []byte, number uint32, raw []byte) ([]byte, error) {
	switch frame.Type(raw[0]) {
	case frame.TData:
		d, err := frame.ParseData(raw)
		if err != nil {
			return out, err
		}
		f := v.known(d)
		if f == nil {
			return frame.AppendEnvelope(out, number, frame.Refuse{Refused: frame.TData, Session: d.Session, Status: frame.NoSession}), nil
		}
		return f.echo(out, number, d.Session, raw), nil
	case frame.TUplinkCredit:
		c, err := frame.ParseCredit(raw)
		if err != nil {
			return out, err
		}
		if f := v.find(c.Session); f != nil {
			out = f.credit(out, number, c)
		}
		return out, nil
	}
	f, err := frame.ParseUplink(raw)
	if err != nil {
		return out, err
	}
	switch f := f.(type) {
	case frame.UplinkPing:
		out = frame.AppendEnvelope(out, number, frame.UplinkPong{})
	case frame.Open:
		id := v.begin()
		out = frame.AppendEnvelope(out, number, frame.Attach{Tag: f.Tag, Session: id})
		out = frame.AppendEnvelope(out, number, frame.Data{Session: id, Payload: f.Payload})
	case frame.Attach:
		v.attach(f.Session)
		out = frame.AppendEnvelope(out, number, f)
	case frame.Close:
		v.mu.Lock()
		delete(v.sessions, f.Session)
		v.mu.Unlock()
	}
	return out, nil
}

func (v *vault) begin() (id frame.SessionID) {
	io.ReadFull(rand.Reader, id[:]) // never fails (crypto/rand)
	copy(id[:], v.node[:])
	v.work.Add(1)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sessions[id] = new(flow)
	v.sessions[id].replies.Take() // DATA 0
	return id
}

// attach begins the count of the windows anew.
func (v *vault) attach(id frame.SessionID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f := v.sessions[id]; f != nil {
		v.sessions[id] = &flow{last: f.last}
	}
}

func (v *vault) find(id frame.SessionID) *flow {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.sessions[id]
}

// known is find; a new sequence number is work.
func (v *vault) known(d frame.Data) *flow {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.sessions[d.Session]
	if f != nil && d.Sequence > f.last {
		f.last = d.Sequence
		v.work.Add(1)
	}
	return f
}
