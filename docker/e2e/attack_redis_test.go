package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"chatvault/docker/stack"
	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
)

// redisOf is whoever got hold of the fleet's Redis.
func redisOf(t *testing.T, h *house) *redis.Client {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.Dir, "chatd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if url, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "redis: "); ok {
			o, err := redis.ParseURL(url)
			if err != nil {
				t.Fatal(err)
			}
			c := redis.NewClient(o)
			t.Cleanup(func() { c.Close() })
			return c
		}
	}
	t.Fatal("chatd has no Redis")
	return nil
}

// TestRedisLostOrForged is A9, with a real redis-server: it is flushed, and filled
// with lies, while somebody recovers. At worst somebody has to come again; nothing is
// charged that was not typed, and nothing is told to anybody.
func TestRedisLostOrForged(t *testing.T) {
	t.Parallel()
	h := start(t, func(o *stack.Options) {
		o.Redis = stack.RealRedis
		o.ChatdArgs = append(o.ChatdArgs, "--limit", "ConnectionsPerAccount=1000/1/1s") // there is one, and a wide one
	})
	key := h.registered("anna", "1234")
	db := redisOf(t, h)
	d := h.device(t, "anna")
	s := h.talk(t, h.as(t, d))
	must(t, s.ask(s.authorise(d, d.ticket(t))))
	goesOn := func(when string) {
		t.Helper()
		if _, left := s.status(); left != 10 {
			t.Errorf("%s: %d left", when, left)
		}
	}
	recovers := func(when string) {
		t.Helper()
		if got, err := h.phone("anna").Recover(t.Context(), password("1234")); err != nil || !got.Key.Equal(key.Key) {
			t.Errorf("%s: %v", when, err)
		}
		goesOn(when)
	}
	recovers("before")

	flush := func() {
		t.Helper()
		if err := db.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		flush()
		goesOn(fmt.Sprint("flush ", round))
		w := h.as(t, d)
		w.send(frame.Attach{Tag: 5, Session: s.id})
		expect[frame.Attach](t, w)
		s.c = w
		recovers(fmt.Sprint("after flush ", round))
	}

	// The counts of devices that have just come, of which the last is returned.
	forge := func(value any) (last device) {
		t.Helper()
		var keys []string
		for deadline := time.Now().Add(patience); len(keys) == 0; {
			last = h.device(t, "anna")
			h.as(t, last)
			var err error
			if keys, err = db.Keys(t.Context(), "cv:limit:*").Result(); err != nil || time.Now().After(deadline) {
				t.Fatalf("no limits in Redis: %v", err)
			}
		}
		for _, k := range keys {
			if err := db.Set(t.Context(), k, value, 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		return last
	}
	limited := forge(time.Now().Add(time.Hour).UnixMicro()) // used up for an hour
	goesOn("with limits that are used up")
	w := h.wire(t)
	w.send(w.auth(limited, limited.ticket(t)))
	switch f, err := w.next(); f := f.(type) {
	case frame.Refuse: // the worst that a forged limit can do
		if f.Status != frame.RateLimited {
			t.Errorf("with limits that are used up: %+v", f)
		}
	case frame.Ready: // chatd does not wait for a Redis that is slow
	default:
		t.Errorf("with limits that are used up: %#v, %v", f, err)
	}
	goesOn("after that refusal")
	flush()
	forge("no number")
	recovers("with limits that are no numbers")
	flush()

	forgedRoutes(t, h, db, d, s)
	recovers("after all that")
}

// forgedRoutes has Redis name a false vault as the node of a session: one without a
// certificate, and one with the genuine certificate of a vault.
func forgedRoutes(t *testing.T, h *house, db *redis.Client, d device, s *talk) {
	for _, insider := range []bool{false, true} {
		v := newNaiveVault(t)
		if insider {
			v.vaultOf(h)
		} else { // a certificate of another authority
			stranger := httptest.NewTLSServer(nil)
			stranger.Close()
			v.tls = stranger.TLS
			close(v.ready)
		}
		id := s.id
		copy(id[:], []byte{9, 9, 9, 9}) // the node that it will say it is
		if err := db.Set(t.Context(), "cv:node:09090909", v.ln.Addr().String(), 0).Err(); err != nil {
			t.Fatal(err)
		}
		w := h.as(t, d)
		w.send(frame.Attach{Tag: 7, Session: id})
		f, err := w.next()
		uplinks, attaches, _ := v.has()
		switch answer := f.(type) {
		case frame.Attach: // misrouted; from here on nothing that is said can be read
			if !insider {
				t.Error("a vault without a certificate was believed")
			}
			s.seal(vaultmsg.EncodeRequest(vaultmsg.StatusRequest{}))
			w.send(frame.Data{Session: id, Sequence: s.last.Sequence, Payload: s.last.Payload})
			expect[frame.Close](t, w)
		case frame.Refuse:
			if insider || uplinks+attaches > 0 {
				t.Errorf("refused with %v; the false vault has %d uplinks, %d ATTACHes", answer.Status, uplinks, attaches)
			}
		default:
			t.Errorf("%#v, %v", f, err)
		}
		if insider {
			// What was misrouted goes to the true vault next, byte for byte.
			back := h.as(t, d)
			back.send(frame.Attach{Tag: 8, Session: s.id})
			expect[frame.Attach](t, back)
			s.c = back
			s.c.send(s.last)
			if r := s.answer(); r.Status != frame.OK || r.Left != 10 {
				t.Errorf("after the detour: %+v", r)
			}
		}
		// Nobody's new session goes where Redis says.
		for range 10 {
			h.untouchedBy(t, h.device(t, "anna"))
		}
		if _, _, requests := v.has(); requests != 0 {
			t.Errorf("the false vault has read %d requests", requests)
		}
	}
}

// untouchedBy opens a session with the pinned keys and reads the status in it.
func (h *house) untouchedBy(t *testing.T, d device) {
	t.Helper()
	w := h.as(t, d)
	s := h.talk(t, w)
	must(t, s.ask(s.authorise(d, d.ticket(t))))
	if _, left := s.status(); left != 10 {
		t.Errorf("%d left", left)
	}
	w.send(frame.Close{Session: s.id})
	w.ws.Close()
}

// TestFalseVaultBehindTheRelay is A9 and A10 at their worst: all sessions go to a
// false vault that has a genuine certificate. A client that takes the vault's word for
// its key tells it its ticket, and gets its password evaluated; ours, whose key is
// pinned, says nothing that could be read.
func TestFalseVaultBehindTheRelay(t *testing.T) {
	t.Parallel()
	h, v := naiveHouse(t)
	(&arena{t: t, h: h, sub: "anna"}).registers()
	_, _, before := v.has()
	naiveClient := &arena{t: t, h: h, sub: "anna"}
	if r := naiveClient.try("1234").ke1(naiveClient.session()); r.Status != frame.OK {
		t.Fatalf("the false vault does not even catch a client that asks it for its key: %v", r.Status)
	}
	_, _, after := v.has()
	if after <= before {
		t.Fatal("nothing was read")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := h.phone("anna").Recover(ctx, password("1234")); err == nil {
		t.Error("recovered from a false vault")
	}
	if _, _, now := v.has(); now != after {
		t.Errorf("the false vault has read %d requests of a client that pins the key", now-after)
	}
}
