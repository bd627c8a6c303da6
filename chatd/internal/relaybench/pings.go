//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"chatvault/docker/goals"
)

// pings measures what it costs to ping silent clients every ten seconds. chatd
// pings whom it has not heard for 5/4 of --ping. Both servers are measured at the
// same time.
func pings(w *world, p plan) []*goals.Row {
	s := &stage{world: w}
	defer s.end()
	rows := []*goals.Row{
		{Name: fmt.Sprintf("pings for %d connections, CPU per ping", p.phones), Unit: "x a ticker each", Goal: 0.4, Sides: "chatd %.1f µs, tickers %.1f µs"},
		{Name: fmt.Sprintf("pings for %d connections, goroutines", p.phones), Unit: "per connection", Goal: 0.01, Note: "0 is the goal; beyond those without any connection"},
	}
	const every = 10 * time.Second
	chatd, err := s.enter(s.startChatd(chatdOptions{procs: 1, ping: every * 4 / 5}))
	if err != nil {
		goals.Fail(rows, err)
		return rows
	}
	floor, err := s.enter(s.startFloor("tuned", 1, "-ping", every.String()))
	if err != nil {
		goals.Fail(rows, err)
		return rows
	}
	none, err := chatd.metric(w.ctx, "go_goroutines")
	for _, pr := range []pair{chatd, floor} {
		if err == nil {
			// Not at once: then most of the tickers would tick together.
			err = s.connectOver(every, pr, 0, p.phones, "use")
		}
		if err == nil {
			_, err = pr.clients.ask(w.ctx, order{Do: "hold"})
		}
	}
	if err == nil {
		err = s.pause(3 * every / 2)
	}
	if err != nil {
		goals.Fail(rows, err)
		return rows
	}
	goals.Measure(w.ctx, p.Plan, os.Stderr, rows, func(context.Context, int) ([]goals.Repetition, error) {
		var before, after [2]pinged
		var goroutines []float64
		for n, pr := range []pair{chatd, floor} {
			if before[n], err = s.pinged(pr); err != nil {
				return nil, err
			}
		}
		defer s.profile(chatd, "pings", every)()
		const looks = 5
		for range looks {
			if err := s.pause(every / looks); err != nil {
				return nil, err
			}
			now, err := chatd.metric(w.ctx, "go_goroutines")
			if err != nil {
				return nil, err
			}
			goroutines = append(goroutines, now-none)
		}
		for n, pr := range []pair{chatd, floor} {
			if after[n], err = s.pinged(pr); err != nil {
				return nil, err
			}
		}
		r := goals.Ratio(after[0].perPing(before[0]), after[1].perPing(before[1]))
		r.More = map[string]float64{"chatd_pings": float64(after[0].pings - before[0].pings), "ticker_pings": float64(after[1].pings - before[1].pings)}
		return []goals.Repetition{r, {Value: goals.Median(goroutines) / float64(p.phones)}}, nil
	})
	return rows
}

// pinged is what a server has spent, and its clients have heard, so far.
type pinged struct {
	cpu   time.Duration
	pings int64
}

func (s *stage) pinged(p pair) (n pinged, err error) {
	a, err := p.clients.ask(s.ctx, order{Do: "pings"})
	if err != nil {
		return n, err
	}
	n.pings = a.Pings
	n.cpu, err = p.cpu()
	return n, err
}

// perPing is the CPU for each ping since before, in microseconds.
func (n pinged) perPing(before pinged) float64 {
	return micros(n.cpu-before.cpu) / float64(n.pings-before.pings)
}
