//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// stage is a world and the processes of one measurement.
type stage struct {
	*world
	on []*process
}

// end ends them.
func (s *stage) end() {
	for _, p := range s.on {
		p.kill()
	}
	s.on = nil
}

// pair is a server and the process that plays its clients.
type pair struct {
	*server
	clients agent
}

// enter takes a server that was just started, with clients of its own.
func (s *stage) enter(srv *server, err error) (pair, error) {
	if err != nil {
		return pair{}, err
	}
	s.on = append(s.on, srv.process)
	return s.more(srv)
}

// more is another process of clients for the same server.
func (s *stage) more(srv *server) (pair, error) {
	c, err := s.world.clients()
	if err != nil {
		return pair{}, err
	}
	s.on = append(s.on, c.process)
	return pair{srv, c}, nil
}

// connect connects count phones, from the first account on.
func (s *stage) connect(p pair, first, count int, how string) error {
	return s.connectOver(0, p, first, count, how)
}

// connectOver connects them evenly over a time.
func (s *stage) connectOver(d time.Duration, p pair, first, count int, how string) error {
	_, err := p.clients.ask(s.ctx, order{
		Do: "connect", Addr: p.addr, Kind: p.kind, TLS: p.tls, First: first, Count: count, How: how, Seconds: d.Seconds(),
	})
	return err
}

// echo lets the phones of a pair echo for a time, and returns the server's CPU for
// each round trip, in microseconds, and how many there were.
func (s *stage) echo(p pair, d time.Duration) (perFrame float64, a answer, err error) {
	before, err := p.cpu()
	if err != nil {
		return 0, a, err
	}
	defer s.profile(p, "echo", d)()
	if a, err = p.clients.ask(s.ctx, order{Do: "echo", Seconds: d.Seconds()}); err != nil {
		return 0, a, err
	}
	after, err := p.cpu()
	if err == nil && a.Frames == 0 {
		err = fmt.Errorf("%s: nothing came back", p.name)
	}
	return micros(after-before) / float64(a.Frames), a, err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// pause waits, but not beyond the end.
func (s *stage) pause(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// turns calls each, beginning with another one every time.
func turns(i int, each ...func() error) error {
	for n := range each {
		if err := each[(i+n)%len(each)](); err != nil {
			return err
		}
	}
	return nil
}

// all joins what several calls return.
func all(each ...error) error { return errors.Join(each...) }

// profile takes profiles of a chatd while it is measured, if --profiles wants them:
// where its CPU goes, and what it allocates. done waits for them.
func (s *stage) profile(p pair, what string, d time.Duration) (done func()) {
	seconds := int(d / time.Second)
	if s.profiles == "" || p.kind == kindWS || seconds < 1 {
		return func() {}
	}
	s.profiled++
	var taken sync.WaitGroup
	for _, kind := range []string{"profile", "allocs"} {
		file := filepath.Join(s.profiles, fmt.Sprintf("%s-%d-%s.pb.gz", what, s.profiled, kind))
		taken.Go(func() {
			b, err := get(s.ctx, fmt.Sprintf("http://%s/debug/pprof/%s?seconds=%d", p.admin, kind, seconds))
			if err == nil {
				err = os.WriteFile(file, []byte(b), 0o600)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "  no profile:", err)
			}
		})
	}
	return taken.Wait
}
