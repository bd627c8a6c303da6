//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"chatvault/chatd/internal/uplink"
	"chatvault/docker/goals"
)

// relayed measures what a relayed frame costs, at few and at many connections:
// the CPU of chatd against that of floors, and what it asks of Redis and of Go's
// memory.
func relayed(w *world, p plan) []*goals.Row {
	s := &stage{world: w}
	defer s.end()
	var rows []*goals.Row
	for _, n := range p.connections {
		rows = append(rows,
			&goals.Row{Name: fmt.Sprintf("relay, CPU per frame, %d connections", n), Unit: "x gorilla tuned echo", Goal: 1.4, Sides: "chatd %.2f µs, echo %.2f µs"},
			&goals.Row{Name: fmt.Sprintf("relay, CPU per frame, %d connections", n), Unit: "x proxy", Goal: 0.65, Sides: "chatd %.2f µs, proxy %.2f µs"},
			&goals.Row{Name: fmt.Sprintf("relay, Redis commands per frame, %d connections", n), Goal: 0.0005, Note: "0 is the goal; beyond those of an idle time as long"},
			&goals.Row{Name: fmt.Sprintf("relay, allocations per frame, %d connections", n), Unit: "x crypto/tls", Goal: 1, Sides: "chatd %.4f, one for each record of the uplink %.4f",
				Note: "chatd's own are to be 0; crypto/tls makes one when it waits for a record; beyond those of an idle time as long"})
	}
	m, err := newFrames(s, p)
	if err != nil {
		goals.Fail(rows, err)
		return rows
	}
	goals.Measure(w.ctx, p.Plan, os.Stderr, rows, m.once)
	return rows
}

// frames is the stage of relayed.
type frames struct {
	*stage
	plan  plan
	sizes []size
	idle  counts // of chatd, in the time of one measurement without frames
}

// size is each server with so many connections. raw is no goal's floor: it says in
// the report what of the others' CPU is TCP.
type size struct {
	connections              int
	chatd, tuned, proxy, raw pair
}

func newFrames(s *stage, p plan) (*frames, error) {
	f := &frames{stage: s, plan: p}
	chatd, err := s.startChatd(chatdOptions{procs: 1})
	if err != nil {
		return nil, err
	}
	s.on = append(s.on, chatd.process)
	tuned, err := s.startFloor("tuned", 1)
	if err != nil {
		return nil, err
	}
	s.on = append(s.on, tuned.process)
	proxy, err := s.startFloor("proxy", 1, s.proxyArgs()...)
	if err != nil {
		return nil, err
	}
	s.on = append(s.on, proxy.process)
	raw, err := s.startFloor("raw", 1)
	if err != nil {
		return nil, err
	}
	s.on = append(s.on, raw.process)
	first := 0
	for _, n := range p.connections {
		z := size{connections: n}
		for _, e := range []struct {
			to  *pair
			srv *server
		}{{&z.chatd, chatd}, {&z.tuned, tuned}, {&z.proxy, proxy}, {&z.raw, raw}} {
			if *e.to, err = s.more(e.srv); err != nil {
				return nil, err
			}
			if err := s.connect(*e.to, first, n, "open"); err != nil {
				return nil, err
			}
		}
		f.sizes, first = append(f.sizes, z), first+n
	}
	if err := f.steady(chatd, 0, func() error { return s.pause(p.length / 4) }); err != nil {
		return nil, err
	}
	before, err := f.counts(chatd)
	if err == nil {
		err = s.pause(p.length)
	}
	if err != nil {
		return nil, err
	}
	after, err := f.counts(chatd)
	f.idle = after.less(before)
	return f, err
}

// proxyArgs are how a proxy reaches the vault.
func (w *world) proxyArgs() []string {
	return []string{"-backend", w.echoAddr, "-backend-ca", w.caFile, "-cert", w.roleCert, "-key", w.roleKey, "-backend-name", uplink.VaultRole}
}

// counts are what Redis was asked, Go allocated, and the vault wrote to the uplink
// in records of TLS, so far.
type counts struct{ redis, mallocs, records float64 }

func (c counts) less(d counts) counts {
	return counts{c.redis - d.redis, c.mallocs - d.mallocs, c.records - d.records}
}

func (f *frames) counts(chatd *server) (c counts, err error) {
	stats, err := f.redis.Info(f.ctx, "commandstats").Result()
	if err != nil {
		return c, err
	}
	c.redis = float64(calls(stats))
	if c.mallocs, err = chatd.metric(f.ctx, "go_memstats_mallocs_total"); err != nil {
		return c, err
	}
	a, err := f.vault.ask(f.ctx, order{Do: "say"})
	c.records = float64(a.Records)
	return c, err
}

func (f *frames) once(_ context.Context, i int) ([]goals.Repetition, error) {
	var out []goals.Repetition
	for _, z := range f.sizes {
		var chatd, tuned, proxy, raw, relayed float64
		var used counts
		err := turns(i,
			func() (err error) { chatd, used, relayed, err = f.relayed(z); return err },
			func() (err error) { tuned, err = f.measure(z.tuned); return err },
			func() (err error) { proxy, err = f.measure(z.proxy); return err },
			func() (err error) { raw, err = f.measure(z.raw); return err },
		)
		if err != nil {
			return nil, err
		}
		toTuned := goals.Ratio(chatd, tuned)
		toTuned.More = map[string]float64{"raw TCP echo": raw}
		out = append(out, toTuned, goals.Ratio(chatd, proxy),
			goals.Repetition{Value: max(0, used.redis) / relayed, More: map[string]float64{"commands": used.redis, "frames": relayed}},
			// crypto/tls makes a reader each time it waits for a record; the vault has
			// counted those. That chatd makes nothing is tested, frame by frame, beside
			// the relay (steady_test.go); one more for each batch would show here.
			goals.Ratio(max(0, used.mallocs)/relayed, used.records/relayed))
	}
	return out, nil
}

// relayed measures chatd: CPU per frame, and what was used for so many frames.
func (f *frames) relayed(z size) (perFrame float64, used counts, frames float64, err error) {
	p := z.chatd
	if err := f.steady(p.server, z.connections, func() error { return f.warm(p) }); err != nil {
		return 0, used, 0, err
	}
	before, err := f.counts(p.server)
	if err != nil {
		return 0, used, 0, err
	}
	perFrame, a, err := f.echo(p, f.plan.length)
	if err != nil {
		return 0, used, 0, err
	}
	after, err := f.counts(p.server)
	return perFrame, after.less(before).less(f.idle), float64(a.Frames), err
}

// steady goes on with meanwhile until so many connections are active and all others
// parked: what it takes to wake and to park is not to be counted.
func (f *frames) steady(chatd *server, connections int, meanwhile func() error) error {
	var active float64
	for range 100 {
		if err := meanwhile(); err != nil {
			return err
		}
		var err error
		if active, err = chatd.metric(f.ctx, `chatd_connections{state="active"}`); err != nil || int(active) == connections {
			return err
		}
	}
	return fmt.Errorf("%v connections are active, not %d", active, connections)
}

// warm lets connections wake up before they are measured.
func (f *frames) warm(p pair) error {
	_, _, err := f.echo(p, f.plan.length/4)
	return err
}

func (f *frames) measure(p pair) (float64, error) {
	if err := f.warm(p); err != nil {
		return 0, err
	}
	perFrame, _, err := f.echo(p, f.plan.length)
	return perFrame, err
}

// hop measures how much later a frame comes back through chatd and the vault than
// from an echo, with one client.
func hop(w *world, p plan) []*goals.Row {
	s := &stage{world: w}
	defer s.end()
	rows := []*goals.Row{{
		Name: "relay, latency that the hop adds, one client, p50", Unit: "x echo round trip", Goal: 1.5, Sides: "adds %.1f µs to %.1f µs",
	}}
	chatd, err := s.enter(s.startChatd(chatdOptions{procs: 1}))
	if err == nil {
		err = s.connect(chatd, 0, 1, "open")
	}
	if err != nil {
		goals.Fail(rows, err)
		return rows
	}
	echo, err := s.enter(s.startFloor("tuned", 1))
	if err == nil {
		err = s.connect(echo, 0, 1, "open")
	}
	if err != nil {
		goals.Fail(rows, err)
		return rows
	}
	goals.Measure(w.ctx, p.Plan, os.Stderr, rows, func(_ context.Context, i int) ([]goals.Repetition, error) {
		var through, direct float64
		err := turns(i,
			func() (err error) { through, err = s.p50(chatd, p.length); return err },
			func() (err error) { direct, err = s.p50(echo, p.length); return err })
		return []goals.Repetition{goals.Ratio(through-direct, direct)}, err
	})
	return rows
}

func (s *stage) p50(p pair, d time.Duration) (float64, error) {
	if _, _, err := s.echo(p, d/4); err != nil {
		return 0, err
	}
	_, a, err := s.echo(p, d)
	return a.P50, err
}
