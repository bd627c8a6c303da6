package relay

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/wheel"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

func TestAuthLate(t *testing.T) {
	h, _ := simple(t, nil)
	c := h.dial()
	h.clock.Advance(10*time.Second - 1)
	device := chatdtest.NewDevice(t)
	inTime := h.login("alice", device)
	h.clock.Advance(wheel.Tick)
	c.ExpectRefusedAndClosed(frame.AuthTimeout)
	inTime.Open(1, "the one in time lives on")
}

// A token with the claims of a good one, but for what change does to them.
func (h *house) claims(device ticket.DeviceKey, exp string) string {
	return fmt.Sprintf(`{"iss":"https://app.example","sub":"alice","aud":%q,"iat":%d,%s"cnf":{"jkt":%q}}`,
		chatdtest.Fleet, h.clock.Now().Unix(), exp, device.Thumbprint())
}

func TestAuthRefused(t *testing.T) {
	h, vault := simple(t, nil)
	now := h.clock.Now()
	device, other := chatdtest.NewDevice(t), chatdtest.NewDevice(t)
	header := `{"alg":"ES256","typ":"` + ticket.Type + `"}`
	exp := fmt.Sprintf(`"exp":%d,`, now.Add(time.Minute).Unix())
	mint := func(change func(*ticket.Claims)) string {
		c := h.issuer.Claims(now, "alice", device)
		change(&c)
		return h.issuer.Mint(c)
	}
	stranger := chatdtest.NewIssuer(t)
	good := h.issuer.Ticket(now, "alice", device)
	recorded := h.dial().Auth(device, good) // of another connection's nonce

	for name, c := range map[string]struct {
		auth func(c *chatdtest.Client) frame.Auth
		want frame.Status
	}{
		"replayed from another connection": {func(*chatdtest.Client) frame.Auth { return recorded }, frame.NotAuthorised},
		"another device's ticket": {func(c *chatdtest.Client) frame.Auth {
			return c.Auth(other, good)
		}, frame.NotAuthorised},
		"the device's key, another's proof": {func(c *chatdtest.Client) frame.Auth {
			a := c.Auth(other, good)
			a.DeviceKey = device.Public()
			return a
		}, frame.NotAuthorised},
		"a key off the curve": {func(c *chatdtest.Client) frame.Auth {
			a := c.Auth(device, good)
			a.DeviceKey[64]++
			return a
		}, frame.NotAuthorised},
		"expired": {func(c *chatdtest.Client) frame.Auth {
			return c.Auth(device, mint(func(c *ticket.Claims) { c.IssuedAt = now.Add(-time.Hour); c.Expires = now }))
		}, frame.TicketExpired},
		"from the future": {func(c *chatdtest.Client) frame.Auth {
			return c.Auth(device, mint(func(c *ticket.Claims) { c.IssuedAt = now.Add(5 * time.Minute) }))
		}, frame.NotAuthorised},
		"for another fleet": {func(c *chatdtest.Client) frame.Auth {
			return c.Auth(device, mint(func(c *ticket.Claims) { c.Audience = []string{"other-fleet"} }))
		}, frame.NotAuthorised},
		"without exp": {func(c *chatdtest.Client) frame.Auth {
			return c.Auth(device, h.issuer.Sign(header, h.claims(device, "")))
		}, frame.NotAuthorised},
		"of alg none": {func(c *chatdtest.Client) frame.Auth {
			return c.Auth(device, h.issuer.Unsigned(h.claims(device, exp)))
		}, frame.NotAuthorised},
		"of another issuer's key": {func(c *chatdtest.Client) frame.Auth {
			return c.Auth(device, stranger.Ticket(now, "alice", device))
		}, frame.NotAuthorised},
		"for another host": {func(c *chatdtest.Client) frame.Auth {
			c.Host = "evil.example"
			return c.Auth(device, good)
		}, frame.WrongHost},
		"signed for another host, sent as for this": {func(c *chatdtest.Client) frame.Auth {
			host := c.Host
			c.Host = "evil.example"
			a := c.Auth(device, good)
			a.Host = host
			return a
		}, frame.NotAuthorised},
	} {
		t.Run(name, func(t *testing.T) {
			client := chatdtest.Dial(t, nil, h.url)
			client.Send(c.auth(client))
			client.ExpectRefusedAndClosed(c.want)
		})
	}

	// The same way of making tokens by hand is accepted when nothing is wrong.
	c := h.dial()
	c.Send(c.Auth(device, h.issuer.Sign(header, h.claims(device, exp))))
	chatdtest.Expect[frame.Ready](c)
	vault.Await("nobody", func(s *chatdtest.VaultState) bool { return len(s.Frames) == 0 })
}

func TestNothingButAuthFromStrangers(t *testing.T) {
	h, _ := simple(t, func(s *setup) { s.cfg.Limits.Set[ratelimit.ConnectionsPerIP] = ratelimit.Off })
	for _, f := range []frame.Frame{
		frame.Open{Tag: 1, Payload: []byte("x")}, frame.Attach{Tag: 1}, frame.Close{},
		frame.Data{Payload: []byte("x")}, frame.Hello{}, frame.Ready{}, frame.Notice{}, frame.Goaway{}, frame.Refuse{},
	} {
		c := h.dial()
		c.Send(f)
		c.ExpectRefusedAndClosed(frame.NotAuthorised)
	}
	c := h.dial()
	c.SendRaw(websocket.BinaryMessage, []byte{0x77, 1, 2})
	c.ExpectRefusedAndClosed(frame.NotAuthorised)
}

func TestMalformedMessages(t *testing.T) {
	h, _ := simple(t, nil)
	auth := frame.Auth{Host: "h", Ticket: "t"}.Append(nil)
	for name, c := range map[string]struct {
		kind     int
		body     []byte
		stranger bool
	}{
		"text":                  {websocket.TextMessage, []byte("hello"), true},
		"text after AUTH":       {websocket.TextMessage, frame.Open{Payload: []byte("x")}.Append(nil), false},
		"empty":                 {websocket.BinaryMessage, nil, true},
		"truncated AUTH":        {websocket.BinaryMessage, auth[:len(auth)-1], true},
		"a byte after AUTH":     {websocket.BinaryMessage, append(auth, 0), true},
		"unknown type":          {websocket.BinaryMessage, []byte{0x77, 1, 2}, false},
		"a frame of the uplink": {websocket.BinaryMessage, frame.UplinkDrain{}.Append(nil), false},
		"truncated OPEN":        {websocket.BinaryMessage, frame.Open{Payload: []byte("x")}.Append(nil)[:5], false},
		"truncated ATTACH":      {websocket.BinaryMessage, frame.Attach{}.Append(nil)[:20], false},
		"truncated DATA":        {websocket.BinaryMessage, frame.Data{Payload: []byte("x")}.Append(nil)[:25], false},
		"truncated CLOSE":       {websocket.BinaryMessage, frame.Close{}.Append(nil)[:22], false},
		"OPEN over 4096":        {websocket.BinaryMessage, append(frame.Open{Payload: make([]byte, 4096)}.Append(nil), 0), false},
		"what a relay says":     {websocket.BinaryMessage, frame.Hello{}.Append(nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.t = t
			client := h.dial()
			if !c.stranger {
				client = h.phone("alice")
			}
			client.SendRaw(c.kind, c.body)
			client.ExpectRefusedAndClosed(frame.Malformed)
		})
	}
}

func TestOversizedMessages(t *testing.T) {
	h, vault := simple(t, nil)
	c := h.dial()
	c.SendRaw(websocket.BinaryMessage, make([]byte, frame.MaxFrame+1))
	if last, code := c.Closed(); code != websocket.CloseMessageTooBig || len(last) != 0 {
		t.Errorf("%v, %d", last, code)
	}

	// In fragments, each of which would pass.
	c = h.phone("alice")
	w, err := c.WS.NextWriter(websocket.BinaryMessage)
	for i := 0; i < 20 && err == nil; i++ {
		_, err = w.Write(make([]byte, 1<<20))
	}
	if _, code := c.Closed(); code != websocket.CloseMessageTooBig && code != websocket.CloseAbnormalClosure {
		t.Errorf("fragments: %d", code)
	}

	c = h.phone("alice")
	s := c.Open(1, "x")
	full := string(make([]byte, frame.MaxPayload))
	c.Echo(s, 1, full)
	vault.Await("the full frame", func(s *chatdtest.VaultState) bool {
		return s.Count(func(f frame.Frame) bool { d, ok := f.(frame.Data); return ok && len(d.Payload) == frame.MaxPayload }) == 1
	})
	if n := h.relay.Counts.Get("closed_oversized"); n != 2 {
		t.Errorf("%d were counted as oversized", n)
	}
}

func TestAuthAgainExtends(t *testing.T) {
	h, _ := simple(t, nil)
	device := chatdtest.NewDevice(t)
	c := h.login("alice", device)
	s := c.Open(1, "x")
	h.clock.Advance(time.Second)

	// Another account, another device: refused; the connection lives on.
	other := chatdtest.NewDevice(t)
	c.Send(c.Auth(device, h.issuer.Ticket(h.clock.Now(), "mallory", device)))
	if r := chatdtest.Expect[frame.Refuse](c); r.Refused != frame.TAuth || r.Status != frame.NotAuthorised {
		t.Errorf("another account: %+v", r)
	}
	c.Send(c.Auth(other, h.issuer.Ticket(h.clock.Now(), "alice", other)))
	if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.NotAuthorised {
		t.Errorf("another device: %+v", r)
	}
	c.Echo(s, 1, "still here")

	h.clock.Advance(30 * time.Second)
	c.Send(c.Auth(device, h.issuer.Ticket(h.clock.Now(), "alice", device)))
	want := uint64(h.clock.Now().Add(10 * time.Minute).Unix())
	if r := chatdtest.Expect[frame.Ready](c); r.TicketEnds != want {
		t.Errorf("READY %+v, want the end %d", r, want)
	}
	// An older ticket does not shorten it.
	claims := h.issuer.Claims(h.clock.Now(), "alice", device)
	claims.Expires = claims.IssuedAt.Add(time.Minute)
	h.clock.Advance(15 * time.Second)
	c.Send(c.Auth(device, h.issuer.Mint(claims)))
	if r := chatdtest.Expect[frame.Ready](c); r.TicketEnds != want {
		t.Errorf("READY %+v, want the end %d", r, want)
	}
}

func TestAuthAgainIsLimited(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.cfg.Limits.Set[ratelimit.AuthsPerConnection] = ratelimit.Limit{Burst: 2, Count: 1, Period: time.Minute}
	})
	device := chatdtest.NewDevice(t)
	c := h.login("alice", device)
	a := c.Auth(device, h.issuer.Ticket(h.clock.Now(), "alice", device))
	c.Send(a)
	chatdtest.Expect[frame.Ready](c)
	c.Send(a)
	if r := chatdtest.Expect[frame.Refuse](c); r.Limit != ratelimit.AuthsPerConnection || r.RetryMillis != 60_000 {
		t.Errorf("%+v", r)
	}
	c.Open(1, "still here")
}

func TestConnectionsPerAccount(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.cfg.Limits.Set[ratelimit.ConnectionsPerAccount] = ratelimit.Limit{Burst: 1, Count: 1, Period: time.Minute}
	})
	h.phone("alice")
	device := chatdtest.NewDevice(t)
	c := h.dial()
	c.Send(c.Auth(device, h.issuer.Ticket(h.clock.Now(), "alice", device)))
	r := chatdtest.Expect[frame.Refuse](c)
	if r.Status != frame.RateLimited || r.Limit != ratelimit.ConnectionsPerAccount || r.RetryMillis != 60_000 {
		t.Errorf("%+v", r)
	}
	if _, code := c.Closed(); code != frame.RateLimited.CloseCode() {
		t.Errorf("close code %d", code)
	}
	h.phone("bob")
}

func TestAnIssuerThatCannotBeReached(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		var err error
		s.tickets, err = ticket.NewVerifier([]ticket.IssuerConfig{
			{Name: "app", Issuers: []string{"https://app.example"}, JWKSURL: "https://app.example/jwks"},
		}, []string{chatdtest.Fleet}, ticket.Options{
			Fetch: func(context.Context, string) ([]byte, error) { return nil, errors.New("no route") },
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	device := chatdtest.NewDevice(t)
	c := h.dial()
	c.Send(c.Auth(device, h.issuer.Ticket(h.clock.Now(), "alice", device)))
	c.ExpectRefusedAndClosed(frame.Internal)
}

func TestTheTicketEnds(t *testing.T) {
	h, _ := simple(t, func(s *setup) { s.cfg.Ping = time.Hour })
	busy, stuck := h.phone("bob"), h.phone("carol")
	busySession, stuckSession := busy.Open(1, "x"), stuck.Open(1, "x")
	h.clock.Advance(10*time.Minute - 1)
	busy.Send(frame.Close{Session: busy.Open(9, "in the last moment")})

	// A session in flight goes on, a new one does not begin.
	h.clock.Advance(wheel.Tick)
	busy.Echo(busySession, 1, "goes on")
	busy.Send(frame.Open{Tag: 2, Payload: []byte("x")})
	if r := chatdtest.Expect[frame.Refuse](busy); r.Status != frame.TicketExpired || r.Tag != 2 {
		t.Errorf("OPEN after the ticket has ended: %+v", r)
	}
	busy.Send(frame.Attach{Tag: 3, Session: stuckSession})
	if r := chatdtest.Expect[frame.Refuse](busy); r.Status != frame.TicketExpired || r.Tag != 3 {
		t.Errorf("ATTACH after the ticket has ended: %+v", r)
	}
	busy.Send(frame.Close{Session: busySession})
	if last, code := busy.Closed(); len(last) != 0 || code != frame.TicketExpired.CloseCode() {
		t.Errorf("after its last session: %v, %d", last, code)
	}

	// But not for ever.
	h.clock.Advance(expiryGrace - wheel.Tick)
	stuck.Echo(stuckSession, 1, "goes on")
	h.clock.Advance(wheel.Tick)
	if last, code := stuck.Closed(); len(last) != 0 || code != frame.TicketExpired.CloseCode() {
		t.Errorf("at the end of the grace: %v, %d", last, code)
	}
}

func TestAuthAgainAfterTheTicketHasEnded(t *testing.T) {
	h, _ := simple(t, func(s *setup) { s.cfg.Ping = time.Hour })
	device := chatdtest.NewDevice(t)
	c := h.login("alice", device)
	s := c.Open(1, "x")
	h.clock.Advance(10*time.Minute + expiryGrace - 1)
	c.Send(c.Auth(device, h.issuer.Ticket(h.clock.Now(), "alice", device)))
	chatdtest.Expect[frame.Ready](c)
	h.clock.Advance(time.Second)
	c.Echo(s, 1, "goes on")
	c.Open(2, "and a new one begins")
}

func TestTheTicketOfAnIdleConnectionEnds(t *testing.T) {
	h, _ := simple(t, func(s *setup) { s.cfg.Ping = time.Hour })
	c := h.phone("alice")
	h.clock.Advance(10*time.Minute - 1)
	c.Send(frame.Data{Payload: []byte("x")})
	chatdtest.Expect[frame.Refuse](c) // it lives
	h.clock.Advance(wheel.Tick)
	if last, code := c.Closed(); len(last) != 0 || code != frame.TicketExpired.CloseCode() {
		t.Errorf("%v, %d", last, code)
	}
}
