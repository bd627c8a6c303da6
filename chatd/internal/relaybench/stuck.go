//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"chatvault/docker/goals"
)

// stuck measures what a client that never reads makes the server hold, kernel and
// process: the most that was seen at any time, for each of several such clients.
// Of chatd it is the worst of several ways to be stuck, without the limits that
// would end most of them sooner.
func stuck(w *world, p plan) []*goals.Row {
	rows := []*goals.Row{{
		Name: "stuck client, most memory, kernel and process", Unit: "x gorilla default", Goal: 0.05,
		Sides: "chatd %.0f KB, default %.0f KB", Note: "chatd in its worst way",
	}}
	plan := p.Plan
	plan.Repetitions = p.memory
	goals.Measure(w.ctx, plan, os.Stderr, rows, func(context.Context, int) ([]goals.Repetition, error) {
		s := &stage{world: w}
		defer s.end()
		floor, err := s.stuck("messages", func() (*server, error) { return s.startFloor("default", 1) })
		if err != nil {
			return nil, err
		}
		worst, more := 0.0, map[string]float64{}
		for _, how := range []string{"messages", "pings", "half a message"} {
			kb, err := s.stuck(how, func() (*server, error) { return s.startChatd(chatdOptions{procs: 1}) })
			if err != nil {
				return nil, fmt.Errorf("%s: %w", how, err)
			}
			worst, more[how] = max(worst, kb), kb
		}
		r := goals.Ratio(worst, floor)
		r.More = more
		return []goals.Repetition{r}, nil
	})
	return rows
}

const (
	stuckClients = 24
	stuckFor     = 4 * time.Second
	stuckLook    = 50 * time.Millisecond
)

// stuck returns the kilobytes for each client.
func (s *stage) stuck(how string, start func() (*server, error)) (float64, error) {
	p, err := s.enter(start())
	if err != nil {
		return 0, err
	}
	defer p.kill()
	if err := s.connect(p, 0, stuckClients, "open"); err != nil {
		return 0, err
	}
	before, err := s.held(p)
	if err != nil {
		return 0, err
	}
	if _, err := p.clients.ask(s.ctx, order{Do: "stuck", How: how}); err != nil {
		return 0, err
	}
	most := before
	for end := time.Now().Add(stuckFor); time.Now().Before(end); {
		now, err := s.held(p)
		if err == nil {
			err = s.pause(stuckLook)
		}
		if err != nil {
			return 0, err
		}
		most = max(most, now)
	}
	return float64(most-before) / stuckClients / 1024, nil
}

// held is what kernel and process hold, in bytes.
func (s *stage) held(p pair) (int64, error) {
	process, err := p.rss()
	if err != nil {
		return 0, err
	}
	kernel, err := p.kernel(s.ctx)
	return process + kernel, err
}
