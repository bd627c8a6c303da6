package relay

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/protocol/frame"
)

func TestUplinkLostAndBack(t *testing.T) {
	h, vault := simple(t, nil)
	device := chatdtest.NewDevice(t)
	c := h.login("alice", device)
	s := c.Open(1, "x")
	c.Send(frame.Open{Tag: 2, Payload: []byte("mute")})
	vault.Await("the second OPEN", func(v *chatdtest.VaultState) bool {
		return v.Count(func(f frame.Frame) bool { return f.Type() == frame.TOpen }) == 2
	})
	vault.Cut()
	if f := chatdtest.Expect[frame.Close](c); f.Session != s || f.Status != frame.NoVault || !f.Status.Retryable() {
		t.Errorf("%+v", f)
	}
	if r := chatdtest.Expect[frame.Refuse](c); r.Tag != 2 || r.Refused != frame.TOpen || r.Status != frame.NoVault || r.RetryMillis == 0 {
		t.Errorf("%+v", r)
	}
	<-h.up
	// The node lives on, and the session on it.
	c.Send(frame.Attach{Tag: 3, Session: s})
	if a := chatdtest.Expect[frame.Attach](c); a.Session != s {
		t.Errorf("%+v", a)
	}
	c.Echo(s, 1, "goes on")
}

func TestNoVault(t *testing.T) {
	h, vault := simple(t, nil)
	c := h.phone("alice")
	s := c.Open(1, "x")
	vault.Stop()
	chatdtest.Expect[frame.Close](c)
	c.Send(frame.Open{Tag: 2, Payload: []byte("x")})
	if r := chatdtest.Expect[frame.Refuse](c); r.Tag != 2 || r.Status != frame.NoVault || r.RetryMillis == 0 {
		t.Errorf("OPEN: %+v", r)
	}
	c.Send(frame.Attach{Tag: 3, Session: s})
	if r := chatdtest.Expect[frame.Refuse](c); r.Tag != 3 || r.Status != frame.NoVault || r.Session != s {
		t.Errorf("ATTACH: %+v", r)
	}
	vault.Start()
	<-h.up
	c.Open(4, "back")
	c.Send(frame.Attach{Tag: 5, Session: s})
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.NoSession {
		t.Errorf("ATTACH to a session that the vault forgot: %+v", r)
	}
}

// What a vault node must not say ends its uplink, not the client's connection.
func TestAVaultThatBreaksTheProtocol(t *testing.T) {
	for _, f := range []frame.Frame{
		frame.Open{Payload: []byte("x")}, frame.Hello{}, frame.Auth{Host: "h", Ticket: "t"}, frame.Ready{}, frame.Goaway{},
		frame.UplinkGone{}, frame.Attach{Tag: 1000, Session: frame.SessionID{9, 9, 9, 9}},
	} {
		t.Run(fmt.Sprintf("%T", f), func(t *testing.T) {
			h, vault := simple(t, nil)
			c := h.phone("alice")
			s := c.Open(1, "x")
			session, _ := vault.Session(s)
			session.Link.Send(session.Number, f)
			if closed := chatdtest.Expect[frame.Close](c); closed.Session != s || closed.Status != frame.NoVault {
				t.Errorf("%+v", closed)
			}
			<-h.up
			c.Open(2, "the client was kept")
		})
	}
}

// poll waits for what another goroutine tells Redis.
func poll(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it never happened: %s", what)
		}
	}
}

func TestAClientThatDoesNotRead(t *testing.T) {
	h, vault := simple(t, nil)
	c := h.phone("alice")
	other := h.phone("bob")
	// One session alone has no window to fill the queue.
	sessions := []frame.SessionID{c.Open(1, "x"), c.Open(2, "x"), c.Open(3, "x"), c.Open(4, "x")}
	otherSession := other.Open(1, "x")
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		vault.Await("the connection is gone", func(v *chatdtest.VaultState) bool { return v.Sessions[sessions[0]].Link == nil })
	}()
	for {
		select {
		case <-gone:
			if h.relay.Counts.Get("closed_slow_consumer") != 1 {
				t.Error("it was not closed as a slow consumer")
			}
			other.Echo(otherSession, 1, "the others were never held up")
			return
		default:
			for _, s := range sessions {
				vault.Push(frame.Data{Session: s, Sequence: 1, Payload: make([]byte, frame.MaxPayload)})
			}
		}
	}
}

func TestSilentClientsArePingedAndThenCutOff(t *testing.T) {
	h, _ := simple(t, func(s *setup) { s.cfg.Limits.Set[ratelimit.FramesPerConnection] = ratelimit.Off })
	alive, dead := h.phone("alice"), h.phone("bob")
	pings := make(chan struct{}, 10)
	alive.WS.SetPingHandler(func(data string) error {
		pings <- struct{}{}
		return alive.WS.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(time.Minute))
	})
	s := alive.Open(1, "x")
	go func() { // reads the pings, and what the other side of the test wants to see
		for {
			if _, _, err := alive.WS.ReadMessage(); err != nil {
				close(pings)
				return
			}
		}
	}()
	for range 5 {
		h.clock.Advance(30 * time.Second * 5 / 4)
		<-pings
		// The pong must have come before time goes on: what follows it shows that.
		before := h.relay.Counts.Get("refused_no_session")
		alive.Send(frame.Close{Session: frame.SessionID{1}})
		poll(t, "the frame after the pong", func() bool { return h.relay.Counts.Get("refused_no_session") > before })
	}
	if _, code := dead.Closed(); code != websocket.CloseAbnormalClosure {
		t.Errorf("the silent one: %d", code)
	}
	if n := h.relay.Counts.Get("closed_silent"); n != 1 {
		t.Errorf("%d were closed as silent", n)
	}
	alive.Send(frame.Close{Session: s})
}

func TestFloods(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.cfg.Limits.Set[ratelimit.FramesPerConnection] = ratelimit.Limit{Burst: 10, Count: 1, Period: time.Second}
	})
	c := h.phone("alice") // one
	for range 9 {
		c.Send(frame.Close{})
		chatdtest.Expect[frame.Refuse](c)
	}
	c.Send(frame.Close{})
	r := chatdtest.Expect[frame.Refuse](c)
	if r.Status != frame.RateLimited || r.Limit != ratelimit.FramesPerConnection || r.RetryMillis != 1000 {
		t.Errorf("%+v", r)
	}
	if _, code := c.Closed(); code != frame.RateLimited.CloseCode() {
		t.Errorf("close code %d", code)
	}

	c = h.phone("alice")
	for range 30 {
		if c.WS.WriteControl(websocket.PingMessage, []byte("flood"), time.Now().Add(time.Minute)) != nil {
			break
		}
	}
	c.ExpectRefusedAndClosed(frame.RateLimited)
}

func TestAdmission(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.cfg.Origins = map[string]bool{"https://app.example": true}
		s.cfg.Limits.Set[ratelimit.ConnectionsPerIP] = ratelimit.Off
	})
	good := func() http.Header { return http.Header{"Sec-Websocket-Protocol": {frame.Subprotocol}} }
	with := func(name string, values ...string) http.Header {
		header := good()
		header[name] = values
		return header
	}
	for name, c := range map[string]struct {
		header http.Header
		want   int
	}{
		"an app":                   {good(), http.StatusSwitchingProtocols},
		"our web page":             {with("Origin", "https://app.example"), http.StatusSwitchingProtocols},
		"our web page, capitals":   {with("Origin", "HTTPS://App.Example"), http.StatusSwitchingProtocols},
		"another web page":         {with("Origin", "https://evil.example"), http.StatusForbidden},
		"a page like ours":         {with("Origin", "https://app.example.evil.example"), http.StatusForbidden},
		"a page in a sandbox":      {with("Origin", "null"), http.StatusForbidden},
		"an empty origin":          {with("Origin", ""), http.StatusForbidden},
		"two origins":              {with("Origin", "https://app.example", "https://evil.example"), http.StatusForbidden},
		"no subprotocol":           {http.Header{}, http.StatusBadRequest},
		"another subprotocol":      {with("Sec-Websocket-Protocol", "chat"), http.StatusBadRequest},
		"ours among subprotocols":  {with("Sec-Websocket-Protocol", "chat, chatvault.v1"), http.StatusSwitchingProtocols},
		"a proxy that is not ours": {with("X-Forwarded-For", "192.0.2.1"), http.StatusSwitchingProtocols},
	} {
		if got := chatdtest.Upgrade(t, h.url, c.header); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestConnectionsPerIP(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.cfg.Limits.Set[ratelimit.ConnectionsPerIP] = ratelimit.Limit{Burst: 2, Count: 1, Period: time.Second}
	})
	h.dial()
	h.dial()
	// What a client claims about its address changes nothing.
	for i := range 3 {
		header := http.Header{"Sec-Websocket-Protocol": {frame.Subprotocol}, "X-Forwarded-For": {"192.0.2." + strconv.Itoa(i)}}
		if got := chatdtest.Upgrade(t, h.url, header); got != http.StatusTooManyRequests {
			t.Errorf("the third: %d", got)
		}
	}
	h.clock.Advance(time.Second)
	h.dial()
}

func TestConnectionsPerIPBehindAProxy(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.cfg.Limits.Set[ratelimit.ConnectionsPerIP] = ratelimit.Limit{Burst: 1, Count: 1, Period: time.Minute}
		s.cfg.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	for _, c := range []struct {
		forwarded string
		want      int
	}{
		{"192.0.2.1", http.StatusSwitchingProtocols},
		{"192.0.2.1", http.StatusTooManyRequests},
		{"192.0.2.2", http.StatusSwitchingProtocols},
		{"192.0.2.77, 192.0.2.2", http.StatusTooManyRequests}, // the left one the client wrote itself
		{"2001:db8:1:1::1", http.StatusSwitchingProtocols},
		{"2001:db8:1:1::2", http.StatusTooManyRequests}, // the same /64
		{"2001:db8:1:2::1", http.StatusSwitchingProtocols},
	} {
		header := http.Header{"Sec-Websocket-Protocol": {frame.Subprotocol}, "X-Forwarded-For": {c.forwarded}}
		if got := chatdtest.Upgrade(t, h.url, header); got != c.want {
			t.Errorf("%s: %d, want %d", c.forwarded, got, c.want)
		}
	}
}

func TestMaxConnections(t *testing.T) {
	h, _ := simple(t, func(s *setup) { s.cfg.MaxConnections = 2 })
	one := h.dial()
	h.dial()
	header := http.Header{"Sec-Websocket-Protocol": {frame.Subprotocol}}
	if got := chatdtest.Upgrade(t, h.url, header); got != http.StatusServiceUnavailable {
		t.Errorf("the third: %d", got)
	}
	one.WS.Close()
	poll(t, "a place is free", func() bool { return h.relay.places.Load() == 1 })
	h.dial()
}
