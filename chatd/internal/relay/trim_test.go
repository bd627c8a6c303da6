package relay

import (
	"log/slog"
	"testing"
	"time"

	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/count"
	"chatvault/chatd/internal/ratelimit"
)

func TestMemoryIsGivenBackWhenACrowdHasComeToRest(t *testing.T) {
	clk := clock.NewFake(time.Unix(1_700_000_000, 0))
	r := New(Config{Limits: &ratelimit.Rules{}}, Parts{Clock: clk, Wheel: turning(t, clk), Counts: new(count.Set), Log: slog.New(slog.DiscardHandler)})
	defer r.stop()
	trims := 0
	r.trimmer.free = func() { trims++ }
	for i, step := range []struct {
		parked  int64
		seconds int // that pass then
		trims   int // in them
	}{
		{999, 60, 0},
		{5000, 1, 0},
		{15_000, 1, 0}, // the crowd still comes
		{15_000, 1, 0},
		{15_000, 1, 1},
		{15_000, 60, 0},
		{16_400, 60, 0}, // not a tenth
		{16_500, 60, 1},
		{20_000, 2, 0},
		{20_000, 20, 1},
		{30_000, 5, 0}, // too soon
		{30_000, 60, 1},
		{100, 60, 0},
		{3_000, 60, 1}, // others have come
	} {
		before := trims
		r.parked.Store(step.parked)
		for range step.seconds {
			clk.Advance(time.Second)
		}
		if n := trims - before; n != step.trims {
			t.Errorf("step %d: %d trims", i, n)
		}
	}
}
