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
		worst, more := 0.0, map[string]float64{"floor, kernel": floor.kernel}
		for _, how := range []string{"messages", "pings", "half a message"} {
			kb, err := s.stuck(how, func() (*server, error) { return s.startChatd(chatdOptions{procs: 1}) })
			if err != nil {
				return nil, fmt.Errorf("%s: %w", how, err)
			}
			worst, more[how], more[how+", kernel"] = max(worst, kb.all), kb.all, kb.kernel
		}
		r := goals.Ratio(worst, floor.all)
		r.More = more
		return []goals.Repetition{r}, nil
	})
	return rows
}

const (
	stuckClients = 48
	stuckFor     = 4 * time.Second
	stuckLook    = 50 * time.Millisecond
)

// stuckUse is the most that was seen for each client, in kilobytes.
type stuckUse struct{ all, kernel float64 }

func (s *stage) stuck(how string, start func() (*server, error)) (used stuckUse, err error) {
	p, err := s.enter(start())
	if err != nil {
		return used, err
	}
	defer p.kill()
	if err := s.connect(p, 0, stuckClients, "open"); err != nil {
		return used, err
	}
	before, err := s.held(p)
	if err != nil {
		return used, err
	}
	if _, err := p.clients.ask(s.ctx, order{Do: "stuck", How: how}); err != nil {
		return used, err
	}
	most, kernel := before, before
	for end := time.Now().Add(stuckFor); time.Now().Before(end); {
		now, err := s.held(p)
		if err == nil {
			err = s.pause(stuckLook)
		}
		if err != nil {
			return used, err
		}
		if now.kernel > kernel.kernel {
			kernel = now
		}
		if now.sum() > most.sum() {
			most = now
		}
	}
	each := func(n int64) float64 { return float64(n) / stuckClients / 1024 }
	return stuckUse{each(most.sum() - before.sum()), each(kernel.kernel - before.kernel)}, nil
}

// holding is what kernel and process hold, in bytes.
type holding struct{ process, kernel int64 }

func (h holding) sum() int64 { return h.process + h.kernel }

func (s *stage) held(p pair) (h holding, err error) {
	if h.process, err = p.rss(); err == nil {
		h.kernel, err = p.kernel(s.ctx)
	}
	return h, err
}
