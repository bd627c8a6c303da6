//go:build linux

package main

import (
	"context"
	"os"
	"time"

	"chatvault/docker/goals"
)

// connects measures the CPU from a TCP connection to READY: see door.go.
func connects(w *world, p plan) []*goals.Row {
	s := &stage{world: w}
	defer s.end()
	rows := []*goals.Row{{
		Name: "connect, upgrade, HELLO, AUTH, READY, CPU", Unit: "x net/http + gorilla default", Goal: 0.8,
		Sides: "chatd's relay %.1f µs, floor %.1f µs",
		Note:  "without signatures, Redis and TLS",
	}}
	var ours, floor pair
	for _, e := range []struct {
		to   *pair
		role string
	}{{&ours, "door"}, {&floor, "plain-door"}} {
		var err error
		if *e.to, err = s.enter(s.startPlain(e.role, 1, s.doors, e.role, s.issuerKey)); err != nil {
			goals.Fail(rows, err)
			return rows
		}
		e.to.kind = kindDoor
		if _, err := s.connectCPU(*e.to, p.connects/4); err != nil { // to warm up
			goals.Fail(rows, err)
			return rows
		}
	}
	goals.Measure(w.ctx, p.Plan, os.Stderr, rows, func(_ context.Context, i int) ([]goals.Repetition, error) {
		var a, b float64
		err := turns(i,
			func() (err error) { a, err = s.connectCPU(ours, p.connects); return err },
			func() (err error) { b, err = s.connectCPU(floor, p.connects); return err })
		return []goals.Repetition{goals.Ratio(a, b)}, err
	})
	return rows
}

// connectCPU is the server's CPU for each of so many connects, in microseconds.
func (s *stage) connectCPU(p pair, n int) (float64, error) {
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	defer s.profile(p, p.name, time.Second)()
	if err := s.connect(p, 0, n, ""); err != nil {
		return 0, err
	}
	after, err := p.cpu()
	if err != nil {
		return 0, err
	}
	_, err = p.clients.ask(s.ctx, order{Do: "close"})
	return micros(after-before) / float64(n), all(err, s.pause(time.Second)) // it cleans up
}
