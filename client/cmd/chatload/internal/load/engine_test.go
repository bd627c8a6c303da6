package load

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"chatvault/client/cmd/chatload/internal/arrival"
	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/result"
)

// play runs one stage in time that passes only when all wait for it, and
// returns what was measured of its operation, how long it took, and whether it
// was whole.
func play(t *testing.T, ctx context.Context, room int, s arrival.Schedule, do func(context.Context, int) measure.Outcome) (*result.Op, time.Duration, bool) {
	t.Helper()
	e := &Env{cfg: Config{Timeout: 3 * time.Second}, run: measure.New(time.Now(), time.Minute)}
	begin := time.Now()
	whole := e.runStage(ctx, stage{streams: []stream{{"op", s, room, do}}})
	took := time.Since(begin)
	if _, lag := e.run.LagMillis(); lag > 1 {
		t.Errorf("a lag of %v ms where time waits for all", lag)
	}
	return e.run.Results()[0], took, whole
}

var ok = measure.Outcome{Code: CodeOK}

// A stall of half a second makes all late that were due during it, as they
// would have been on a phone; by service only one was slow.
func TestStallIsNotHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		op, took, whole := play(t, t.Context(), 1, arrival.Steady{Rate: 10, For: time.Second}, func(_ context.Context, i int) measure.Outcome {
			if i == 0 {
				time.Sleep(500 * time.Millisecond)
			}
			return ok
		})
		if op.Offered != 10 || op.Done != 10 || op.Missed != 0 || !whole || took != time.Second {
			t.Errorf("%+v in %v", op, took)
		}
		// 500, 400, 300, 200, 100 ms and five that did not wait
		if p := op.Schedule.Histogram.Quantile(60); p < 99 || p > 101 {
			t.Errorf("by schedule: p60 %v ms, want 100", p)
		}
		if p := op.Service.Histogram.Quantile(90); p > 0.01 || op.Service.Max < 499 {
			t.Errorf("by service: p90 %v ms, max %v", p, op.Service.Max)
		}
	})
}

// With room the others do not wait, and nothing is missed.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		op, took, _ := play(t, t.Context(), 10, arrival.Steady{Rate: 10, For: time.Second}, func(context.Context, int) measure.Outcome {
			time.Sleep(2 * time.Second)
			return ok
		})
		if op.Done != 10 || op.Schedule.P50 != op.Service.P50 || took != 2900*time.Millisecond {
			t.Errorf("%+v in %v", op, took)
		}
	})
}

// What finds no room until the end of the schedule is missed, and what never
// ends is ended.
func TestMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		op, took, whole := play(t, t.Context(), 2, arrival.Steady{Rate: 10, For: time.Second}, func(ctx context.Context, _ int) measure.Outcome {
			<-ctx.Done()
			return outcome(ctx.Err())
		})
		if op.Offered != 10 || op.Missed != 8 || op.Done != 2 || op.Errors[codeTimeout] != 2 || !whole {
			t.Errorf("%+v", op)
		}
		if took != 4*time.Second { // the schedule's and the operation's time
			t.Errorf("it took %v", took)
		}
	})
}

func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 550*time.Millisecond)
		defer cancel()
		op, took, whole := play(t, ctx, 10, arrival.Steady{Rate: 10, For: time.Hour}, func(ctx context.Context, i int) measure.Outcome {
			if i == 5 {
				<-ctx.Done()
				return outcome(ctx.Err())
			}
			return ok
		})
		if op.Offered != 6 || op.Missed != 0 || op.Done != 6 || op.Errors[codeInterrupted] != 1 || whole {
			t.Errorf("%+v, whole %v", op, whole)
		}
		if op.OfferedRate < 10.9 || op.OfferedRate > 11 { // 6 in 0.55 s
			t.Errorf("offered %v a second", op.OfferedRate)
		}
		if took != 550*time.Millisecond+interruptGrace {
			t.Errorf("it took %v", took)
		}
	})
}

// A stage lasts as long as asked for, also when its streams end before.
func TestAtLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Env{run: measure.New(time.Now(), time.Minute)}
		begin := time.Now()
		if !e.runStage(t.Context(), stage{atLeast: 7 * time.Second}) || time.Since(begin) != 7*time.Second {
			t.Errorf("it took %v", time.Since(begin))
		}
	})
}

// What nobody scheduled is timed around what it does.
func TestTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Env{run: measure.New(time.Now(), time.Minute)}
		e.timed("op", func() measure.Outcome {
			time.Sleep(time.Second)
			return ok
		})
		if op := e.run.Results()[0]; op.Done != 1 || op.Service.Max < 999 {
			t.Errorf("%+v", op)
		}
	})
}

// Who waits here for a free phone is late by schedule, and no slower by service.
func TestWaitingForAPhoneIsNoService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Env{cfg: Config{Timeout: 3 * time.Second}, run: measure.New(time.Now(), time.Minute)}
		es := newEchoes(e, 1)
		first := true
		e.runStage(t.Context(), stage{streams: []stream{{"op", arrival.Steady{Rate: 10, For: time.Second}, 10, func(ctx context.Context, _ int) measure.Outcome {
			return es.use(ctx, func(*echo, context.Context) measure.Outcome {
				if first {
					first = false
					time.Sleep(time.Second)
				}
				return ok
			})
		}}}})
		op := e.run.Results()[0]
		if op.Done != 10 || e.run.Waits() != 9 {
			t.Errorf("%+v, %d waited", op, e.run.Waits())
		}
		// 1000, 900, … 100 ms
		if p := op.Schedule.Histogram.Quantile(50); p < 499 || p > 501 {
			t.Errorf("by schedule: p50 %v ms, want 500", p)
		}
		if p := op.Service.Histogram.Quantile(90); p > 0.01 || op.Service.Max < 999 {
			t.Errorf("by service: p90 %v ms, max %v", p, op.Service.Max)
		}
	})
}

// Of several processes one tells the relay: who was told before another one is as
// far as that counts there too, and who was lost before is none of the drain's.
func TestToldBeforeTheDrainBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Env{cfg: Config{Drain: func() error { return nil }}, run: measure.New(time.Now(), time.Minute)}
		d, none := &drain{on: true}, &drain{}
		d.note("connection_lost", false)
		d.note("goaway_draining", true)
		none.note("goaway_draining", true)
		time.Sleep(time.Second)
		if err := d.begin(e); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		d.note("goaway_draining", true)
		d.note("connection_lost", false)
		if got := e.run.Results(); len(got) != 1 || got[0].Name != OpTold || got[0].Offered != 3 || got[0].Good() != 2 || got[0].Schedule.Max < 1999 {
			t.Errorf("%+v", got)
		}
		if len(none.early) > 0 {
			t.Error("noted without a drain")
		}
	})
}
