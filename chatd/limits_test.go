package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/protocol/frame"
)

func TestLimitsDefaultsIsAGoodFile(t *testing.T) {
	code, text, stderr := run(t, "limits", "defaults")
	if code != 0 {
		t.Fatal(code, stderr)
	}
	path := filepath.Join(t.TempDir(), "limits.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := run(t, "limits", "check", path)
	if code != 0 || !strings.Contains(out, "limits.yaml:") || strings.Contains(out, " default\n") {
		t.Errorf("%d\n%s%s", code, out, stderr)
	}
}

func TestLimitsCheckExplains(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	if err := os.WriteFile(path, []byte(`OpensPerAccount:
  overrides:
    - {issuer: app, sub: a/b, burst: 7, count: 1, period: 1h}
    - {issuer: app, off: true}
ConnectionsPerIPv6Range:
  overrides:
    - {network: "2001:db8::/32", off: true}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want []string // words of one line each
	}{
		{nil, []string{
			"OpensPerAccount 60 30 in 1m0s vault sessions opened account in Redis default; overrides for others: 2",
			"FramesPerConnection 200 50 in 1s frames, pings and pongs connection by each chatd default",
		}},
		{[]string{"--account", "app/a/b"}, []string{"OpensPerAccount 7 1 in 1h0m0s vault sessions opened account in Redis " + path + ":3, for account app/a/b"}},
		{[]string{"--account", "app/c", "--ip", "2001:db8:1:2::3"}, []string{
			"OpensPerAccount off vault sessions opened account in Redis " + path + ":4, for issuer app",
			"ConnectionsPerIP 50 10 in 1s requests to connect IPv4 address or IPv6 /64 (2001:db8:1:2::/64) by each chatd default",
			"ConnectionsPerIPv6Range off requests to connect IPv6 /48 (2001:db8:1::/48) by each chatd " + path + ":7, for network 2001:db8::/32",
		}},
		{[]string{"--ip", "::ffff:192.0.2.1"}, []string{
			"ConnectionsPerIP 50 10 in 1s requests to connect IPv4 address or IPv6 /64 (192.0.2.1) by each chatd default",
			"ConnectionsPerIPv6Range 200 40 in 1s requests to connect IPv6 /48 (none: IPv4) by each chatd default; overrides for others: 1",
		}},
	} {
		code, out, stderr := run(t, append([]string{"limits", "check", path}, c.args...)...)
		if code != 0 {
			t.Fatal(code, stderr)
		}
		lines := map[string]bool{}
		for line := range strings.Lines(out) {
			lines[strings.Join(strings.Fields(line), " ")] = true
		}
		for _, want := range c.want {
			if !lines[want] {
				t.Errorf("%v: no line %q in\n%s", c.args, want, out)
			}
		}
	}
}

func TestLimitsCheckRefuses(t *testing.T) {
	dir := t.TempDir()
	bad, good := filepath.Join(dir, "bad"), filepath.Join(dir, "good")
	for path, text := range map[string]string{bad: "OpensPerAccount:\n  burst: 3\n", good: ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{bad}, bad + ":2: OpensPerAccount: write burst, count and period"},
		{[]string{filepath.Join(dir, "none")}, "no such file"},
		{[]string{good, "--account", "alice"}, "as app/u-1234"},
		{[]string{good, "--ip", "here"}, "--ip"},
		{nil, "<file>"},
	} {
		code, out, stderr := run(t, append([]string{"limits", "check"}, c.args...)...)
		if code != 2 || out != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: %d, %q, %q; want 2 and %q", c.args, code, out, stderr, c.want)
		}
	}
}

// The file is read again at SIGHUP: its numbers hold from then on, for the
// connection that lived before too, and a broken one changes nothing.
func TestTheLimitsFileIsReadAgain(t *testing.T) {
	s := newSite(t)
	tight := "OpensPerAccount: {burst: 1, count: 1, period: 1h}\n"
	path := s.file("limits.yaml", []byte(tight), 0o600)
	s.settings["limits"] = path
	p := s.serve()
	alice, bob := s.login(p, "alice"), s.login(p, "bob")
	open := func(c *chatdtest.Client, tag uint32) {
		t.Helper()
		c.Send(frame.Close{Session: c.Open(tag, "x")})
	}
	refused := func(c *chatdtest.Client, tag uint32) {
		t.Helper()
		c.Send(frame.Open{Tag: tag, Payload: []byte("x")})
		if r := chatdtest.Expect[frame.Refuse](c); r.Status != frame.RateLimited || r.Limit != "OpensPerAccount" || r.RetryMillis < 3_500_000 {
			t.Errorf("%+v", r)
		}
	}
	reload := func(text, said string) map[string]any {
		t.Helper()
		s.file("limits.yaml", []byte(text), 0o600)
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		return p.await(said)
	}
	open(alice, 1)
	refused(alice, 2)
	open(bob, 1)
	line := reload("OpensPerAccount: {burst: 1}\n", "reload failed, the old settings stay")
	if reason, _ := line["reason"].(string); !strings.Contains(reason, path+":1: OpensPerAccount: write burst") {
		t.Errorf("%v", line)
	}
	refused(bob, 2)
	free := "  overrides:\n    - {issuer: " + s.issuer.Config[0].Name + ", sub: alice, off: true}\n"
	reload("OpensPerAccount:\n  burst: 1\n  count: 1\n  period: 1h\n"+free, "reloaded")
	for tag := range uint32(5) {
		open(alice, 10+tag)
	}
	refused(bob, 3)
}
