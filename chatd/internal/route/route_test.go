package route

import (
	"context"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
	"chatvault/protocol/frame"
)

var alice = Account(sha256.Sum256([]byte("alice")))

// relay is one relay's Directory, running.
type relay struct {
	*Directory
	rung    chan Account
	changes chan error
	stop    func()
}

func start(t *testing.T, client redis.UniversalClient, c clock.Clock) relay {
	t.Helper()
	r := relay{rung: make(chan Account, 16), changes: make(chan error, 16)}
	r.Directory = New(client, c, func(err error) { r.changes <- err })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx, func(a Account) { r.rung <- a })
	}()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(r.stop)
	return r
}

// until polls a state of Redis that arrives by itself.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it never happened: %s", what)
		}
	}
}

func onBoth(t *testing.T, suite func(t *testing.T, c *redis.Client, fake *clock.Fake)) {
	for name, connect := range chatdtest.Redises {
		t.Run(name, func(t *testing.T) {
			suite(t, connect(t), clock.NewFake(time.Unix(1_700_000_000, 0)))
		})
	}
}

func members(t *testing.T, c *redis.Client, a Account) []string {
	t.Helper()
	m, err := c.ZRange(t.Context(), presenceKey(a), 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func subscribed(t *testing.T, c *redis.Client, relays ...relay) {
	t.Helper()
	until(t, "every relay listens", func() bool {
		for _, r := range relays {
			n, err := c.PubSubNumSub(t.Context(), noticeChannel(r.self)).Result()
			if err != nil || n[noticeChannel(r.self)] != 1 {
				return false
			}
		}
		return true
	})
}

func TestNoticesReachEveryOtherRelayWhereTheAccountIs(t *testing.T) {
	onBoth(t, func(t *testing.T, c *redis.Client, fake *clock.Fake) {
		one, two, three := start(t, c, fake), start(t, c, fake), start(t, c, fake)
		subscribed(t, c, one, two, three)
		one.Present(alice)
		two.Present(alice)
		until(t, "both are present", func() bool { return len(members(t, c, alice)) == 2 })

		one.Notify(alice)
		if got := <-two.rung; got != alice {
			t.Errorf("rang for %x", got)
		}
		// What comes back through Redis after it shows that nothing came before.
		two.Notify(alice)
		<-one.rung
		if len(one.rung)+len(two.rung)+len(three.rung) != 0 {
			t.Error("a relay rang for itself, or where the account is not")
		}

		two.Absent(alice)
		until(t, "one is present", func() bool { return len(members(t, c, alice)) == 1 })
		one.stop()
		until(t, "a relay that ended is gone", func() bool { return len(members(t, c, alice)) == 0 })
	})
}

func TestPresenceOfADeadRelayLapsesAndALiveOneIsToldAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, c *redis.Client, fake *clock.Fake) {
		r := start(t, c, fake)
		subscribed(t, c, r)
		r.Present(alice)
		until(t, "present", func() bool { return len(members(t, c, alice)) == 1 })
		stale := redis.Z{Score: float64(fake.Now().Add(keep).UnixMilli()), Member: "dead"}
		if err := c.ZAdd(t.Context(), presenceKey(alice), stale).Err(); err != nil {
			t.Fatal(err)
		}
		deadCalls := c.Subscribe(t.Context(), noticeChannel("dead"))
		defer deadCalls.Close()
		if _, err := deadCalls.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}

		r.Notify(alice)
		if _, err := deadCalls.ReceiveMessage(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.FlushDB(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.ZAdd(t.Context(), presenceKey(alice), stale).Err(); err != nil {
			t.Fatal(err)
		}
		fake.Advance(keep + time.Millisecond)
		until(t, "present again after the flush", func() bool {
			n, err := c.ZScore(t.Context(), presenceKey(alice), r.self).Result()
			return err == nil && int64(n) > fake.Now().UnixMilli()
		})
		other := start(t, c, fake)
		other.Notify(alice)
		<-r.rung
		if err := c.Publish(t.Context(), noticeChannel("dead"), "marker").Err(); err != nil {
			t.Fatal(err)
		}
		if m, err := deadCalls.ReceiveMessage(t.Context()); err != nil || m.Payload != "marker" {
			t.Errorf("a relay whose presence lapsed was told: %v, %v", m, err)
		}
	})
}

func TestNodesAreFoundByOtherRelays(t *testing.T) {
	onBoth(t, func(t *testing.T, c *redis.Client, fake *clock.Fake) {
		one, two := start(t, c, fake), start(t, c, fake)
		node := frame.NodeID{1, 2, 3, 4}
		if addr, ok := two.FindNode(t.Context(), node); ok {
			t.Errorf("found an unknown node at %s", addr)
		}
		one.NodeUp(node, "10.0.0.7:7443")
		until(t, "found", func() bool {
			addr, ok := two.FindNode(t.Context(), node)
			return ok && addr == "10.0.0.7:7443"
		})
		if ttl, err := c.PTTL(t.Context(), nodeKey(node)).Result(); err != nil || ttl <= 0 || ttl > keep {
			t.Errorf("a node lapses in %v, %v", ttl, err)
		}
		if err := c.Set(t.Context(), nodeKey(node), "no address", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if addr, ok := two.FindNode(t.Context(), node); ok {
			t.Errorf("a forged value was taken for an address: %s", addr)
		}
		one.NodeDown(node)
		if len(two.changes) != 0 {
			t.Errorf("a missing key was taken for a failure: %v", <-two.changes)
		}
	})
}

func TestRedisStoppedAndBack(t *testing.T) {
	server := chatdtest.StartRedis(t, "")
	c := server.Client(t)
	fake := clock.NewFake(time.Unix(1_700_000_000, 0))
	r := start(t, c, fake)
	subscribed(t, c, r)
	r.Present(alice)
	until(t, "present", func() bool { return len(members(t, c, alice)) == 1 })

	server.Stop(t)
	if _, ok := r.FindNode(t.Context(), frame.NodeID{1}); ok {
		t.Error("found a node in a Redis that is gone")
	}
	if err := <-r.changes; err == nil {
		t.Error("the failure was not told")
	}
	r.Notify(alice) // nobody waits for it

	server.Start(t)
	fake.Advance(refresh)
	if err := <-r.changes; err != nil {
		t.Errorf("it did not come back: %v", err)
	}
	until(t, "present again", func() bool { return len(members(t, c, alice)) == 1 })
	subscribed(t, c, r)
}

func TestWithoutRedis(t *testing.T) {
	d := New(nil, clock.System{}, func(err error) { t.Error(err) })
	d.Present(alice)
	d.Notify(alice)
	d.NodeUp(frame.NodeID{1}, "a:1")
	if _, ok := d.FindNode(t.Context(), frame.NodeID{1}); ok {
		t.Error("found a node without Redis")
	}
	d.Run(t.Context(), func(Account) { t.Error("rang") })
	if len(d.present)+len(d.rings)+len(d.nodes) != 0 {
		t.Error("it keeps what it can tell nobody")
	}
}
