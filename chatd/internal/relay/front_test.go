package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/protocol/frame"
)

// raw is a connection to the relay without anything on it yet.
func (h *house) raw() net.Conn {
	h.t.Helper()
	_, addr, _ := strings.Cut(h.url, "://")
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// clientTLS is for connections that no dialer makes.
func (h *house) clientTLS() *tls.Config {
	c := h.dialer.TLSClientConfig.Clone()
	c.ServerName = "127.0.0.1"
	return c
}

// upgradeRequest is a good request, with more header lines.
func upgradeRequest(more string) string {
	return "GET " + frame.Path + " HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Protocol: " + frame.Subprotocol + "\r\n" + more + "\r\n"
}

func TestTheFirstRequestIsReadStrictly(t *testing.T) {
	h, _ := simple(t, nil)
	good := upgradeRequest("")
	for name, test := range map[string]struct {
		request string
		status  int
	}{
		"good":               {good, http.StatusSwitchingProtocols},
		"one byte at a time": {good, http.StatusSwitchingProtocols},
		"HTTP/1.0":           {strings.Replace(good, "HTTP/1.1", "HTTP/1.0", 1), http.StatusBadRequest},
		"no host":            {strings.Replace(good, "Host: relay\r\n", "", 1), http.StatusBadRequest},
		"no header":          {"GET " + frame.Path + " nonsense\r\n\r\n", http.StatusBadRequest},
		"a broken header":    {upgradeRequest("no colon\r\n"), http.StatusBadRequest},
		"an endless header":  {upgradeRequest("X: " + strings.Repeat("x", maxHead) + "\r\n"), http.StatusRequestHeaderFieldsTooLarge},
		"no WebSocket":       {"GET " + frame.Path + " HTTP/1.1\r\nHost: relay\r\n\r\n", http.StatusBadRequest},
		"another method":     {strings.Replace(good, "GET", "POST", 1), http.StatusMethodNotAllowed},
		"another path":       {strings.Replace(good, frame.Path, "/v2/ws", 1), http.StatusNotFound},
		"the bundle":         {"GET " + frame.FleetPath + " HTTP/1.1\r\nHost: relay\r\n\r\n", http.StatusOK},
		"a query":            {strings.Replace(good, frame.Path, frame.Path+"?x=y", 1), http.StatusSwitchingProtocols},
		"a longer path":      {strings.Replace(good, frame.Path, frame.Path+"x", 1), http.StatusNotFound},
		"the whole URL":      {strings.Replace(good, frame.Path, "http://relay"+frame.Path, 1), http.StatusSwitchingProtocols},
	} {
		t.Run(name, func(t *testing.T) {
			conn := h.raw()
			if name == "one byte at a time" {
				for _, b := range []byte(test.request) {
					conn.Write([]byte{b})
				}
			} else {
				go io.WriteString(conn, test.request)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != test.status {
				t.Errorf("%+v, %v, want %d", resp, err, test.status)
			}
		})
	}
}

// What comes before the upgrade was answered is no part of the WebSocket.
func TestNothingMayComeBeforeTheAnswer(t *testing.T) {
	h, _ := simple(t, nil)
	conn := h.raw()
	io.WriteString(conn, upgradeRequest("")+"x")
	if b, err := io.ReadAll(conn); err == nil && len(b) > 0 {
		t.Errorf("it answered %q", b)
	}
	poll(t, "counted", func() bool { return h.relay.Counts.Get("refused_upgrade") == 1 })
}

// The rest of HTTP is served on the same listener, again and again on one
// connection.
func TestOtherRequests(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			h, _ := simple(t, func(s *setup) { s.tls = secure })
			transport := &http.Transport{}
			if secure {
				transport.TLSClientConfig = h.dialer.TLSClientConfig
			}
			client := &http.Client{Transport: transport}
			for range 3 {
				resp, err := client.Get(strings.Replace(h.url, "ws", "http", 1) + frame.FleetPath)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(b) != "the bundle\n" {
					t.Errorf("%q", b)
				}
			}
		})
	}
}

// Who does not get to the end of the request holds nothing for long.
func TestSlowRequests(t *testing.T) {
	for name, begun := range map[string]string{
		"nothing": "", "a method": "GET ", "half a header": upgradeRequest("")[:50], "another": "GET / HTTP/1.1\r\nHost:",
		"no body":    "GET " + ReadyPath + " HTTP/1.1\r\nHost: relay\r\nContent-Length: 1\r\n\r\n",
		"half chunk": "POST / HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx",
	} {
		for _, secure := range []bool{false, true} {
			h, _ := simple(t, func(s *setup) { s.headTimeout, s.tls = 50*time.Millisecond, secure })
			conn := h.raw()
			io.WriteString(conn, begun)
			if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A connection of net/http ends with an answer, however often it is used.
func TestOldConnectionsEnd(t *testing.T) {
	h, _ := simple(t, nil)
	for age, want := range map[time.Duration]string{0: "", restAge: "close"} {
		req := httptest.NewRequest(http.MethodGet, ReadyPath, nil)
		req = req.WithContext(context.WithValue(req.Context(), birth{}, time.Now().Add(-age)))
		w := httptest.NewRecorder()
		h.front.http.Handler.ServeHTTP(w, req)
		if got := w.Header().Get("Connection"); got != want || w.Code != http.StatusOK {
			t.Errorf("after %v: %d, Connection: %q, want %q", age, w.Code, got, want)
		}
	}
}

// However many begin TLS and say no more, others get in.
func TestSilentHandshakesKeepNobodyOut(t *testing.T) {
	h, _ := simple(t, func(s *setup) { s.tls, s.cfg.Limits.Set[ratelimit.ConnectionsPerIP] = true, ratelimit.Off })
	for range 3 * h.relay.gate.free {
		conn := h.raw()
		halfway := &stopAfterHello{Conn: conn, wrote: make(chan struct{})}
		go tls.Client(halfway, h.clientTLS()).Handshake()
		<-halfway.wrote
	}
	h.phone("alice")
}

// stopAfterHello sends a ClientHello and answers nothing.
type stopAfterHello struct {
	net.Conn
	wrote chan struct{}
	once  sync.Once
}

func (s *stopAfterHello) Write(b []byte) (int, error) {
	defer s.once.Do(func() { close(s.wrote) })
	return s.Conn.Write(b)
}

func (s *stopAfterHello) Read([]byte) (int, error) { return 0, io.EOF }

// A full gate lets nobody wait for ever, neither for TLS nor for AUTH.
func TestFullGates(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.tls, s.headTimeout, s.cfg.AuthTimeout = true, 3*time.Second, 100*time.Millisecond
	})
	device := chatdtest.NewDevice(t)
	c := h.dial()
	for range h.relay.gate.free {
		h.relay.gate.enter(t.Context(), hasBegun, 0)
	}
	c.Send(c.Auth(device, h.issuer.Ticket(h.clock.Now(), "alice", device)))
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.AuthTimeout {
		t.Errorf("%+v", r)
	}
	if _, err := io.ReadAll(tls.Client(h.raw(), h.clientTLS())); err == nil {
		t.Error("TLS got through")
	}
	poll(t, "counted", func() bool {
		return h.relay.Counts.Get("refused_auth_gate") == 1 && h.relay.Counts.Get("refused_handshake_gate") == 1
	})
}

// An address beyond its limit costs no handshake.
func TestLimitsStandBeforeTLS(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.tls = true
		s.cfg.Limits.Set[ratelimit.ConnectionsPerIP] = ratelimit.Limit{Burst: 2, Count: 1, Period: time.Minute}
	})
	h.phone("alice")
	h.phone("bob") // one connection pays once
	conn := h.raw()
	if b, err := io.ReadAll(conn); len(b) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("%q, %v", b, err)
	}
	poll(t, "counted", func() bool { return h.relay.Counts.Get("limited_"+ratelimit.ConnectionsPerIP) == 1 })
}

// Who comes back to the same relay costs it no signature.
func TestTLSIsResumed(t *testing.T) {
	h, _ := simple(t, func(s *setup) { s.tls = true })
	h.dialer.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for _, want := range []bool{false, true} {
		c := h.phone("alice")
		if got := c.WS.NetConn().(*tls.Conn).ConnectionState().DidResume; got != want {
			t.Errorf("resumed: %v, want %v", got, want)
		}
	}
}
