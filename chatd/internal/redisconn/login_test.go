package redisconn

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"chatvault/docker/redistest"
	"chatvault/protocol/secret"
)

// everywhere asks all servers that hold data.
func everywhere(t *testing.T, s *redistest.Site, args ...any) {
	t.Helper()
	for _, p := range s.Servers {
		p.Do(t, args...)
	}
}

// The password changes under a client of each kind: the connections that live
// go on, those that come need the new one.
func TestALoginChanges(t *testing.T) {
	for name, s := range sites(t) {
		t.Run(name, func(t *testing.T) {
			everywhere(t, s, "ACL", "SETUSER", "chatd", "on", ">old", "~*", "&*", "+@all")
			a, err := Parse(s.URL())
			if err != nil {
				t.Fatal(err)
			}
			login, other := NewLogin("chatd", secret.Bytes("old")), NewLogin("chatd", secret.Bytes("new"))
			if login.Equal(other) {
				t.Error("another password is taken for the same")
			}
			client, stop := Connect(Options{Address: a, Login: login})
			t.Cleanup(stop)
			if err := client.Set(t.Context(), "a", "1", 0).Err(); err != nil {
				t.Fatal(err)
			}
			refused := func(l *Login) bool {
				t.Helper()
				err := CheckLogin(t.Context(), Options{Address: a, Login: l})
				if err != nil && !redis.IsAuthError(err) {
					t.Error(err)
				}
				return err != nil
			}
			if refused(login) || !refused(other) {
				t.Error("before: the old one is refused, or the new one taken")
			}
			everywhere(t, s, "ACL", "SETUSER", "chatd", ">new", "<old")
			if err := client.Get(t.Context(), "a").Err(); err != nil {
				t.Errorf("over the connection of before: %v", err)
			}
			if !refused(login) || refused(other) {
				t.Error("after: the old one is taken, or the new one refused")
			}
			everywhere(t, s, "CLIENT", "KILL", "USER", "chatd")
			redistest.Await(t, "the old one is of no use", func() bool {
				return redis.IsAuthError(client.Get(t.Context(), "a").Err())
			})
			login.Become(other)
			redistest.Await(t, "the new one is used", func() bool { return client.Get(t.Context(), "a").Err() == nil })

			for _, p := range append(s.Servers, s.Sentinels...) {
				p.Kill(t)
			}
			if refused(login) {
				t.Error("who is not there refuses")
			}
		})
	}
}

func TestALoginIsNotPrinted(t *testing.T) {
	l := NewLogin("chatd", secret.Bytes("of Redis"))
	if out := fmt.Sprintf("%v %+v %#v", *l.now.Load(), *l.now.Load(), *l.now.Load()); strings.Contains(out, "of Redis") {
		t.Error(out)
	}
	if user, password := l.get(); user != "chatd" || password != "of Redis" {
		t.Errorf("shows %q, %q", user, password)
	}
}
