package route

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
	"chatvault/protocol/frame"
)

func TestNoticesReachEveryOtherRelayWhereTheAccountIs(t *testing.T) {
	onAll(t, func(t *testing.T, c redis.UniversalClient, fake *clock.Fake) {
		one, two, three := start(t, c, fake), start(t, c, fake), start(t, c, fake)
		listening(t, one, two, three)
		one.enter(t, alice, phone)
		two.enter(t, alice, tablet)

		one.Notify(alice, phone, func() { t.Error("nobody heard it, it is said") })
		if got := <-two.rung; got != alice {
			t.Errorf("rang for %x", got)
		}
		// What comes back through Redis after it shows that nothing came before.
		two.Notify(alice, tablet, nil)
		<-one.rung
		for _, r := range []relay{one, two, three} {
			r.quiet(t)
		}
		one.stop()
		chatdtest.Await(t, "a relay that ended is gone", func() bool { return len(presence(t, c, alice)) == 1 })
		if keys := chatdtest.Keys(t, c, relayKey(one.self)); len(keys) != 0 {
			t.Errorf("it has left %v", keys)
		}
	})
}

// unheard rings and waits for what is done when nobody heard it.
func (r relay) unheard(t *testing.T, a Account, from Device) {
	t.Helper()
	posted := make(chan struct{})
	r.Notify(a, from, func() { close(posted) })
	select {
	case <-posted:
	case <-time.After(time.Minute):
		t.Fatal("nobody heard it, and nobody is told so")
	}
}

func TestANoticeThatNobodyHeardIsSaidToBeOne(t *testing.T) {
	onAll(t, func(t *testing.T, c redis.UniversalClient, fake *clock.Fake) {
		one, two := start(t, c, fake), start(t, c, fake)
		listening(t, one, two)
		one.unheard(t, alice, phone) // no connection at all

		// The device that asked does not count, wherever it is (A19).
		two.enter(t, alice, phone)
		one.unheard(t, alice, phone)

		// Neither does a connection of a relay that died without a word.
		two.stop()
		field := "00000000000000ff:02000000000000000000000000000000"
		lapses := "1:" + "99999999999999"
		if err := c.HSet(t.Context(), presenceKey(alice), field, lapses).Err(); err != nil {
			t.Fatal(err)
		}
		one.unheard(t, alice, phone)

		// But one that hears does, even if another notice waits with it.
		three := start(t, c, fake)
		listening(t, three)
		three.enter(t, alice, tablet)
		one.Notify(alice, phone, func() { t.Error("it was heard") })
		<-three.rung
	})
}

func TestTwoNoticesThatBecameOneAreUnheardOnlyTogether(t *testing.T) {
	d := newDirectory(redis.NewClient(&redis.Options{}), clock.System{}) // never asked
	heard := func() {}
	for name, c := range map[string]struct {
		first, second func()
		from          Device
		want          bool
	}{
		"both unheard":     {heard, heard, phone, true},
		"the first heard":  {nil, heard, phone, false},
		"the second heard": {heard, nil, phone, false},
		"other devices":    {heard, heard, tablet, true},
	} {
		clear(d.rings)
		d.Notify(alice, phone, c.first)
		d.Notify(alice, c.from, c.second)
		r := d.rings[alice]
		if len(d.rings) != 1 || (r.unheard != nil) != c.want || (r.from == phone) != (c.from == phone) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	dropped := 0
	for i := range maxRings + 3 {
		d.Notify(Account{byte(i), byte(i >> 8), 7}, phone, func() { dropped++ })
	}
	if len(d.rings) != maxRings || dropped != 4 || d.counts.Get("notice_not_sent") != 4 {
		t.Errorf("%d wait, %d were dropped, %d counted", len(d.rings), dropped, d.counts.Get("notice_not_sent"))
	}
}

func TestTheNewerConnectionOfADeviceReplacesTheOlder(t *testing.T) {
	onAll(t, func(t *testing.T, c redis.UniversalClient, fake *clock.Fake) {
		one, two := start(t, c, fake), start(t, c, fake)
		listening(t, one, two)
		older := one.enter(t, alice, phone)
		one.enter(t, alice, tablet)
		newer := two.enter(t, alice, phone)
		if newer <= older {
			t.Errorf("epochs %d, then %d, at the same moment", older, newer)
		}
		if m := <-one.replaced; m != (message{alice, phone, newer}) {
			t.Errorf("replaced %+v", m)
		}
		// The late delete of the older one leaves the newer one.
		one.Left(alice, phone, older)
		chatdtest.Await(t, "the older has gone", func() bool { return !one.known(t, alice, phone) })
		if !two.known(t, alice, phone) || !one.known(t, alice, tablet) {
			t.Errorf("left are %v", presence(t, c, alice))
		}
		one.quiet(t)
		two.quiet(t)
	})
}

func TestALateDeleteIsFenced(t *testing.T) {
	onAll(t, func(t *testing.T, c redis.UniversalClient, fake *clock.Fake) {
		// Not running: what it tells is told here, in the worst order.
		r := newDirectory(c, fake)
		first := r.connect(t, alice, phone)
		r.settled(t)
		r.Left(alice, phone, first)
		late := r.take()
		second := r.connect(t, alice, phone)
		if second <= first {
			t.Errorf("epochs %d, %d", first, second)
		}
		if len(late.places) != 1 || late.places[0].present {
			t.Fatalf("due: %+v", late.places)
		}
		if err := late.exec(t.Context(), Heard{}); err != nil {
			t.Fatal(err)
		}
		if !r.known(t, alice, phone) {
			t.Error("a late delete took the newer connection's presence")
		}
		r.Left(alice, phone, second)
		if err := r.take().exec(t.Context(), Heard{}); err != nil || r.known(t, alice, phone) {
			t.Errorf("its own delete: %v, %v", err, presence(t, c, alice))
		}
	})
}

func TestARefusedConnectionLeavesNothing(t *testing.T) {
	onAll(t, func(t *testing.T, c redis.UniversalClient, fake *clock.Fake) {
		one, two := start(t, c, fake), start(t, c, fake)
		listening(t, one, two)
		one.enter(t, alice, phone)
		refuse := func(r relay) {
			claim := r.Claim(alice, phone)
			pipe := c.Pipeline()
			claim.Queue(t.Context(), pipe)
			if _, err := pipe.Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
			claim.Drop()
		}
		refuse(two)
		chatdtest.Await(t, "it is gone", func() bool { return !two.known(t, alice, phone) })
		refuse(one)
		// The marker shows that what was due before it was told.
		one.enter(t, alice, tablet)
		if !one.known(t, alice, phone) {
			t.Error("a refused connection took an accepted one's presence")
		}
		one.quiet(t)
	})
}

func TestPresenceOfADeadRelayLapsesAndALiveOneIsToldAgain(t *testing.T) {
	onAll(t, func(t *testing.T, c redis.UniversalClient, fake *clock.Fake) {
		dead := newDirectory(c, fake)
		dead.connect(t, alice, tablet)
		dead.settled(t)
		r := start(t, c, fake)
		listening(t, r)
		r.enter(t, alice, phone)
		chatdtest.Await(t, "the dead one has lapsed", func() bool {
			beats(fake)
			for field, value := range presence(t, c, alice) {
				if relay, _, lapses, ok := parseField(field, value); ok && relay == r.self && lapses < fake.Now().UnixMilli() {
					t.Errorf("the living one lapsed at %v", fake.Now())
				}
			}
			return !dead.known(t, alice, tablet)
		})
		if !r.known(t, alice, phone) || fake.Now().Before(epoch0.Add(keep)) {
			t.Errorf("present: %v", presence(t, c, alice))
		}
		if ttl, err := c.PTTL(t.Context(), presenceKey(alice)).Result(); err != nil || ttl <= 0 || ttl > keep {
			t.Errorf("presence lapses in %v, %v", ttl, err)
		}
	})
}

func TestNodesAreFoundByOtherRelays(t *testing.T) {
	onAll(t, func(t *testing.T, c redis.UniversalClient, fake *clock.Fake) {
		one, two := start(t, c, fake), start(t, c, fake)
		node := frame.NodeID{1, 2, 3, 4}
		if addr, ok := two.FindNode(t.Context(), node); ok {
			t.Errorf("found an unknown node at %s", addr)
		}
		one.NodeUp(node, "10.0.0.7:7443")
		chatdtest.Await(t, "found", func() bool {
			addr, ok := two.FindNode(t.Context(), node)
			return ok && addr == "10.0.0.7:7443"
		})
		if ttl, err := c.PTTL(t.Context(), nodeKey(node)).Result(); err != nil || ttl <= 0 || ttl > nodeKeep {
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

// What others write into Redis can mislead, not break (A9).
func TestForgedPresenceIsDropped(t *testing.T) {
	onAll(t, func(t *testing.T, c redis.UniversalClient, fake *clock.Fake) {
		r := start(t, c, fake)
		listening(t, r)
		key := presenceKey(alice)
		if err := c.Set(t.Context(), key, "not a hash", 0).Err(); err != nil {
			t.Fatal(err)
		}
		r.unheard(t, Account{9}, phone)
		r.enter(t, alice, phone)
		far := "00000000000000ff:01000000000000000000000000000000"
		if err := c.HSet(t.Context(), key, far, "99999999999999999:99999999999999", "x", "y", "ff:01", "1:2:3").Err(); err != nil {
			t.Fatal(err)
		}
		before := r.connect(t, alice, phone)
		if before > Epoch(fake.Now().UnixMicro())+10 {
			t.Errorf("the epoch was led to %d", before)
		}
		if all := presence(t, c, alice); len(all) != 1 {
			t.Errorf("present: %v", all)
		}
		pipe := c.Pipeline()
		r.publish(t.Context(), pipe, r.self, "forged")
		r.publish(t.Context(), pipe, r.self, message{account: alice}.encode())
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := <-r.rung; got != alice || r.counts.Get("notice_malformed") != 1 {
			t.Errorf("rang for %x, %d malformed", got, r.counts.Get("notice_malformed"))
		}
		r.quiet(t)
		if len(r.changes) != 0 {
			t.Errorf("a forgery was taken for a failure: %v", <-r.changes)
		}
	})
}

func TestWithoutRedis(t *testing.T) {
	d := newDirectory(nil, clock.System{})
	e := d.Claim(alice, phone).Keep()
	if later := d.Claim(alice, phone).Keep(); later <= e {
		t.Errorf("epochs %d, %d", e, later)
	}
	posted := false
	d.Notify(alice, phone, func() { posted = true })
	d.NodeUp(frame.NodeID{1}, "a:1")
	if _, ok := d.FindNode(t.Context(), frame.NodeID{1}); ok || !posted {
		t.Errorf("found a node without Redis: %v; posted: %v", ok, posted)
	}
	d.Run(t.Context(), Heard{})
	if len(d.present)+len(d.rings)+len(d.nodes) != 0 {
		t.Error("it keeps what it can tell nobody")
	}
}
