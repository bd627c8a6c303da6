//go:build linux

package relay

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// BenchmarkConnect compares a client's way from TCP to READY with that through
// net/http and gorilla/websocket as its examples have it. CPU is that of both
// ends and of the signatures; closing is left out.
func BenchmarkConnect(b *testing.B) {
	h := newHouse(b, chatdtest.NewPKI(b), chatdtest.NewIssuer(b), func(s *setup) {
		s.cfg.Limits.Set[ratelimit.ConnectionsPerIP] = ratelimit.Off
		s.cfg.Limits.Set[ratelimit.ConnectionsPerAccount] = ratelimit.Off
		s.cfg.MaxConnections = 10_000
		s.parkAfter, s.log = parkAfter, io.Discard
	})
	floor, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer floor.Close()
	go http.Serve(floor, http.HandlerFunc(h.serveDefault))
	for name, addr := range map[string]string{"relay": strings.TrimPrefix(h.url, "ws://"), "default": floor.Addr().String()} {
		b.Run(name, func(b *testing.B) { connects(b, h, addr) })
	}
}

func connects(b *testing.B, h *house, addr string) {
	device := chatdtest.NewDevice(b)
	token := h.issuer.Ticket(h.clock.Now(), "alice", device)
	request := "GET " + frame.Path + " HTTP/1.1\r\nHost: " + addr + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: " + frame.Subprotocol + "\r\n\r\n"
	in := bufio.NewReader(nil)
	var open []net.Conn
	var spent time.Duration
	for b.Loop() {
		began := cpu(b)
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		io.WriteString(conn, request)
		in.Reset(conn)
		for line := "x"; line != "\r\n"; {
			line, _ = in.ReadString('\n')
		}
		raw, _ := io.ReadAll(io.LimitReader(in, int64(2+len(frame.Hello{}.Append(nil)))))
		hello, err := frame.Parse(raw[2:])
		if err != nil {
			b.Fatal(err)
		}
		host := strings.TrimPrefix(h.url, "ws://")
		signature, _ := ticket.SignRelayAuth(device, hello.(frame.Hello).Nonce, host, ticket.Hash(token))
		auth := frame.Auth{DeviceKey: device.Public(), Signature: signature, Host: host, Ticket: token}
		conn.Write(clientFrame(0x80|websocket.BinaryMessage, auth.Append(nil)))
		if _, err := in.Discard(2 + len(frame.Ready{}.Append(nil))); err != nil {
			b.Fatal(err)
		}
		spent += cpu(b) - began
		if open = append(open, conn); len(open) == 500 {
			for _, c := range open {
				c.Close()
			}
			open = open[:0]
			poll(b, "the end", func() bool { return h.relay.places.Load() == 0 })
		}
	}
	for _, c := range open {
		c.Close()
	}
	b.ReportMetric(float64(spent.Nanoseconds())/1000/float64(b.N), "cpu-us/op")
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serveDefault exchanges HELLO, AUTH and READY.
func (h *house) serveDefault(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{Subprotocols: []string{frame.Subprotocol}}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	hello := frame.Hello{Version: frame.Version, BundleEpoch: 1, Nonce: newNonce()}
	c.WriteMessage(websocket.BinaryMessage, hello.Append(nil))
	_, raw, err := c.ReadMessage()
	if err != nil {
		return
	}
	f, _ := frame.Parse(raw)
	a, ok := f.(frame.Auth)
	if !ok || !h.relay.cfg.Hosts.Has(a.Host) {
		return
	}
	v, err := h.relay.Tickets.Verify(r.Context(), a.Ticket, a.DeviceKey[:], h.clock.Now())
	if err != nil || ticket.VerifyRelayAuth(a.DeviceKey[:], a.Signature[:], hello.Nonce, a.Host, v.TicketHash) != nil {
		return
	}
	c.WriteMessage(websocket.BinaryMessage, frame.Ready{}.Append(nil))
	c.ReadMessage()
}
