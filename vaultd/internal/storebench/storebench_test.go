package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"chatvault/vaultd/internal/recordstore/memstore"
)

func TestRowsAreRepeatedWhileTheirSpreadCrossesTheGoal(t *testing.T) {
	late := time.Now().Add(time.Hour)
	for _, c := range []struct {
		name      string
		noRepeats time.Time
		ours      []float64 // of 10 on the other side; the last one stays
		want      int       // repetitions
		met       bool
	}{
		{"all reach it", late, []float64{8, 9, 7.1}, 3, true},
		{"none reaches it", late, []float64{5, 6.9, 2}, 3, false},
		{"crossed once", late, []float64{9, 6, 8, 9}, 9, true},
		{"crossed, the median misses", late, []float64{9, 6, 5}, 9, false},
		{"crossed, and no time left", time.Now().Add(-time.Second), []float64{9, 6, 8}, 3, true},
	} {
		r := &row{Name: c.name, Goal: 0.7, AtLeast: true}
		p := plan{repetitions: 3, rounds: 3, noRepeats: c.noRepeats}
		r.repeat(t.Context(), p, func(_ context.Context, i int) (repetition, error) {
			ours := c.ours[min(i, len(c.ours)-1)]
			return repetition{Ours: ours, Floor: 10, Value: ours / 10}, nil
		})
		if len(r.Repetitions) != c.want || r.Met != c.met {
			t.Errorf("%s: %d repetitions, met %v; want %d, %v", c.name, len(r.Repetitions), r.Met, c.want, c.met)
		}
		if line := r.String(); strings.HasPrefix(line, "MET ") != c.met || strings.HasPrefix(line, "MISSED ") == c.met {
			t.Errorf("%s: %q", c.name, line)
		}
	}
}

func TestARowThatFailsIsNotMet(t *testing.T) {
	for _, at := range []int{0, 1, 2} { // the last in the second round, after one that met the goal
		r := &row{Goal: 1}
		p := plan{repetitions: 2, rounds: 2, noRepeats: time.Now().Add(time.Hour)}
		r.repeat(t.Context(), p, func(_ context.Context, i int) (repetition, error) {
			if i == at {
				return repetition{}, errors.New("engine\nburnt down")
			}
			return repetition{Value: 0.1 + 1.7*float64(i)}, nil
		})
		if line := r.String(); !strings.HasPrefix(line, "MISSED") || !strings.Contains(line, "engine; burnt down") {
			t.Errorf("%q", line)
		}
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
