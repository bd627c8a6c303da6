package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/docker/redistest"
)

// reloads is a chatd that is told, again and again, to read its files.
type reloads struct {
	*program
	good, bad int
}

// hangUp sends SIGHUP and returns what chatd says of it.
func (r *reloads) hangUp(msg string, times int) map[string]any {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
	line := r.log.AwaitNth(r.t, msg, times)
	r.hasMetric(fmt.Sprintf(`chatd_events_total{event="reloaded"} %d`, r.good), fmt.Sprintf(`chatd_events_total{event="reload_failed"} %d`, r.bad))
	return line
}

// takes wants the files to be taken but for these settings.
func (r *reloads) takes(ignored ...any) {
	r.t.Helper()
	r.good++
	line := r.hangUp("reloaded", r.good)
	if got, _ := line["ignored_until_restart"].([]any); !slices.Equal(got, ignored) {
		r.t.Errorf("ignored %v, want %v", got, ignored)
	}
}

// refuses wants nothing to be taken, for this reason.
func (r *reloads) refuses(want ...string) {
	r.t.Helper()
	r.bad++
	reason, _ := r.hangUp("reload failed, the old settings stay", r.bad)["reason"].(string)
	for _, text := range want {
		if !strings.Contains(reason, text) {
			r.t.Errorf("refused because of %q, not %q", reason, text)
		}
	}
}

// TestTheLoginOfRedisIsReadAgain: the password, then the user, change under a
// chatd that runs. Connections that live go on, new ones are made with the new
// login, and a wrong one is never taken.
func TestTheLoginOfRedisIsReadAgain(t *testing.T) {
	port := redistest.FreePort(t)
	server := redistest.Start(t, "--port", port, "--bind", "127.0.0.1")
	user := func(name string, change ...any) {
		server.Do(t, append([]any{"ACL", "SETUSER", name}, change...)...)
	}
	everything := []any{"on", "~*", "&*", "+@all"}
	user("anna", append(everything, ">first")...)
	s := newSite(t)
	s.settings["admin"] = "127.0.0.1:0"
	url := func(user string) { s.settings["redis"] = "redis://" + user + "@127.0.0.1:" + port }
	password := func(text string) string {
		path := s.file("password", []byte(text), 0o600)
		s.settings["redis-password-file"] = path
		s.config()
		return path
	}
	url("anna")
	password("first\n")
	r := &reloads{program: s.serve()}
	presences := func(n int) {
		t.Helper()
		chatdtest.Await(t, fmt.Sprintf("%d phones in Redis", n), func() bool {
			return len(server.Do(t, "KEYS", "cv:presence:*").([]any)) == n
		})
	}
	s.login(r.program, "one")
	presences(1)

	// What is wrong is not taken: Redis refuses it, or it is no such file.
	password("guessed\n")
	r.refuses("redis-password-file: Redis refuses it", "WRONGPASS")
	path := password("\n")
	r.refuses("redis-password-file: "+path, "empty")
	password("first\n")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	r.refuses("redis-password-file: "+path, "chmod 600")
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}

	// renewed makes chatd connect anew, which it can only with the login of now.
	renewed := func(old string, phones int) {
		t.Helper()
		server.Do(t, "CLIENT", "KILL", "USER", old)
		r.hasMetric(`chatd_redis_up{use="routes"} 1`)
		s.login(r.program, fmt.Sprint("phone ", phones))
		presences(phones)
	}
	user("anna", ">second", "<first")
	s.login(r.program, "two")
	presences(2) // over the connections of before
	password("second\n")
	r.takes()
	renewed("anna", 3)

	user("bert", append(everything, ">third")...)
	url("bert")
	password("third\n")
	r.takes()
	user("anna", "off")
	renewed("anna", 4)

	// Another server takes a restart, and its password with it.
	s.settings["redis"] = "redis://bert@127.0.0.1:1"
	password("another server's\n")
	r.takes("Redis")
	renewed("bert", 5)
	for _, secret := range []string{"guessed", "first", "second", "third", "another"} {
		if strings.Contains(r.text(), secret) {
			t.Errorf("%q stands in the log:\n%s", secret, r.text())
		}
	}
}

// TestTheWebhookKeysAreReadAgain: from one key over both to the next one.
func TestTheWebhookKeysAreReadAgain(t *testing.T) {
	s := newSite(t)
	s.settings["admin"] = "127.0.0.1:0"
	one, two := webhookKey("one"), webhookKey("two")
	got := s.app(one)
	r := &reloads{program: s.serve()}
	phone := s.login(r.program, "alice")
	session, sequence := phone.Open(1, "x"), uint32(0)
	signed := func(keys ...[]byte) {
		t.Helper()
		sequence++
		phone.Echo(session, sequence, "ring")
		n := <-got
		n.signed(t, keys...)
	}
	signed(one)
	s.webhookKeys(one, two)
	r.takes()
	signed(one, two)
	s.file("webhook-keys", []byte("whsec_short\n"), 0o600)
	r.refuses("notice-webhook-key-file: want one or two lines whsec_")
	signed(one, two)
	s.webhookKeys(two)
	r.takes()
	signed(two)
}

// TestOtherAuthoritiesWaitForARestart, and are named, although no setting changes
// but what is in their files.
func TestOtherAuthoritiesWaitForARestart(t *testing.T) {
	s := newSite(t)
	s.settings["admin"] = "127.0.0.1:0"
	s.app(webhookKey("one"))
	authority := func(name string, of *chatdtest.PKI) string {
		b, err := os.ReadFile(of.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		return s.file(name, b, 0o644)
	}
	s.settings["redis"] = "rediss://127.0.0.1:1" // nobody is there, which is no error
	s.settings["redis-ca"] = authority("redis-ca", s.pki)
	s.settings["notice-webhook-ca"] = authority("notice-ca", s.pki)
	r, other := &reloads{program: s.serve()}, chatdtest.NewPKI(t)
	r.takes()
	authority("redis-ca", other)
	r.takes("RedisCA")
	authority("notice-ca", other)
	r.takes("RedisCA", "NoticeWebhookCA")
	authority("redis-ca", s.pki)
	r.takes("NoticeWebhookCA")
}
