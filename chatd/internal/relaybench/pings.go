//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"chatvault/docker/goals"
)

// pingEvery is how often a silent client is pinged. chatd pings whom it has not
// heard for 5/4 of --ping.
const pingEvery = 10 * time.Second

// pings measures what it costs to ping silent clients. Both servers are measured at
// the same time.
func pings(w *world, p plan) []*goals.Row {
	s := &stage{world: w}
	defer s.end()
	rows := []*goals.Row{
		{Name: fmt.Sprintf("pings for %d connections, CPU per ping", p.phones), Unit: "x a ticker each", Goal: 0.4, Sides: "chatd %.1f µs, tickers %.1f µs"},
		{Name: fmt.Sprintf("pings for %d connections, goroutines", p.phones), Unit: "per connection", Goal: 0.001, Note: "0 is the goal; beyond those without any connection, which chatd starts and ends as there is work"},
	}
	chatd, err := s.enter(s.startChatd(chatdOptions{procs: 1, ping: pingEvery * 4 / 5}))
	if err != nil {
		goals.Fail(rows, err)
		return rows
	}
	floor, err := s.enter(s.startFloor("tuned", 1, "-ping", pingEvery.String()))
	if err != nil {
		goals.Fail(rows, err)
		return rows
	}
	none, err := chatd.metric(w.ctx, "go_goroutines")
	if err = all(err, s.hold(chatd, p.phones), s.hold(floor, p.phones), s.pause(3*pingEvery/2)); err != nil {
		goals.Fail(rows, err)
		return rows
	}
	goals.Measure(w.ctx, p.Plan, os.Stderr, rows, func(context.Context, int) ([]goals.Repetition, error) {
		var before, after [2]pinged
		err := all(s.pinged(chatd, &before[0]), s.pinged(floor, &before[1]))
		if err != nil {
			return nil, err
		}
		defer s.profile(chatd, "pings", pingEvery)()
		goroutines, err := s.goroutines(chatd)
		if err = all(err, s.pinged(chatd, &after[0]), s.pinged(floor, &after[1])); err != nil {
			return nil, err
		}
		r := goals.Ratio(after[0].perPing(before[0]), after[1].perPing(before[1]))
		r.More = map[string]float64{"chatd_pings": float64(after[0].pings - before[0].pings), "ticker_pings": float64(after[1].pings - before[1].pings)}
		return []goals.Repetition{r, {Value: (goroutines - none) / float64(p.phones)}}, nil
	})
	return rows
}

// hold connects phones that answer pings. Not all at once: then most of the tickers
// would tick together.
func (s *stage) hold(p pair, phones int) error {
	if err := s.connectOver(pingEvery, p, 0, phones, "use"); err != nil {
		return err
	}
	_, err := p.clients.ask(s.ctx, order{Do: "hold"})
	return err
}

// goroutines is the median number of them over pingEvery.
func (s *stage) goroutines(p pair) (float64, error) {
	const looks = 5
	var seen []float64
	for range looks {
		if err := s.pause(pingEvery / looks); err != nil {
			return 0, err
		}
		now, err := p.metric(s.ctx, "go_goroutines")
		if err != nil {
			return 0, err
		}
		seen = append(seen, now)
	}
	return goals.Median(seen), nil
}

// pinged is what a server has spent, and its clients have heard, so far.
type pinged struct {
	cpu   time.Duration
	pings int64
}

func (s *stage) pinged(p pair, n *pinged) error {
	a, err := p.clients.ask(s.ctx, order{Do: "pings"})
	if err != nil {
		return err
	}
	n.pings = a.Pings
	n.cpu, err = p.cpu()
	return err
}

// perPing is the CPU for each ping since before, in microseconds.
func (n pinged) perPing(before pinged) float64 {
	return micros(n.cpu-before.cpu) / float64(n.pings-before.pings)
}
