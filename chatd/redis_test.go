package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/docker/redistest"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

func (s *site) loginAs(p *program, sub string, device ticket.DeviceKey) *chatdtest.Client {
	s.t.Helper()
	c := chatdtest.Dial(s.t, nil, "ws://"+p.addr)
	c.Send(c.Auth(device, s.issuer.Ticket(time.Now(), sub, device)))
	chatdtest.Expect[frame.Ready](c)
	return c
}

// knows waits until Redis has so many keys that fit.
func knows(t *testing.T, c redis.UniversalClient, pattern string, n int) {
	t.Helper()
	chatdtest.Await(t, pattern, func() bool { return len(chatdtest.Keys(t, c, pattern)) == n })
}

// Two relays on each kind of Redis, while the part of it that matters most is
// killed: what is connected stays so, phones come in, and when Redis has found
// another place for everything the relays hear each other again.
func TestTwoRelaysAndAFailover(t *testing.T) {
	for name, start := range map[string]func(testing.TB) chatdtest.RedisSite{
		"sentinel": chatdtest.StartSentinels, "cluster": chatdtest.StartCluster,
	} {
		t.Run(name, func(t *testing.T) {
			server := start(t)
			s := newSite(t)
			s.settings["redis"], s.settings["drain"] = server.URL(), "0s"
			one, two := s.serve(), s.serve()
			client := server.Client(t)
			knows(t, client, "cv:relay:*", 2)
			phone := chatdtest.NewDevice(t)
			older, tablet := s.loginAs(one, "alice", phone), s.login(one, "alice")
			session := older.Open(1, "x")
			newer := s.loginAs(two, "alice", phone)
			if _, code := older.Closed(); code != frame.Replaced.CloseCode() {
				t.Errorf("the older connection was closed with %d", code)
			}
			newer.Send(frame.Attach{Tag: 1, Session: session})
			chatdtest.Expect[frame.Attach](newer)
			server.InStep(t)
			server.Stop(t)

			sequence := uint32(0)
			echo := func(payload string) {
				sequence++
				newer.Echo(session, sequence, payload)
			}
			echo("goes on")
			bob := s.login(one, "bob")
			bob.Echo(bob.Open(1, "x"), 1, "comes in")
			hears(t, tablet, func() { echo("ring") })
			for _, p := range []*program{one, two} {
				p.stop()
			}
			for _, p := range []*program{one, two} {
				if code := p.exited(); code != 0 {
					t.Errorf("exit code %d:\n%s", code, p.text())
				}
			}
		})
	}
}

// hears waits until c hears a doorbell. One that is rung before the relays have
// subscribed is lost, so ring is called again and again.
func hears(t *testing.T, c *chatdtest.Client, ring func()) {
	t.Helper()
	heard := make(chan struct{}, 100)
	go func() {
		for {
			if _, _, err := c.WS.ReadMessage(); err != nil {
				return
			}
			heard <- struct{}{}
		}
	}()
	chatdtest.Await(t, "the relays hear each other", func() bool {
		ring()
		select {
		case <-heard:
			return true
		case <-time.After(200 * time.Millisecond):
			return false
		}
	})
}

// The rights that docker/docs/operate.md names are enough.
const rights = "~cv:* &cv:* +@read +@write +@scripting +@pubsub +@connection +time +cluster"

func TestRedisOverTLSAsAUserOfFewRights(t *testing.T) {
	s := newSite(t)
	serverCert, serverKey := s.pki.Issue("localhost", "127.0.0.1")
	port := redistest.FreePort(t)
	server := redistest.Start(t, "--port", "0", "--tls-port", port, "--bind", "127.0.0.1",
		"--tls-cert-file", serverCert, "--tls-key-file", serverKey, "--tls-ca-cert-file", s.pki.CAFile)
	user := []any{"ACL", "SETUSER", "chatd", "on", ">hunter2"}
	for right := range strings.FieldsSeq(rights) {
		user = append(user, right)
	}
	server.Do(t, user...)
	server.Do(t, "ACL", "SETUSER", "default", "off")
	s.settings["redis"] = "rediss://chatd@127.0.0.1:" + port
	s.settings["redis-password-file"] = s.file("password", []byte("hunter2\n"), 0o600)
	s.settings["redis-ca"] = s.pki.CAFile
	s.settings["redis-cert"], s.settings["redis-key"] = s.pki.Issue("chatd")
	s.settings["admin"] = "127.0.0.1:0"
	one, two := s.serve(), s.serve()
	there := s.login(two, "alice")
	here := s.login(one, "alice")
	session, sequence := here.Open(1, "x"), uint32(0)
	hears(t, there, func() {
		sequence++
		here.Echo(session, sequence, "ring")
	})
	for _, p := range []*program{one, two} {
		if log := p.text(); strings.Contains(log, "redis does not answer") || strings.Contains(log, "hunter2") {
			t.Errorf("chatd says:\n%s", log)
		}
	}
	docs, err := os.ReadFile("../docker/docs/operate.md")
	if err != nil || !strings.Contains(string(docs), "`"+rights+"`") {
		t.Errorf("operate.md names other rights: %v", err)
	}
}

// posted is what the app got.
type posted struct {
	header     http.Header
	path, body string
}

// webhookKey makes a key of 32 bytes out of a name.
func webhookKey(name string) []byte { return bytes.Repeat([]byte(name), 32)[:32] }

// app starts the app's backend, and lets chatd tell it of doorbells.
func (s *site) app(keys ...[]byte) <-chan posted {
	got := make(chan posted, 16)
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Error(err)
		}
		got <- posted{r.Header, r.URL.Path, string(b)}
	}))
	app.TLS = &tls.Config{Certificates: []tls.Certificate{s.pki.Certificate("127.0.0.1")}}
	app.StartTLS()
	s.t.Cleanup(app.Close)
	s.settings["notice-webhook"] = app.URL + "/doorbell"
	s.settings["notice-webhook-ca"] = s.pki.CAFile
	s.webhookKeys(keys...)
	return got
}

// webhookKeys writes the file of the keys that sign.
func (s *site) webhookKeys(keys ...[]byte) {
	var file []byte
	for _, key := range keys {
		file = fmt.Appendf(file, "whsec_%s\n", base64.StdEncoding.EncodeToString(key))
	}
	s.settings["notice-webhook-key-file"] = s.file("webhook-keys", file, 0o600)
}

// signed wants a signature by each of these keys, and no other.
func (n posted) signed(t *testing.T, keys ...[]byte) {
	t.Helper()
	var want []string
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		io.WriteString(mac, n.header.Get("webhook-id")+"."+n.header.Get("webhook-timestamp")+"."+n.body)
		want = append(want, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if got := n.header.Get("webhook-signature"); got != strings.Join(want, " ") {
		t.Errorf("signed %q, want %q", got, want)
	}
}

func TestTheAppIsToldOfADoorbellThatNobodyHeard(t *testing.T) {
	onEachRedis(t, func(t *testing.T, s *site) {
		got := s.app(webhookKey("one"))
		s.settings["drain"] = "0s"
		p := s.serve()
		phone := s.login(p, "canary-sub-7f3a")
		phone.Echo(phone.Open(1, "x"), 1, "ring")

		n := <-got
		n.signed(t, webhookKey("one"))
		if !strings.HasSuffix(n.body, `"data":{"sub":"canary-sub-7f3a"}}`) || n.path != "/doorbell" {
			t.Errorf("POST %s: %s", n.path, n.body)
		}
		p.stop()
		if code := p.exited(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if log := p.text(); strings.Contains(log, "canary") || !strings.Contains(log, `"webhook_delivered":1`) {
			t.Errorf("chatd says:\n%s", log)
		}
	})
}

// By Redis' own count: what a connect costs, and that frames cost nothing.
func TestWhatTheRealRedisIsAsked(t *testing.T) {
	server := chatdtest.StartRedis(t, "")
	s := newSite(t)
	s.settings["redis"] = server.URL()
	s.settings["limit"] = map[string]string{"ConnectionsPerIP": "off", "FramesPerConnection": "off"}
	p := s.serve()
	client := server.Client(t)
	s.login(p, "warm").Open(1, "x")
	knows(t, client, "cv:presence:*", 1)
	knows(t, client, "cv:node:*", 1)
	const n = 25
	before := chatdtest.Commands(t, client)
	var last *chatdtest.Client
	for range n {
		last = s.login(p, "alice")
	}
	session := last.Open(1, "x")
	for i := range uint32(500) {
		last.Echo(session, i+1, "x")
	}
	more := chatdtest.More(before, chatdtest.Commands(t, client))
	// For each connect, each limit and the presence; for the OPEN, its limits.
	// What a script calls is counted too, and so is the beat of each 5 s.
	if calls := more["evalsha"]; calls < 2*n+1 || calls > 3*n+3 {
		t.Errorf("%d scripts for %d connects, one OPEN and 500 frames", calls, n)
	}
	if calls := more["eval"]; calls > 2 {
		t.Errorf("%d scripts were sent whole", calls)
	}
	for _, name := range []string{"get", "set", "hgetall", "hset", "pexpire", "time"} {
		if more[name] > 4*n {
			t.Errorf("%d × %s", more[name], name)
		}
	}
}
