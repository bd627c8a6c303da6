package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// onDevice logs in on a device.
func (h *house) onDevice(sub string, device ticket.DeviceKey) *chatdtest.Client {
	h.t.Helper()
	c := h.dial()
	c.Send(c.Auth(device, h.issuer.Ticket(h.clock.Now(), sub, device)))
	chatdtest.Expect[frame.Ready](c)
	return c
}

// refusedOpen opens until it is refused, and returns how often it was not.
func refusedOpen(c *chatdtest.Client, first uint32) (opened int, r frame.Refuse) {
	for tag := first; ; tag++ {
		c.Send(frame.Open{Tag: tag, Payload: []byte("x")})
		switch f := c.Next().(type) {
		case frame.Refuse:
			return opened, f
		case frame.Attach:
			opened++
			chatdtest.Expect[frame.Data](c)
			c.Send(frame.Close{Session: f.Session})
		}
	}
}

// One device of an account cannot use up what its others need.
func TestADeviceHasLessThanItsAccount(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.cfg.Limits.Set[ratelimit.OpensPerAccount] = ratelimit.Limit{Burst: 3, Count: 1, Period: time.Hour}
		s.cfg.Limits.Set[ratelimit.OpensPerDevice] = ratelimit.Limit{Burst: 2, Count: 1, Period: time.Minute}
	})
	stolen, own := chatdtest.NewDevice(t), chatdtest.NewDevice(t)
	if n, r := refusedOpen(h.onDevice("alice", stolen), 1); n != 2 || r.Limit != ratelimit.OpensPerDevice || r.RetryMillis != 60_000 || r.Status != frame.RateLimited {
		t.Errorf("%d, %+v", n, r)
	}
	for range 10 { // which count against nobody
		if n, _ := refusedOpen(h.onDevice("alice", stolen), 1); n != 0 {
			t.Errorf("%d", n)
		}
	}
	if n, r := refusedOpen(h.onDevice("alice", own), 1); n != 1 || r.Limit != ratelimit.OpensPerAccount {
		t.Errorf("%d, %+v", n, r)
	}
	if n, _ := refusedOpen(h.onDevice("bob", own), 1); n != 2 {
		t.Errorf("the same device in another account: %d", n)
	}
}

// Overrides hold for connections that live, from the reload on.
func TestOverridesAndReload(t *testing.T) {
	h, _ := simple(t, nil)
	free, account, other := h.onDevice("free", chatdtest.NewDevice(t)), h.onDevice("alice", chatdtest.NewDevice(t)), h.onDevice("bob", chatdtest.NewDevice(t))
	rules, err := ratelimit.Parse("limits", fmt.Appendf(nil, `
OpensPerAccount:
  {burst: 1, count: 1, period: 1h, overrides: [{issuer: %[1]s, sub: free, off: true}, {issuer: %[1]s, sub: alice, burst: 2, count: 1, period: 1m}]}
OpensPerDevice: {off: true}
FramesPerConnection:
  {burst: 2, count: 1, period: 1s, overrides: [{issuer: %[1]s, off: true}]}
`, h.issuer.Config[0].Name))
	if err != nil {
		t.Fatal(err)
	}
	h.relay.Reload(rules, []byte("the bundle\n"), 7)
	for tag := range uint32(10) {
		c := free.Open(100+tag, "x")
		free.Send(frame.Close{Session: c})
	}
	if n, r := refusedOpen(account, 1); n != 2 || r.Limit != ratelimit.OpensPerAccount || r.RetryMillis != 60_000 {
		t.Errorf("an account's own limit: %d, %+v", n, r)
	}
	if n, r := refusedOpen(other, 1); n != 1 || r.RetryMillis != 3_600_000 {
		t.Errorf("everybody else's: %d, %+v", n, r)
	}
}

// What a client is told that is refused before the upgrade.
func TestA429NamesItsLimit(t *testing.T) {
	h, _ := simple(t, func(s *setup) {
		s.cfg.Limits.Set[ratelimit.ConnectionsPerIP] = ratelimit.Limit{Burst: 1, Count: 2, Period: time.Second}
	})
	h.dial()
	_, resp, err := (&websocket.Dialer{Subprotocols: []string{frame.Subprotocol}}).Dial(h.url+frame.Path, nil)
	if !errors.Is(err, websocket.ErrBadHandshake) || resp.StatusCode != http.StatusTooManyRequests {
		t.Fatal(err)
	}
	var problem struct {
		Title          string `json:"title"`
		Status         int    `json:"status"`
		Limit          string `json:"limit"`
		RetryAfterMS   int    `json:"retry_after_ms"`
		AttemptCharged *bool  `json:"attempt_charged"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&problem); err != nil {
		t.Fatal(err)
	}
	if problem.Limit != ratelimit.ConnectionsPerIP || problem.RetryAfterMS != 500 || problem.AttemptCharged == nil || *problem.AttemptCharged ||
		problem.Status != 429 || resp.Header.Get("Retry-After") != "1" || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%+v, %v", problem, resp.Header)
	}
}
