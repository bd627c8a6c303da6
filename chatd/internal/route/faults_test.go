package route

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
	"chatvault/protocol/frame"
)

func (r relay) failing(t *testing.T) {
	t.Helper()
	if err := <-r.changes; err == nil {
		t.Error("it answers again, before it failed")
	}
}

// recovered lets time pass until it answers again.
func (r relay) recovered(t *testing.T, fake *clock.Fake) {
	t.Helper()
	chatdtest.Await(t, "it answers again", func() bool {
		select {
		case err := <-r.changes:
			if err != nil {
				t.Errorf("it did not come back: %v", err)
			}
			return true
		default:
			fake.Advance(restFor)
			return false
		}
	})
}

func TestRedisStoppedAndBack(t *testing.T) {
	server := chatdtest.StartRedis(t, "")
	fake := clock.NewFake(epoch0)
	r := start(t, server.Client(t), fake)
	listening(t, r)
	first := r.enter(t, alice, phone)

	server.Stop(t)
	if _, ok := r.FindNode(t.Context(), frame.NodeID{1}); ok {
		t.Error("found a node in a Redis that is gone")
	}
	r.failing(t)
	if second := r.connect(t, alice, phone); second <= first {
		t.Errorf("without Redis: epochs %d, %d", first, second)
	}
	r.connect(t, alice, tablet) // nobody waits
	r.unheard(t, alice, phone)

	server.Start(t)
	r.recovered(t, fake)
	chatdtest.Await(t, "present again", func() bool { return r.known(t, alice, phone) && r.known(t, alice, tablet) })
	listening(t, r)
}

func TestRedisPaused(t *testing.T) {
	server := chatdtest.StartRedis(t, "")
	fake := clock.NewFake(epoch0)
	one, two := start(t, server.Client(t), fake), start(t, server.Client(t), fake)
	listening(t, one, two)
	one.enter(t, alice, phone)
	server.Servers[0].Pause(t)
	began := time.Now()
	if _, ok := one.FindNode(t.Context(), frame.NodeID{1}); ok {
		t.Error("found a node in a Redis that is paused")
	}
	if took := time.Since(began); took > 6*wait { // the client itself would wait for a minute
		t.Errorf("a paused Redis was waited for %v", took)
	}
	one.failing(t)
	one.unheard(t, alice, phone)
	server.Servers[0].Resume(t)
	one.recovered(t, fake)
	two.enter(t, alice, tablet)
	two.Notify(alice, tablet, nil)
	if got := <-one.rung; got != alice {
		t.Errorf("rang for %x", got)
	}
}

// The next beat notices, long before presence is told again anyway.
func TestRedisFlushed(t *testing.T) {
	onAll(t, func(t *testing.T, c redis.UniversalClient, fake *clock.Fake) {
		r := start(t, c, fake)
		listening(t, r)
		node := frame.NodeID{7}
		r.NodeUp(node, "10.0.0.7:7443")
		before := r.enter(t, alice, phone)
		chatdtest.Await(t, "the mark", func() bool { return len(chatdtest.Keys(t, c, relayKey(r.self))) == 1 })
		chatdtest.Flush(t, c)
		flushed := fake.Now()
		chatdtest.Await(t, "all is known again", func() bool {
			beats(fake)
			_, ok := r.FindNode(t.Context(), node)
			return ok && r.known(t, alice, phone)
		})
		if took := fake.Now().Sub(flushed); took >= refresh-beat {
			t.Errorf("it took %v", took)
		}
		if after := r.enter(t, alice, phone); after <= before {
			t.Errorf("the epoch fell from %d to %d", before, after)
		}
		if r.counts.Get("redis_flushed") != 1 || len(r.changes) != 0 {
			t.Errorf("%d flushes counted, %d changes told", r.counts.Get("redis_flushed"), len(r.changes))
		}
	})
}

// survives plays what must hold again after a part of Redis died for good, by
// the real clock: it is what the failovers of Redis go by.
func survives(t *testing.T, s chatdtest.RedisSite, kill func()) {
	one, two := start(t, s.Client(t), clock.System{}), start(t, s.Client(t), clock.System{})
	listening(t, one, two)
	accounts := make([]Account, 32) // in every part of a cluster
	for i := range accounts {
		accounts[i] = Account{byte(37 * i), byte(i)}
		one.enter(t, accounts[i], phone)
	}
	s.InStep(t)
	kill()
	var last error
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(last)
			s.Log(t)
		}
	})
	chatdtest.Await(t, "two finds every presence", func() bool {
		for _, a := range accounts {
			all, err := two.Client.HGetAll(t.Context(), presenceKey(a)).Result()
			if last = err; err != nil || len(all) != 1 {
				return false
			}
		}
		return true
	})
	for _, a := range accounts {
		// Until the new place is found by both, a notice may be lost: a phone
		// asks at each connect.
		chatdtest.Await(t, "a notice arrives", func() bool {
			two.Notify(a, tablet, nil)
			for late := time.After(300 * time.Millisecond); ; {
				select {
				case got := <-one.rung:
					if got == a {
						return true
					}
				case <-late:
					return false
				}
			}
		})
	}
	newer := two.enter(t, accounts[0], phone)
	chatdtest.Await(t, "the older one is told", func() bool {
		select {
		case m := <-one.replaced:
			return m == message{accounts[0], phone, newer}
		default:
			return false
		}
	})
}

func TestSentinelFailover(t *testing.T) {
	s := chatdtest.StartSentinels(t)
	survives(t, s, func() { s.Stop(t) })
	if !s.Servers[1].IsMaster(t) && !s.Servers[2].IsMaster(t) {
		t.Error("it works, but no other server is the master")
	}
}

func TestClusterFailover(t *testing.T) {
	s := chatdtest.StartCluster(t)
	survives(t, s, func() { s.Stop(t) })
	if !s.Servers[3].IsMaster(t) {
		t.Error("it works, but the replica is not a master")
	}
}

// A connect costs one pipeline of which presence is one command. A second
// connection of a device, a refused one and the end cost one more each.
func TestCommandsPerConnect(t *testing.T) {
	server := chatdtest.StartRedis(t, "")
	c := server.Client(t)
	r := start(t, c, clock.NewFake(epoch0))
	listening(t, r)
	r.enter(t, Account{1}, phone) // now the scripts are known
	e := r.connect(t, Account{2}, phone)
	r.Left(Account{2}, phone, e)
	chatdtest.Await(t, "left", func() bool { return !r.known(t, Account{2}, phone) })

	before := chatdtest.Commands(t, c)
	const n = 100
	for i := range n {
		r.connect(t, Account{byte(i), 1}, phone)
	}
	more := chatdtest.More(before, chatdtest.Commands(t, c))
	// What a script calls is counted as well.
	want := map[string]int{"evalsha": n, "time": 0, "hgetall": n, "hset": n, "pexpire": n}
	for name, calls := range want {
		if more[name] != calls {
			t.Errorf("%d connects: %d × %s, want %d", n, more[name], name, calls)
		}
		delete(more, name)
	}
	delete(more, "info") // of the count itself
	if len(more) != 0 {
		t.Errorf("%d connects cost also %v", n, more)
	}
}
