//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chatvault/protocol/ticket"
)

// order is what the benchmark wants of an agent.
type order struct {
	Do      string  `json:"do"`
	Addr    string  `json:"addr,omitempty"`
	Kind    string  `json:"kind,omitempty"`
	TLS     bool    `json:"tls,omitempty"`
	First   int     `json:"first,omitempty"` // account
	Count   int     `json:"count,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	How     string  `json:"how,omitempty"`
}

// answer is what came of it.
type answer struct {
	Error   string  `json:"error,omitempty"`
	Frames  int64   `json:"frames,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	P50     float64 `json:"p50_us,omitempty"`
	Pings   int64   `json:"pings,omitempty"`
	Back    int     `json:"back,omitempty"`
	Retries int64   `json:"retries,omitempty"`
	Work    int64   `json:"work,omitempty"`
	Records int64   `json:"records,omitempty"`
	Addr    string  `json:"addr,omitempty"`
	Echo    string  `json:"echo,omitempty"`
}

// clients is the role of a process that plays many phones.
type clients struct {
	tls     *tls.Config
	device  ticket.DeviceKey
	tickets []string

	phones []*phone
	pings  atomic.Int64
	storm  *storm
}

// Files that the benchmark leaves for its clients.
const (
	deviceFile  = "device.pem"
	ticketsFile = "tickets"
	caFile      = "client-ca.pem"
)

// runClients obeys as clients.
func runClients(dir string) error {
	c := &clients{}
	pem, err := os.ReadFile(filepath.Join(dir, deviceFile))
	if err != nil {
		return err
	}
	if c.device, err = ticket.ParseDeviceKeyPEM(pem); err != nil {
		return err
	}
	tickets, err := os.ReadFile(filepath.Join(dir, ticketsFile))
	if err != nil {
		return err
	}
	c.tickets = strings.Fields(string(tickets))
	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return errors.New("no certificate of the authority")
	}
	c.tls = &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
	return obey(c.do)
}

func (c *clients) do(o order) (answer, error) {
	switch o.Do {
	case "connect": // Count phones, evenly over Seconds; How: "", "use" or "open"
		return c.connect(o)
	case "echo": // all phones, each as fast as it can, for so many Seconds
		return c.echo(time.Duration(o.Seconds * float64(time.Second)))
	case "hold": // answer pings in the background
		for _, p := range c.phones {
			go c.hold(p)
		}
		return answer{}, nil
	case "pings": // how many were answered
		return answer{Pings: c.pings.Load()}, nil
	case "survive": // who is cut off comes back at Addr
		c.storm = newStorm(c, o)
		return answer{}, nil
	case "back": // wait until all are, Seconds at most
		return c.storm.wait(time.Duration(o.Seconds * float64(time.Second)))
	case "stuck": // all phones do something that hurts, and never read
		for _, p := range c.phones {
			go p.stuck(o.How)
		}
		return answer{}, nil
	case "close":
		for _, p := range c.phones {
			p.conn.Close()
		}
		c.phones = nil
		return answer{}, nil
	}
	return answer{}, fmt.Errorf("no such order")
}

// dialers is how many phones connect at a time.
const dialers = 32

func (c *clients) connect(o order) (answer, error) {
	began := time.Now()
	all := make([]*phone, o.Count)
	errs := make([]error, dialers)
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range dialers {
		wg.Go(func() {
			for errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= o.Count {
					return
				}
				due := time.Duration(o.Seconds * float64(time.Second) * float64(i) / float64(o.Count))
				time.Sleep(time.Until(began.Add(due)))
				all[i], errs[w] = c.begin(o, o.First+i)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return answer{}, err
	}
	c.phones = append(c.phones, all...)
	return answer{Seconds: time.Since(began).Seconds()}, nil
}

func (c *clients) begin(o order, i int) (*phone, error) {
	p, err := c.dial(context.Background(), o, i)
	if err != nil {
		return nil, err
	}
	switch {
	case o.How == "use":
		err = p.use()
	case o.How == "open" && p.kind == kindRelay:
		if err = p.open(); err == nil {
			err = p.roundTrip()
		}
	}
	return p, err
}

// echo counts round trips; with one phone it measures them too.
func (c *clients) echo(d time.Duration) (answer, error) {
	var over atomic.Bool
	var frames atomic.Int64
	var times []time.Duration
	errs := make([]error, len(c.phones))
	began := time.Now()
	stop := time.AfterFunc(d, func() { over.Store(true) })
	defer stop.Stop()
	var wg sync.WaitGroup
	for i, p := range c.phones {
		wg.Go(func() {
			n := int64(0)
			for !over.Load() && errs[i] == nil {
				sent := time.Now()
				errs[i] = p.roundTrip()
				n++
				if len(c.phones) == 1 {
					times = append(times, time.Since(sent))
				}
			}
			frames.Add(n)
		})
	}
	wg.Wait()
	a := answer{Frames: frames.Load(), Seconds: time.Since(began).Seconds()}
	if slices.Sort(times); len(times) > 0 {
		a.P50 = float64(times[len(times)/2]) / float64(time.Microsecond)
	}
	return a, errors.Join(errs...)
}

// hold answers pings until the connection ends.
func (c *clients) hold(p *phone) {
	var pong []byte
	for {
		opcode, b, err := p.next()
		if err != nil {
			return
		}
		if opcode == opPing {
			c.pings.Add(1)
			pong = appendMasked(pong[:0], opPong, b)
			if _, err := p.conn.Write(pong); err != nil {
				return
			}
		}
	}
}

// stuck sends, and never reads, until the server ends the connection.
func (p *phone) stuck(how string) {
	var b []byte
	switch how {
	case "messages":
		b = slices.Repeat(p.message, 64)
	case "pings":
		b = slices.Repeat(appendMasked(nil, opPing, make([]byte, 125)), 64)
	case "half a message": // a long one
		p.conn.Write(appendMasked(nil, opBinary, make([]byte, 4000))[:2000])
		return
	}
	for {
		if _, err := p.conn.Write(b); err != nil {
			return
		}
	}
}

// storm is what happens when a relay dies: every phone that it had wants back.
type storm struct {
	*clients
	order order

	mu      sync.Mutex // guards what follows
	changed sync.Cond
	lost    time.Time // when the first was cut off
	last    time.Time // when the last one came back
	back    int
	retries atomic.Int64
}

func newStorm(c *clients, o order) *storm {
	s := &storm{clients: c, order: o}
	s.changed.L = &s.mu
	for i, p := range c.phones {
		go s.survive(p, o.First+i)
	}
	return s
}

// What a phone waits at most before it tries again, doubled each time: as the SDK
// does.
const (
	firstWait = 500 * time.Millisecond
	lastWait  = 20 * time.Second
)

// survive waits until the phone is cut off, and goes on at the other relay.
func (s *storm) survive(p *phone, account int) {
	p.in.Peek(1)
	s.mu.Lock()
	if s.lost.IsZero() {
		s.lost = time.Now()
	}
	s.mu.Unlock()
	for most := firstWait; ; most = min(2*most, lastWait) {
		again, err := s.dial(context.Background(), s.order, account)
		if err == nil {
			if err = again.attach(p); err == nil {
				s.came()
				return
			}
			again.conn.Close()
		}
		s.retries.Add(1)
		time.Sleep(rand.N(most))
	}
}

func (s *storm) came() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.back++
	s.last = time.Now()
	s.changed.Broadcast()
}

// wait waits until all phones are back; it says how many are, and how long the
// last one was away.
func (s *storm) wait(most time.Duration) (answer, error) {
	end := time.Now().Add(most)
	late := time.AfterFunc(most, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer late.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.back < len(s.phones) && time.Now().Before(end) {
		s.changed.Wait()
	}
	return answer{Back: s.back, Seconds: s.last.Sub(s.lost).Seconds(), Retries: s.retries.Load()}, nil
}
