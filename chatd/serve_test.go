package main

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
)

// onEachRedis runs a test with chatd on its embedded Redis and on a real one.
func onEachRedis(t *testing.T, test func(t *testing.T, s *site)) {
	t.Run("embedded", func(t *testing.T) { test(t, newSite(t)) })
	t.Run("redis-server", func(t *testing.T) {
		s := newSite(t)
		s.settings["redis"] = chatdtest.StartRedis(t, "").URL()
		test(t, s)
	})
}

func (s *site) login(p *program, sub string) *chatdtest.Client {
	s.t.Helper()
	device := chatdtest.NewDevice(s.t)
	c := chatdtest.Dial(s.t, nil, "ws://"+p.addr)
	c.Send(c.Auth(device, s.issuer.Ticket(time.Now(), sub, device)))
	chatdtest.Expect[frame.Ready](c)
	return c
}

func TestServeRelaysAndDrains(t *testing.T) {
	onEachRedis(t, func(t *testing.T, s *site) {
		p := s.serve()
		idle, busy := s.login(p, "alice"), s.login(p, "bob")
		if idle.Hello.BundleEpoch != 7 {
			t.Errorf("HELLO names epoch %d", idle.Hello.BundleEpoch)
		}
		session := busy.Open(1, "hello")
		busy.Echo(session, 1, "before")

		p.stop()
		if g := chatdtest.Expect[frame.Goaway](idle); g.Status != frame.Draining || g.ReconnectMillis > 60_000 {
			t.Errorf("%+v", g)
		}
		if last, code := idle.Closed(); code != frame.Draining.CloseCode() || len(last) != 0 {
			t.Errorf("the idle one: %v, %d", last, code)
		}
		chatdtest.Expect[frame.Goaway](busy)
		busy.Echo(session, 2, "a session in flight goes on")
		busy.Send(frame.Open{Tag: 2, Payload: []byte("new")})
		if r := chatdtest.Expect[frame.Refuse](busy); r.Status != frame.Draining || r.Tag != 2 {
			t.Errorf("a new session while draining: %+v", r)
		}
		busy.Send(frame.Close{Session: session})
		if _, code := busy.Closed(); code != frame.Draining.CloseCode() {
			t.Errorf("the busy one: %d", code)
		}
		if code := p.exited(); code != 0 {
			t.Errorf("exit code %d:\n%s", code, p.text())
		}
	})
}

func TestServeUsesItsRedisWithThePasswordFromAFile(t *testing.T) {
	s := newSite(t)
	redis := chatdtest.StartRedis(t, "correct horse")
	s.settings["redis"] = redis.URL()
	s.settings["redis-password-file"] = s.file("redis-password", []byte("correct horse\n"), 0o600)
	p := s.serve()
	c := s.login(p, "alice")
	client := redis.Client(t)
	for _, pattern := range []string{"cv:node:01000001", "cv:presence:*", "cv:limit:ConnectionsPerAccount:*"} {
		knows(t, client, pattern, 1)
	}
	p.stop()
	c.Closed()
	if code := p.exited(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if keys := client.Keys(t.Context(), "cv:presence:*").Val(); len(keys) != 0 {
		t.Errorf("presence after the end: %v", keys)
	}
}

func TestTheDrainIsBounded(t *testing.T) {
	s := newSite(t)
	s.settings["drain"] = "0s"
	p := s.serve()
	c := s.login(p, "alice")
	c.Open(1, "hello")
	p.stop()
	if _, code := c.Closed(); code != frame.Draining.CloseCode() {
		t.Errorf("close code %d", code)
	}
	if code := p.exited(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestSeveralUplinks(t *testing.T) {
	s := newSite(t)
	s.settings["vault-links"] = 3
	s.serve()
	s.vault.Await("three uplinks", func(v *chatdtest.VaultState) bool { return v.Links == 3 })
	for cores, want := range map[int]int{1: 1, 2: 1, 4: 1, 5: 2, 8: 2, 9: 3, 12: 3, 13: 4, 64: 4} {
		if n := linksFor(cores); n != want {
			t.Errorf("%d uplinks for %d cores, want %d", n, cores, want)
		}
	}
}

func TestServeOverTLSWithNamesAndOrigins(t *testing.T) {
	s := newSite(t)
	s.settings["tls-cert"], s.settings["tls-key"] = s.pki.Issue("chat.example", "127.0.0.1")
	s.settings["host"] = []string{"Chat.Example"}
	s.settings["origin"] = []string{"https://app.example"}
	p := s.serve()
	d := &websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: s.pki.Pool(), ServerName: "chat.example"}}
	device := chatdtest.NewDevice(t)
	c := chatdtest.Dial(t, d, "wss://"+p.addr)
	c.Host = "chat.example"
	c.Send(c.Auth(device, s.issuer.Ticket(time.Now(), "alice", device)))
	chatdtest.Expect[frame.Ready](c)
	c.Open(1, "hello")

	c = chatdtest.Dial(t, d, "wss://"+p.addr)
	c.Send(c.Auth(device, s.issuer.Ticket(time.Now(), "alice", device)))
	c.ExpectRefusedAndClosed(frame.WrongHost)
}

func TestTheBundleAndReadiness(t *testing.T) {
	s := newSite(t)
	p := s.serve()
	get := func(path string) (int, []byte) {
		t.Helper()
		resp, err := http.Get("http://" + p.addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body
	}
	want, err := os.ReadFile(s.settings["fleet-bundle"].(string))
	if err != nil {
		t.Fatal(err)
	}
	code, body := get(frame.FleetPath)
	if epoch, err := fleet.Epoch(body); code != 200 || !bytes.Equal(body, want) || err != nil || epoch != 7 {
		t.Errorf("the bundle: %d, %q", code, body)
	}
	if code, _ := get("/readyz"); code != 200 {
		t.Errorf("ready: %d", code)
	}
	s.vault.Stop()
	p.await("uplink is down")
	if code, _ := get("/readyz"); code != 503 {
		t.Errorf("ready without a vault: %d", code)
	}
	if code, body := get(frame.Path); code != 400 || strings.Contains(string(body), "websocket") {
		t.Errorf("no upgrade: %d %s", code, body)
	}
	if code, _ := get("/"); code != 404 {
		t.Errorf("anything else: %d", code)
	}
}

func TestLogsHoldNothingOfAnybody(t *testing.T) {
	s := newSite(t)
	p := s.serve()
	const sub = "canary-sub-7f3a"
	device := chatdtest.NewDevice(t)
	tok := s.issuer.Ticket(time.Now(), sub, device)
	c := chatdtest.Dial(t, nil, "ws://"+p.addr)
	good := c.Auth(device, tok)
	c.Send(good)
	chatdtest.Expect[frame.Ready](c)
	session := c.Open(1, "canary-payload")
	c.Echo(session, 1, "ring")

	// Every refusal that speaks of a ticket.
	for _, spoil := range []func(*frame.Auth){
		func(a *frame.Auth) { a.Signature[5]++ },
		func(a *frame.Auth) { a.Host = "canary-host" },
		func(a *frame.Auth) { a.Ticket = "canary." + tok },
		func(a *frame.Auth) { a.DeviceKey[40]++ },
	} {
		bad := chatdtest.Dial(t, nil, "ws://"+p.addr)
		a := bad.Auth(device, tok)
		spoil(&a)
		bad.Send(a)
		bad.Closed()
	}
	c.SendRaw(websocket.TextMessage, []byte("canary-text"))
	c.Closed()
	p.stop()
	if code := p.exited(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	log := p.text()
	if !strings.Contains(log, `"stopped"`) || !strings.Contains(log, `"authenticated":1`) {
		t.Errorf("the log does not end with the counts:\n%s", log)
	}
	log = strings.ReplaceAll(strings.ReplaceAll(log, p.addr, ""), s.vault.Addr, "")
	for _, leak := range []string{"canary", tok, tok[:20], tok[len(tok)-20:], "127.0.0.1"} {
		if strings.Contains(log, leak) {
			t.Errorf("%q stands in the log:\n%s", leak, log)
		}
	}
}
