package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/docker/redistest"
	"chatvault/docker/stack"
)

// crowd are people who recover over and over through two relays.
type crowd struct {
	t      *testing.T
	people []*person
	stop   func() // and waits
}

func (h *house) crowd(n int) *crowd {
	h.t.Helper()
	lb := newBalancer(h.t, h.ChatdAddr(), h.SecondChatdAddr())
	h.relay.target.Store(ptr(lb.ln.Addr().String()))
	c := &crowd{t: h.t}
	for i := range n {
		name := fmt.Sprintf("person-%d", i)
		c.people = append(c.people, &person{h: h, name: name, key: h.registered(name, "1234")})
	}
	over := make(chan struct{})
	var running sync.WaitGroup
	for i, p := range c.people {
		running.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 11))
			for {
				if err := p.recovers(rnd); err != nil {
					h.t.Errorf("%s: %v", p.name, err)
					return
				}
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	c.stop = sync.OnceFunc(func() { close(over); running.Wait() })
	h.t.Cleanup(c.stop)
	return c
}

// goesOn waits until everybody, on average, has recovered twice more.
func (c *crowd) goesOn(while string) {
	c.t.Helper()
	began, before := time.Now(), total(c.people)
	redistest.Await(c.t, "recoveries while "+while, func() bool {
		return c.t.Failed() || total(c.people) >= before+2*int64(len(c.people))
	})
	c.t.Logf("%s: %d recoveries in %v", while, total(c.people)-before, time.Since(began).Round(time.Millisecond))
}

// uncharged wants that nobody was charged what was not typed.
func (c *crowd) uncharged(h *house) {
	c.t.Helper()
	c.stop()
	for _, p := range c.people {
		s, err := h.phone(p.name).Status(c.t.Context())
		if err != nil || s.AttemptsLeft != 10 {
			c.t.Errorf("%s: %+v, %v", p.name, s, err)
		}
	}
}

// twoRelays is a house with two relays on a Redis of its own, which counts for
// them limits that nobody here reaches.
func twoRelays(t *testing.T, url string) *house {
	const wide = "=100000/100000/1m"
	return start(t, func(o *stack.Options) {
		o.TwoRelays = true
		o.ChatdArgs = append(o.ChatdArgs, "--redis", url, "--admin", "127.0.0.1:0",
			"--limit", "OpensPerAccount"+wide+",ConnectionsPerAccount"+wide+",OpensPerDevice"+wide+",ConnectionsPerDevice"+wide)
	})
}

// relaysAgree waits until both relays say of Redis, for routes and for limits, what
// is wanted.
func (h *house) relaysAgree(up string) {
	h.t.Helper()
	redistest.Await(h.t, "both relays say up="+up, func() bool {
		for _, d := range []*stack.Daemon{h.Chatd, h.SecondChatd} {
			_, body := h.admin(d, "/metrics")
			for _, use := range []string{"routes", "limits"} {
				if !strings.Contains(body, "\nchatd_redis_up{use=\""+use+"\"} "+up+"\n") {
					return false
				}
			}
		}
		return true
	})
}

// slowLink is a way to a Redis on which each answer takes a while longer.
type slowLink struct {
	ln    net.Listener
	later atomic.Int64 // nanoseconds
}

func newSlowLink(t *testing.T, socket string) *slowLink {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &slowLink{ln: ln}
	over := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", socket)
			if err != nil {
				near.Close()
				continue
			}
			end := sync.OnceFunc(func() { near.Close(); far.Close() })
			running.Go(func() { defer end(); io.Copy(far, near) })
			running.Go(func() { defer end(); l.answers(near, far, over) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		close(over)
		running.Wait()
	})
	return l
}

func (l *slowLink) url() string { return "redis://" + l.ln.Addr().String() }

// answers passes on what Redis says, later.
func (l *slowLink) answers(to io.Writer, from io.ReadCloser, over <-chan struct{}) {
	go func() { <-over; from.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		late := time.NewTimer(time.Duration(l.later.Load()))
		select {
		case <-late.C:
		case <-over:
		}
		late.Stop()
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A slow Redis holds nobody up for long: relays wait a little, then go on alone for
// a while, each with limits of its own.
func TestRedisIsSlowInMidLoad(t *testing.T) {
	server := redistest.Single(t, "")
	t.Cleanup(server.Close)
	link := newSlowLink(t, server.Servers[0].Socket)
	h := twoRelays(t, link.url())
	c := h.crowd(4)
	c.goesOn("Redis is well")
	h.relaysAgree("1")
	link.later.Store(int64(100 * time.Millisecond))
	c.goesOn("Redis takes 100 ms")
	link.later.Store(int64(2 * time.Second))
	h.relaysAgree("0")
	c.goesOn("Redis takes 2 s")
	link.later.Store(0)
	h.relaysAgree("1")
	c.goesOn("Redis is fast again")
	c.uncharged(h)
}

// Redis is paused, emptied, killed and started again while people recover through
// two relays. Nobody's recovery fails, and nobody is charged what was not typed.
func TestRedisFailsInMidLoad(t *testing.T) {
	server := redistest.Single(t, "")
	t.Cleanup(server.Close)
	h := twoRelays(t, server.URL())
	c := h.crowd(4)
	c.goesOn("Redis is well")
	h.relaysAgree("1")

	redis := server.Servers[0]
	redis.Pause(t)
	h.relaysAgree("0")
	c.goesOn("Redis is paused")
	redis.Resume(t)
	h.relaysAgree("1")

	redis.Do(t, "FLUSHALL")
	c.goesOn("Redis was emptied")

	redis.Kill(t)
	h.relaysAgree("0")
	c.goesOn("Redis is gone")
	redis.Start(t)
	h.relaysAgree("1")
	c.goesOn("Redis is back")
	c.uncharged(h)
}

// The part of Redis that matters most dies for good, while people recover.
func TestRedisFailsOverInMidLoad(t *testing.T) {
	for name, begin := range map[string]func(testing.TB) *redistest.Site{
		"sentinel": redistest.Sentinels, "cluster": redistest.Cluster,
	} {
		t.Run(name, func(t *testing.T) {
			site := begin(t)
			t.Cleanup(site.Close)
			h := twoRelays(t, site.URL())
			c := h.crowd(4)
			c.goesOn("Redis is well")
			site.Stop(t)
			c.goesOn("Redis fails over")
			redistest.Await(t, "another master", func() bool {
				for _, p := range site.Servers[1:] {
					if p.IsMaster(t) && (name == "sentinel" || p == site.Servers[3]) {
						return true
					}
				}
				return false
			})
			h.relaysAgree("1")
			c.goesOn("Redis has failed over")
			if name == "cluster" {
				// A second master dies, and nothing takes its place.
				site.Servers[1].Kill(t)
				c.goesOn("a third of the keys is gone")
			}
			c.uncharged(h)
		})
	}
}
