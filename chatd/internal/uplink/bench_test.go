package uplink

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
)

// BenchmarkLinks has frames of many clients go to a vault node and back, over so
// many links: alone, and with a write of each to a socket, as the relay writes it
// to its client. What a second link brings shows with -cpu 2 and more.
func BenchmarkLinks(b *testing.B) {
	for _, write := range []bool{false, true} {
		for _, links := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("write=%t/links=%d", write, links), func(b *testing.B) { benchLinks(b, links, write) })
		}
	}
}

func benchLinks(b *testing.B, n int, write bool) {
	const clients = 256
	links := benchNode(b, n)
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan struct{})
	raw := frame.Data{Payload: make([]byte, 256)}.Append(nil)
	var all []*bouncer
	for i := range clients {
		c := &bouncer{left: &left, done: done, to: func([]byte) {}}
		if write {
			c.to = benchSocket(b)
		}
		var err error
		if c.stream, err = links[i%n].Join(c, [32]byte{}); err != nil {
			b.Fatal(err)
		}
		all = append(all, c)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, c := range all {
		if err := c.stream.Send(raw); err != nil {
			b.Fatal(err)
		}
	}
	<-done
}

// bouncer is a client with one frame on its way, until all have gone.
type bouncer struct {
	stream Stream
	to     func([]byte)
	left   *atomic.Int64
	done   chan struct{}
}

// Deliver implements Peer.
func (c *bouncer) Deliver(_ *Link, raw []byte) error {
	c.to(raw)
	switch n := c.left.Add(-1); {
	case n == 0:
		close(c.done)
	case n > 0:
		return c.stream.Send(raw) // what is on its way is less than would make it wait
	}
	return nil
}

// Lost implements Peer.
func (c *bouncer) Lost(*Link) {}

// benchSocket writes to a socket that nobody reads: when it is full, the kernel
// drops what it was given, after all the work.
func benchSocket(b *testing.B) func([]byte) {
	to, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	from, err := net.DialUDP("udp", nil, to.LocalAddr().(*net.UDPAddr))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { from.Close(); to.Close() })
	return func(raw []byte) { from.Write(raw) }
}

// benchNode is n links to a node that sends everything back.
func benchNode(b *testing.B, n int) (links []*Link) {
	pki := chatdtest.NewPKI(b)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pki.Certificate(VaultRole)},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pki.Pool(),
	})
	if err != nil {
		b.Fatal(err)
	}
	certFile, keyFile := pki.Issue(ChatRole)
	config, err := LoadTLS(pki.CAFile, certFile, keyFile)
	if err != nil {
		b.Fatal(err)
	}
	var running sync.WaitGroup
	w := wheel.New(clock.System{})
	b.Cleanup(func() {
		for _, l := range links {
			l.end(ErrClosed)
		}
		listener.Close()
		running.Wait()
		w.Stop()
	})
	for range n {
		running.Go(func() { benchEcho(listener) })
		l, err := dial(b.Context(), w, config, chatdtest.Fleet, listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		links = append(links, l)
		running.Go(func() { l.run(func() {}) })
	}
	return links
}

// benchEcho serves one uplink; it answers together what came together.
func benchEcho(listener net.Listener) {
	conn, err := listener.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	out := frame.AppendEnvelope(nil, 0, frame.UplinkHello{Version: frame.UplinkVersion, Node: frame.NodeID{1}, Fleet: chatdtest.Fleet})
	in, buf := bufio.NewReaderSize(conn, 64<<10), make([]byte, frame.MaxFrame)
	for {
		if in.Buffered() == 0 || len(out) > 32<<10 {
			if _, err := conn.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
		number, raw, err := frame.ReadEnvelope(in, buf)
		if err != nil {
			return
		}
		if frame.Type(raw[0]) == frame.TData {
			out = frame.AppendRawEnvelope(out, number, raw)
		}
	}
}
