package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"chatvault/docker/goals"
	"chatvault/vaultd/internal/recordstore"
)

// plan is how much is measured.
type plan struct {
	goals.Plan
	quick    bool
	length   time.Duration // of one side of a repetition
	accounts int           // charged on each engine
	followed int           // charges of a repetition through a follower
	records  int           // in the directory that is measured
}

// fullPlan is for make bench-store, which has 20 minutes: after 11 there is no other round.
func fullPlan() plan {
	return plan{
		Plan:   goals.Plan{Repetitions: 5, Rounds: 3, NoRepeats: time.Now().Add(11 * time.Minute)},
		length: 3 * time.Second, accounts: 4096, followed: 20, records: 1_000_000,
	}
}

func quickPlan() plan {
	return plan{
		Plan: goals.Plan{Repetitions: 2, Rounds: 1, NoRepeats: time.Now()}, quick: true,
		length: 300 * time.Millisecond, accounts: 512, followed: 3, records: 20_000,
	}
}

// sides are the two that are compared on one engine: our store layer, and the
// engine's client API alone.
type sides struct {
	ours, floor charges
	server      string // its version; empty for an embedded engine
	closers     []func() error
}

// charges is something that has accounts to be charged.
type charges interface {
	register(ctx context.Context, account int) error
	charge(ctx context.Context, account int) error
}

func (s *sides) onClose(f func() error) { s.closers = append(s.closers, f) }

func (s *sides) close() (err error) {
	for _, f := range slices.Backward(s.closers) {
		err = errors.Join(err, f())
	}
	return err
}

// fill registers the accounts on both sides.
func (s *sides) fill(ctx context.Context, store recordstore.Store, floor charges, accounts int) error {
	ours, err := newCharger(store)
	if err != nil {
		return err
	}
	s.ours, s.floor = ours, floor
	for _, side := range []charges{s.ours, s.floor} {
		if err := each(ctx, accounts, side.register); err != nil {
			return fmt.Errorf("registering accounts: %w", err)
		}
	}
	return nil
}

// engine starts something to store records in, and both sides over it. sides may be
// set beside an error: they are to be closed.
type engine struct {
	name  string
	start func(ctx context.Context, slow bool, accounts int) (*sides, error)
}

// chargeRow measures charges per second against the engine's floor.
func chargeRow(ctx context.Context, p plan, e engine, slow bool) *goals.Row {
	r := &goals.Row{
		Name: e.name + ", charges/s at 64 clients", Unit: "x floor", Goal: 0.7, AtLeast: true,
		Sides: "ours %.0f/s, floor %.0f/s",
	}
	if slow {
		r.Name += ", fsync +1 ms"
	}
	if err := measureCharges(ctx, p, e, slow, r); err != nil {
		goals.Fail([]*goals.Row{r}, err)
	}
	return r
}

func measureCharges(ctx context.Context, p plan, e engine, slow bool, r *goals.Row) error {
	s, err := e.start(ctx, slow, p.accounts)
	if s != nil {
		defer s.close()
	}
	if err != nil {
		return err
	}
	r.Server = s.server
	for _, side := range []charges{s.ours, s.floor} { // to warm up
		if _, _, err := chargeFor(ctx, p.length/3, p.accounts, side.charge); err != nil {
			return err
		}
	}
	measure(ctx, p, r, func(ctx context.Context, i int) (goals.Repetition, error) {
		return s.byTurns(ctx, p, i%2 == 1)
	})
	return nil
}

// measure measures a row alone.
func measure(ctx context.Context, p plan, r *goals.Row, once func(ctx context.Context, i int) (goals.Repetition, error)) {
	goals.Measure(ctx, p.Plan, os.Stderr, []*goals.Row{r}, func(ctx context.Context, i int) ([]goals.Repetition, error) {
		m, err := once(ctx, i)
		return []goals.Repetition{m}, err
	})
}

// turns is how many pieces of time each side gets in a repetition.
const turns = 4

// byTurns measures both sides in short pieces of time: ours, floor, floor, ours, and so on,
// or the other way round. So whatever else the machine does meets both.
func (s *sides) byTurns(ctx context.Context, p plan, floorFirst bool) (goals.Repetition, error) {
	type sum struct {
		charges int64
		seconds float64
	}
	var ours, floor sum
	for n := range 2 * turns {
		side, of := s.ours, &ours
		if (n+1)/2%2 == 1 != floorFirst {
			side, of = s.floor, &floor
		}
		n, took, err := chargeFor(ctx, p.length/turns, p.accounts, side.charge)
		if err != nil {
			return goals.Repetition{}, err
		}
		of.charges += n
		of.seconds += took.Seconds()
	}
	return goals.Ratio(float64(ours.charges)/ours.seconds, float64(floor.charges)/floor.seconds), nil
}
