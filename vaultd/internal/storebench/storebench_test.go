package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"chatvault/docker/goals"
	"chatvault/vaultd/internal/recordstore/memstore"
)

// memory is an engine with our side in the place of the floor too.
func memory(ctx context.Context, _ bool, accounts int) (*sides, error) {
	store, other := memstore.New(), memstore.New()
	s := &sides{server: "1.2.3", closers: []func() error{store.Close, other.Close}}
	floor, err := newCharger(other)
	if err != nil {
		return s, err
	}
	return s, s.fill(ctx, store, floor, accounts)
}

func TestARowComparesOursWithTheFloor(t *testing.T) {
	p := plan{Plan: goals.Plan{Repetitions: 2, Rounds: 1}, length: 20 * time.Millisecond, accounts: 64}
	r := chargeRow(t.Context(), p, engine{"memory", memory}, true)
	if r.Error != "" || len(r.Repetitions) != 2 || r.Measured <= 0 || r.Met != (r.Measured >= 0.7) || r.Server != "1.2.3" {
		t.Errorf("%+v", r)
	}
	for _, m := range r.Repetitions {
		if m.Ours <= 0 || m.Floor <= 0 {
			t.Errorf("a side charged nothing: %+v", m)
		}
	}
	if line := r.String(); !strings.Contains(line, "  memory, charges/s at 64 clients, fsync +1 ms  ") || !strings.Contains(line, "/s, floor ") {
		t.Errorf("%q", line)
	}
}

func TestAnEngineThatFailsMissesItsGoal(t *testing.T) {
	ended := false
	r := chargeRow(t.Context(), quickPlan(), engine{"wood", func(context.Context, bool, int) (*sides, error) {
		s := &sides{}
		s.onClose(func() error { ended = true; return nil })
		return s, errors.New("burnt down")
	}}, false)
	if line := r.String(); !strings.HasPrefix(line, "MISSED") || !strings.Contains(line, "not measured: burnt down") || !ended {
		t.Errorf("%q, what had started was ended: %v", line, ended)
	}
}

func TestChargesGoOnBeyondTen(t *testing.T) {
	store := memstore.New()
	defer store.Close()
	c, err := newCharger(store)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.register(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	const charges = 25
	for range charges {
		if err := c.charge(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	b, v, err := store.Load(t.Context(), accountID(0))
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.open(accountID(0), v, b)
	if err != nil || r.Charges != charges || v != charges+1 {
		t.Errorf("%d charges at version %d (%v), want %d at %d", r.Charges, v, err, charges, charges+1)
	}
}

func TestTheProxyDelaysBothDirections(t *testing.T) {
	const oneWay = 20 * time.Millisecond
	took, err := roundTrip(oneWay)
	if err != nil || took < 2*oneWay {
		t.Errorf("a round trip of %v (%v), want %v at least", took, err, 2*oneWay)
	}
}
