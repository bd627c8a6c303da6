package relay

import (
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

func TestMain(m *testing.M) {
	code := m.Run()
	chatdtest.StopRedises()
	os.Exit(code)
}

func eachRedis(t *testing.T, test func(t *testing.T, client redis.UniversalClient)) {
	for name, connect := range chatdtest.Redises {
		t.Run(name, func(t *testing.T) { test(t, connect(t)) })
	}
}

// pair is two relays, each with a vault of its own, on one Redis.
type pair struct {
	one, two *house
	a, b     *chatdtest.Vault
}

func newPair(t *testing.T, client redis.UniversalClient, change func(*setup)) pair {
	pki, issuer := chatdtest.NewPKI(t), chatdtest.NewIssuer(t)
	p := pair{a: chatdtest.StartVault(t, pki, 1, uplink.VaultRole), b: chatdtest.StartVault(t, pki, 2, uplink.VaultRole)}
	for _, r := range []struct {
		house **house
		vault *chatdtest.Vault
	}{{&p.one, p.a}, {&p.two, p.b}} {
		*r.house = newHouse(t, pki, issuer, func(s *setup) {
			s.vaults, s.redis = []*chatdtest.Vault{r.vault}, client
			if change != nil {
				change(s)
			}
		})
	}
	awaitPresence(t, client, 0)
	awaitKeys(t, client, "cv:relay:*", 2)
	return p
}

func awaitKeys(t *testing.T, client redis.UniversalClient, pattern string, n int) {
	t.Helper()
	poll(t, pattern, func() bool { return len(chatdtest.Keys(t, client, pattern)) == n })
}

// awaitPresence waits until Redis knows so many connections.
func awaitPresence(t *testing.T, client redis.UniversalClient, connections int) {
	t.Helper()
	poll(t, "presence", func() bool {
		n := 0
		for _, key := range chatdtest.Keys(t, client, "cv:presence:*") {
			n += int(client.HLen(t.Context(), key).Val())
		}
		return n == connections
	})
}

func TestTwoRelaysOverRedis(t *testing.T) {
	eachRedis(t, func(t *testing.T, client redis.UniversalClient) {
		p := newPair(t, client, func(s *setup) {
			s.cfg.Limits.Set[ratelimit.OpensPerAccount] = ratelimit.Limit{Burst: 3, Count: 1, Period: time.Hour}
		})
		// A session moves to a relay that knows its node only from Redis.
		device := chatdtest.NewDevice(t)
		tablet := p.one.phone("alice")
		here := p.one.login("alice", device)
		s := here.Open(1, "x")
		awaitKeys(t, client, "cv:node:01000001", 1)
		awaitPresence(t, client, 2)
		there := p.two.login("alice", device)
		there.Send(frame.Attach{Tag: 1, Session: s})
		if got := chatdtest.Expect[frame.Attach](there); got.Session != s {
			t.Errorf("%+v", got)
		}
		there.Echo(s, 1, "x")
		// But new ones are opened only where the operator said.
		if other := there.Open(2, "x"); other.Node() != p.b.Hello.Node {
			t.Error("a session was opened on a node that only Redis named")
		}
		// The newer connection of a device replaces the older, which is told why.
		if _, code := here.Closed(); code != frame.Replaced.CloseCode() {
			t.Errorf("the older connection was closed with %d", code)
		}
		awaitPresence(t, client, 2)

		// Doorbells reach the account's connections on the other relay.
		there.Echo(s, 2, "ring")
		chatdtest.Expect[frame.Notice](tablet)

		// Limits count for both together: this is the third.
		tablet.Open(3, "x")
		there.Send(frame.Open{Tag: 4, Payload: []byte("x")})
		if r := chatdtest.Expect[frame.Refuse](there); r.Limit != ratelimit.OpensPerAccount {
			t.Errorf("%+v", r)
		}
	})
}

func TestADoorbellThatNoOtherDeviceHeardIsToldToTheApp(t *testing.T) {
	eachRedis(t, func(t *testing.T, client redis.UniversalClient) {
		told := make(chan ticket.Account, 8)
		p := newPair(t, client, func(s *setup) { s.unheard = func(a ticket.Account) { told <- a } })
		alone := p.one.phone("alice")
		s := alone.Open(1, "x")
		alone.Echo(s, 1, "ring")
		if got := <-told; got != (ticket.Account{Issuer: "app", Subject: "alice"}) {
			t.Errorf("told %+v", got)
		}
		there := p.two.phone("alice")
		awaitPresence(t, client, 2)
		alone.Echo(s, 2, "ring")
		chatdtest.Expect[frame.Notice](there)
		here := p.one.phone("alice")
		alone.Echo(s, 3, "ring")
		chatdtest.Expect[frame.Notice](here)
		chatdtest.Expect[frame.Notice](there)
		// One that must be told shows that nothing was told before it.
		bob := p.two.phone("bob")
		bob.Echo(bob.Open(1, "x"), 1, "ring")
		if got := <-told; got.Subject != "bob" {
			t.Errorf("told %+v, though another device heard", got)
		}
	})
}

func TestRedisStopsInMidway(t *testing.T) {
	server := chatdtest.StartRedis(t, "")
	h, _ := simple(t, func(s *setup) {
		s.redis = server.Client(t)
		s.cfg.Limits.Set[ratelimit.OpensPerAccount] = ratelimit.Limit{Burst: 2, Count: 1, Period: time.Hour}
	})
	device := chatdtest.NewDevice(t)
	c, watching := h.login("alice", device), h.phone("alice")
	s := c.Open(1, "x")
	server.Stop(t)

	c.Echo(s, 1, "existing sessions go on")
	other := h.phone("bob") // and clients come in
	other.Echo(other.Open(1, "x"), 1, "x")
	c.Echo(s, 2, "ring") // the doorbell rings here
	chatdtest.Expect[frame.Notice](watching)
	// Limits are counted here, from the start.
	c.Open(2, "x")
	c.Open(3, "x")
	c.Send(frame.Open{Tag: 4, Payload: []byte("x")})
	if r := chatdtest.Expect[frame.Refuse](c); r.Limit != ratelimit.OpensPerAccount {
		t.Errorf("%+v", r)
	}
	// A newer connection of a device wins without Redis, too.
	again := h.login("alice", device)
	if _, code := c.Closed(); code != frame.Replaced.CloseCode() {
		t.Errorf("the older connection was closed with %d", code)
	}

	server.Start(t)
	h.clock.Advance(time.Second)
	// It is back, and empty: the shared count begins anew.
	again.Open(5, "x")
}

// What a connect costs: one round trip, with two limits and the presence in it.
// What a frame costs: nothing, whether it is relayed or refused.
func TestWhatRedisIsAsked(t *testing.T) {
	eachRedis(t, func(t *testing.T, client redis.UniversalClient) {
		hook := &countingHook{}
		client.AddHook(hook)
		h, _ := simple(t, func(s *setup) { s.redis = client })
		first := h.phone("warm")
		s := first.Open(1, "x")
		awaitPresence(t, client, 1)
		awaitKeys(t, client, "cv:node:01000001", 1)
		awaitKeys(t, client, "cv:relay:*", 1)
		quiesce(t, hook)

		trips, commands := hook.trips.Load(), hook.commands.Load()
		const n = 20
		phones := make([]*chatdtest.Client, n)
		for i := range phones {
			phones[i] = h.phone(string(rune('a' + i)))
		}
		if more := hook.trips.Load() - trips; more != n && !firstOnNode(client, more, n) {
			t.Errorf("%d round trips for %d connects", more, n)
		}
		if more := hook.commands.Load() - commands; more != 3*n && !firstOnNode(client, more, 3*n) {
			t.Errorf("%d commands for %d connects", more, n)
		}
		quiesce(t, hook)

		trips, commands = hook.trips.Load(), hook.commands.Load()
		for n := uint32(1); n <= 50; n++ {
			first.Echo(s, n, "x")
		}
		first.Send(frame.Data{Session: frame.SessionID{1}, Payload: []byte("x")})
		chatdtest.Expect[frame.Refuse](first)
		if n := hook.commands.Load() - commands; n != 0 {
			t.Errorf("%d commands for 51 frames", n)
		}
		first.Open(2, "x")
		if hook.trips.Load() != trips+1 {
			t.Errorf("%d round trips for an OPEN", hook.trips.Load()-trips)
		}
	})
}

// firstOnNode: each node of a cluster learns the scripts from the first
// connect that it serves, which takes two more trips.
func firstOnNode(client redis.UniversalClient, more, n int64) bool {
	_, cluster := client.(*redis.ClusterClient)
	return cluster && more > n && more <= n+2*2*3
}

// quiesce waits until nothing was asked for a moment: what was under way in the
// background has ended.
func quiesce(t *testing.T, hook *countingHook) {
	t.Helper()
	last, since := hook.trips.Load(), time.Now()
	poll(t, "Redis is left alone", func() bool {
		if now := hook.trips.Load(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 50*time.Millisecond
	})
}
