//go:build !race

package relay

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/frame"
)

// steady is a relay between one client and a vault that both allocate nothing:
// what a round trip allocates is the relay's.
type steady struct {
	client  net.Conn
	request []byte // a DATA frame in WebSocket
	reply   []byte // room for its echo
}

// trip sends the frame and reads its echo.
func (s *steady) trip(t testing.TB) {
	if _, err := s.client.Write(s.request); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s.client, s.reply); err != nil {
		t.Fatal(err)
	}
}

// echoVault answers every envelope by itself, in as many bytes as came together.
func echoVault(listener net.Listener, node frame.NodeID) {
	conn, err := listener.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	conn.Write(frame.AppendEnvelope(nil, 0, frame.UplinkHello{Version: frame.UplinkVersion, Node: node, Fleet: chatdtest.Fleet}))
	var requests frame.ReceiveWindow
	var scratch [32]byte
	in, buf, out := bufio.NewReaderSize(conn, 64<<10), make([]byte, frame.MaxFrame), make([]byte, 0, 64<<10)
	for {
		number, raw, err := frame.ReadEnvelope(in, buf)
		if err != nil {
			return
		}
		switch frame.Type(raw[0]) {
		case frame.TData:
			out = frame.AppendRawEnvelope(out, number, raw)
			requests.Take()
			if n := requests.Use(1); n > 0 {
				credit := frame.UplinkCredit{Session: steadySession(node), Frames: n}.Append(scratch[:0])
				out = frame.AppendRawEnvelope(out, number, credit)
			}
		case frame.TOpen:
			f, _ := frame.Parse(raw)
			out = frame.AppendEnvelope(out, number, frame.Attach{Tag: f.(frame.Open).Tag, Session: steadySession(node)})
		case frame.TUplinkPing:
			out = frame.AppendEnvelope(out, 0, frame.UplinkPong{})
		}
		if in.Buffered() == 0 {
			conn.Write(out)
			out = out[:0]
		}
	}
}

func steadySession(node frame.NodeID) (id frame.SessionID) {
	copy(id[:], node[:])
	return id
}

func newSteady(t *testing.T, secure bool, size int) *steady {
	pki, node := chatdtest.NewPKI(t), frame.NodeID{1}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pki.Certificate(uplink.VaultRole)},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pki.Pool(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go echoVault(listener, node)
	h := newHouse(t, pki, chatdtest.NewIssuer(t), func(s *setup) {
		s.vaults = []*chatdtest.Vault{{Addr: listener.Addr().String()}}
		s.cfg.Limits.Set[ratelimit.FramesPerConnection] = ratelimit.Off
		s.parkAfter, s.tls = parkAfter, secure
	})
	c := h.phone("alice")
	session := steadySession(node)
	c.Send(frame.Open{Tag: 1, Payload: []byte("x")})
	chatdtest.Expect[frame.Attach](c)
	data := frame.Data{Session: session, Sequence: 1, Payload: []byte(strings.Repeat("x", size))}.Append(nil)
	return &steady{
		client:  c.WS.NetConn(),
		request: clientFrame(0x80|websocket.BinaryMessage, data),
		reply:   make([]byte, len(appendMessage(nil, websocket.BinaryMessage, data))),
	}
}

// In steady state a frame allocates nothing on its way from the client through
// the relay and the uplink's TLS to the vault, and back. Sockets, goroutines and
// timers are real; what is counted is all that the process allocates.
//
// But for what crypto/tls does: a reader of 24 bytes each time it waits for a
// record (Conn.readFromUntil). A round trip of one client alone, as here, is a
// record at either end of the uplink, and of the client's connection when that
// has TLS. A record of a busy uplink carries the frames of many clients.
func TestARelayedFrameAllocatesNothing(t *testing.T) {
	defer func() { withoutPoller = false }()
	for name, test := range map[string]struct {
		active, secure bool
		records        uint64
	}{
		"plain": {false, false, 2}, "TLS": {false, true, 4},
		"plain, without a poller": {true, false, 2}, "TLS, without a poller": {true, true, 4},
	} {
		t.Run(name, func(t *testing.T) {
			withoutPoller = test.active
			s := newSteady(t, test.secure, 256)
			defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it empties the pools
			trips := func(n int) uint64 {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				for range n {
					s.trip(t)
				}
				runtime.ReadMemStats(&after)
				return after.Mallocs - before.Mallocs
			}
			trips(1000)
			// Not exactly: the clocks go on, and a pool that another core emptied
			// is filled again.
			const n = 10_000
			if m := trips(n); m > n*test.records+n/20 {
				t.Errorf("%d allocations in %d round trips", m, n)
			}
		})
	}
}
