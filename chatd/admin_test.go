package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
)

// get asks the admin listener.
func (p *program) get(path string) (int, string) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.await("admin")["address"].(string) + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// hasMetric wants the lines in /metrics, within a while: a frame is counted after it
// is written, so a client may have read it before.
func (p *program) hasMetric(lines ...string) {
	p.t.Helper()
	missing := lines
	for deadline := time.Now().Add(time.Minute); len(missing) > 0 && time.Now().Before(deadline); {
		_, body := p.get("/metrics")
		missing = slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return strings.Contains(body, "\n"+line+"\n") })
	}
	for _, line := range missing {
		p.t.Errorf("/metrics does not say %q", line)
	}
}

func TestMetricsOfARunningChatd(t *testing.T) {
	s := newSite(t)
	s.settings["admin"] = "127.0.0.1:0"
	s.settings["drain-delay"] = "1s"
	p := s.serve()
	const sub = "canary-sub-91c2"
	c := s.login(p, sub)
	session := c.Open(1, "canary-payload")
	c.Echo(session, 1, "hello")
	p.hasMetric(
		`chatd_handshake_seconds_count 1`, `chatd_vault_sessions 1`, `chatd_uplinks{state="up"} 1`,
		`chatd_frames_total{dir="in"} 3`, `chatd_frames_total{dir="out"} 5`, // AUTH OPEN DATA; HELLO READY ATTACH DATA DATA
		`chatd_redis_up{use="limits"} 1`, `chatd_closes_total{reason="silent"} 0`, `chatd_events_total{event="authenticated"} 1`,
	)
	if code, _ := p.get("/readyz"); code != 200 {
		t.Errorf("ready: %d", code)
	}
	if _, body := p.get("/metrics"); strings.Contains(body, "canary") {
		t.Error("a metric names somebody")
	}

	p.stop()
	p.await("draining")
	if code, _ := p.get("/readyz"); code != 503 {
		t.Errorf("ready while draining: %d", code)
	}
	if code, _ := p.get("/livez"); code != 200 {
		t.Errorf("alive while draining: %d", code)
	}
	s.login(p, "the balancer has not noticed yet").Closed()
	chatdtest.Expect[frame.Goaway](c)
	c.Send(frame.Close{Session: session})
	c.Closed()
	if code := p.exited(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.text())
	}
}

func TestReload(t *testing.T) {
	s := newSite(t)
	certFile, keyFile := s.pki.Issue("chat.example", "127.0.0.1")
	s.settings["tls-cert"], s.settings["tls-key"] = certFile, keyFile
	s.settings["host"] = []string{"chat.example"}
	s.settings["admin"] = "127.0.0.1:0"
	p := s.serve()
	d := &websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: s.pki.Pool(), ServerName: "chat.example"}}
	connect := func() *chatdtest.Client {
		t.Helper()
		c := chatdtest.Dial(t, d, "wss://"+p.addr)
		c.Host = "chat.example"
		return c
	}
	login := func(c *chatdtest.Client, sub string) {
		t.Helper()
		device := chatdtest.NewDevice(t)
		c.Send(c.Auth(device, s.issuer.Ticket(time.Now(), sub, device)))
		chatdtest.Expect[frame.Ready](c)
	}
	serial := func(c *chatdtest.Client) string {
		return c.WS.NetConn().(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	old := connect()
	login(old, "alice")
	session := old.Open(1, "x")

	// A new certificate, another limit, another bundle, the issuer's new key.
	newCert, newKey := s.pki.Issue("chat.example")
	for from, to := range map[string]string{newCert: certFile, newKey: keyFile} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.settings["limit"] = map[string]string{"OpensPerAccount": "1/1/1h"}
	s.settings["fleet-bundle"] = s.file("bundle2", chatdtest.Bundle(t, 8), 0o644)
	s.settings["ping"] = "31s"
	before := s.issuer.Config[0].KeyFile
	s.issuer = chatdtest.NewIssuer(t)
	key, err := os.ReadFile(s.issuer.Config[0].KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(before, key, 0o600); err != nil {
		t.Fatal(err)
	}
	s.issuer.Config[0].KeyFile = before
	s.config()
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if line := p.await("reloaded"); len(line["ignored_until_restart"].([]any)) != 1 || line["ignored_until_restart"].([]any)[0] != "Ping" {
		t.Errorf("%v", line)
	}
	old.Echo(session, 1, "no connection was dropped")
	now := connect()
	if now.Hello.BundleEpoch != 8 || serial(now) == serial(old) {
		t.Errorf("epoch %d, certificate %s as before", now.Hello.BundleEpoch, serial(now))
	}
	login(now, "bob")
	now.Open(1, "x")
	now.Send(frame.Open{Tag: 2, Payload: []byte("x")})
	if r := chatdtest.Expect[frame.Refuse](now); r.Limit != "OpensPerAccount" {
		t.Errorf("%+v", r)
	}

	// What is wrong changes nothing.
	s.settings["limit"] = map[string]string{"OpensPerAccount": "off"}
	s.file("bundle2", []byte("no bundle"), 0o644)
	s.config()
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.await("reload failed, the old settings stay")
	if c := connect(); c.Hello.BundleEpoch != 8 {
		t.Errorf("epoch %d", c.Hello.BundleEpoch)
	}
	p.hasMetric(`chatd_events_total{event="reloaded"} 1`, `chatd_events_total{event="reload_failed"} 1`)
	old.Echo(session, 2, "and drops nothing")
	p.stop()
	old.Send(frame.Close{Session: session})
	old.Closed()
}
