package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/docker/stack"
)

// balancer passes connections on to the relays that say that they are ready, one
// after the other, as whoever balances an operator's load does.
type balancer struct {
	ln    net.Listener
	addrs []string
	next  atomic.Uint64

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func newBalancer(t *testing.T, addrs ...string) *balancer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{ln: ln, addrs: addrs, conns: map[net.Conn]struct{}{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { b.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		b.mu.Lock()
		for c := range b.conns {
			c.Close()
		}
		b.mu.Unlock()
		running.Wait()
	})
	return b
}

func (b *balancer) serve(near net.Conn) {
	defer near.Close()
	far := b.pick()
	if far == nil {
		return
	}
	defer far.Close()
	b.mu.Lock()
	b.conns[near], b.conns[far] = struct{}{}, struct{}{}
	b.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			io.Copy(way[0], way[1])
			way[0].(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
	b.mu.Lock()
	delete(b.conns, near)
	delete(b.conns, far)
	b.mu.Unlock()
}

// pick dials a relay that is ready, or returns nil.
func (b *balancer) pick() net.Conn {
	for range b.addrs {
		addr := b.addrs[b.next.Add(1)%uint64(len(b.addrs))]
		resp, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			continue
		}
		if c, err := net.Dial("tcp", addr); err == nil {
			return c
		}
	}
	return nil
}

// admin asks the admin listener of a daemon's latest life.
func (h *house) admin(d *stack.Daemon, path string) (int, string) {
	h.t.Helper()
	log, err := d.Logs()
	if err != nil {
		h.t.Fatal(err)
	}
	addr := ""
	for line := range bytes.Lines(log) {
		var l struct{ Msg, Address string }
		if json.Unmarshal(line, &l) == nil && l.Msg == "admin" {
			addr = l.Address
		}
	}
	resp, err := http.Get("http://" + addr + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// settled waits until every daemon is ready and every relay has both vaults: what
// an operator waits for between two restarts.
func (h *house) settled() {
	h.t.Helper()
	waiting := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		waiting = ""
		for _, d := range []*stack.Daemon{h.Vault, h.Second, h.Chatd, h.SecondChatd} {
			if code, body := h.admin(d, "/readyz"); code != http.StatusOK {
				waiting = d.LogFile + ": " + body
			}
		}
		for _, d := range []*stack.Daemon{h.Chatd, h.SecondChatd} {
			if _, body := h.admin(d, "/metrics"); !strings.Contains(body, "\nchatd_uplinks{state=\"up\"} 2\n") {
				waiting = d.LogFile + ": not both vaults"
			}
		}
		if waiting == "" {
			return
		}
	}
	h.t.Fatalf("not ready after a minute: %s", waiting)
}

// person types passwords on new phones, wrong ones at times, and checks that each
// verdict is about what was typed.
type person struct {
	h    *house
	name string
	key  client.BackupKey
	done atomic.Int64 // recoveries
}

// recovers types up to two wrong passwords and then the right one.
func (p *person) recovers(rnd *rand.Rand) error {
	wrong := rnd.IntN(3)
	phone := p.h.phone(p.name)
	defer phone.Close()
	for n := range wrong {
		_, err := phone.Recover(p.h.t.Context(), password(fmt.Sprintf("wrong %d", n)))
		var e *client.Error
		if !errors.Is(err, client.ErrWrongPassword) || !errors.As(err, &e) || e.AttemptsLeft != 9-n {
			return fmt.Errorf("wrong password %d of %d: %w\n%s", n+1, wrong, err, phone.log)
		}
	}
	got, err := phone.Recover(p.h.t.Context(), password("1234"))
	if err != nil {
		return fmt.Errorf("the right password: %w\n%s", err, phone.log)
	}
	if got.FailuresBefore != wrong || got.AttemptsLeft != 10 || !got.Key.Equal(p.key.Key) {
		return fmt.Errorf("%d wrong passwords were typed, recovered %+v\n%s", wrong, got, phone.log)
	}
	p.done.Add(1)
	return nil
}

// TestRollingRestart restarts both relays and both vaults, one after the other,
// while people recover. Nobody's recovery fails, and nobody is charged an attempt
// that was not typed.
func TestRollingRestart(t *testing.T) {
	store := etcd(t)
	h := start(t, func(o *stack.Options) {
		o.TwoVaults, o.TwoRelays, o.Redis = true, true, stack.RealRedis
		o.VaultArgs = append(o.VaultArgs, "--store", "etcd:"+store, "--admin", "127.0.0.1:0", "--drain", "20s")
		o.ChatdArgs = append(o.ChatdArgs, "--admin", "127.0.0.1:0", "--drain-delay", "200ms")
	})
	lb := newBalancer(t, h.ChatdAddr(), h.SecondChatdAddr())
	h.relay.target.Store(ptr(lb.ln.Addr().String()))
	h.settled()

	const crowd = 6
	var people []*person
	for i := range crowd {
		name := fmt.Sprintf("person-%d", i)
		people = append(people, &person{h: h, name: name, key: h.registered(name, "1234")})
	}
	over := make(chan struct{})
	var running sync.WaitGroup
	for i, p := range people {
		running.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 7))
			for {
				if err := p.recovers(rnd); err != nil {
					t.Errorf("%s: %v", p.name, err)
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
	for _, d := range []*stack.Daemon{h.Chatd, h.SecondChatd, h.Vault, h.Second} {
		before := total(people)
		if err := d.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if err := d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.settled()
		t.Logf("%s: %d recoveries meanwhile", d.LogFile, total(people)-before)
	}
	close(over)
	running.Wait()
	for _, p := range people {
		s, err := h.phone(p.name).Status(t.Context())
		if err != nil || s.AttemptsLeft != 10 {
			t.Errorf("%s: %+v, %v", p.name, s, err)
		}
	}
	if total(people) < 2*crowd {
		t.Errorf("only %d recoveries: the restarts met no load", total(people))
	}
}

func total(people []*person) (n int64) {
	for _, p := range people {
		n += p.done.Load()
	}
	return n
}
