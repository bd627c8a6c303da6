//go:build linux

package main

import (
	"context"
	"os"
	"time"

	"chatvault/docker/goals"
)

// idle is how long connections are left alone before their memory is measured:
// longer than a relay takes to park them.
const idle = 12 * time.Second

// first is how many connections come and go before.
const first = 256

// memory measures what an idle connection costs: the growth of the process' RSS
// from none to all connections, each of which was used, after a garbage
// collection. Before, a few connections came and went, so that the program's own
// pages are in memory. All servers stand at once, each with clients of its own.
func memory(w *world, p plan) []*goals.Row {
	sides := "chatd %.0f B, floor %.0f B"
	rows := []*goals.Row{
		{Name: "idle memory per connection", Unit: "x gorilla tuned", Goal: 0.5, Sides: sides},
		{Name: "idle memory per connection", Unit: "x gws", Goal: 0.5, Sides: sides},
		{Name: "idle memory per connection", Unit: "x gorilla default", Goal: 0.2, Sides: sides},
		{Name: "idle memory per connection, TLS", Unit: "x gorilla tuned, TLS", Goal: 0.75, Sides: sides},
	}
	plan := p.Plan
	plan.Repetitions = p.memory
	goals.Measure(w.ctx, plan, os.Stderr, rows, func(context.Context, int) ([]goals.Repetition, error) {
		m, err := measureMemory(w, p)
		if err != nil {
			return nil, err
		}
		return []goals.Repetition{
			goals.Ratio(m["chatd"], m["tuned"]), goals.Ratio(m["chatd"], m["gws"]),
			goals.Ratio(m["chatd"], m["default"]), goals.Ratio(m["chatd, TLS"], m["tuned, TLS"]),
		}, nil
	})
	return rows
}

// measureMemory returns bytes for each connection, by server.
func measureMemory(w *world, p plan) (map[string]float64, error) {
	s := &stage{world: w}
	defer s.end()
	starts := []struct {
		name  string
		start func() (*server, error)
	}{
		{"chatd", func() (*server, error) { return s.startChatd(chatdOptions{procs: 1}) }},
		{"tuned", func() (*server, error) { return s.startFloor("tuned", 1) }},
		{"gws", func() (*server, error) { return s.startFloor("gws", 1) }},
		{"default", func() (*server, error) { return s.startFloor("default", 1) }},
		{"chatd, TLS", func() (*server, error) { return s.startChatd(chatdOptions{procs: 1, tls: true}) }},
		{"tuned, TLS", func() (*server, error) { return s.startTLS("tuned", 1) }},
	}
	pairs, used := map[string]pair{}, map[string]int64{}
	for _, e := range starts {
		pr, err := s.enter(e.start())
		if err != nil {
			return nil, err
		}
		pairs[e.name] = pr
		if err := s.connect(pr, 0, min(first, p.phones), "use"); err != nil {
			return nil, err
		}
		if _, err := pr.clients.ask(s.ctx, order{Do: "close"}); err != nil {
			return nil, err
		}
		if used[e.name], err = s.settled(pr); err != nil {
			return nil, err
		}
		if err := s.connect(pr, 0, p.phones, "use"); err != nil {
			return nil, err
		}
	}
	if err := s.pause(idle); err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for _, e := range starts {
		now, err := s.settled(pairs[e.name])
		if err != nil {
			return nil, err
		}
		out[e.name] = float64(now-used[e.name]) / float64(p.phones)
	}
	return out, nil
}

// settled is the RSS of a server after its garbage was collected and Go had time
// to give memory back.
func (s *stage) settled(p pair) (int64, error) {
	if err := p.collect(s.ctx); err != nil {
		return 0, err
	}
	if err := s.pause(2 * time.Second); err != nil {
		return 0, err
	}
	return p.rss()
}
