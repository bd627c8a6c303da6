package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
)

func TestMain(m *testing.M) {
	code := m.Run()
	chatdtest.StopRedises()
	os.Exit(code)
}

// spenders runs one suite over every Spender there is, each on the same fake
// clock.
func spenders(t *testing.T, suite func(t *testing.T, fake *clock.Fake, s Spender)) {
	start := time.Unix(1_700_000_000, 0)
	t.Run("local", func(t *testing.T) {
		fake := clock.NewFake(start)
		suite(t, fake, NewLocal(fake))
	})
	t.Run("beside", func(t *testing.T) {
		fake := clock.NewFake(start)
		suite(t, fake, NewBeside(nil, NewLocal(fake)))
	})
	for name, connect := range chatdtest.Redises {
		t.Run(name, func(t *testing.T) {
			fake := clock.NewFake(start)
			s := NewRedis(connect(t))
			s.now = func() int64 { return fake.Now().UnixMicro() }
			suite(t, fake, s)
		})
	}
}

// one takes one step.
func one(t *testing.T, s Spender, name string, l Limit, id string) (Decision, error) {
	t.Helper()
	all, err := s.SpendAll(t.Context(), []Step{{name, l, id}})
	if err != nil {
		return Decision{}, err
	}
	return all[0], nil
}

func TestSpendersAgreeStepByStep(t *testing.T) {
	spenders(t, func(t *testing.T, fake *clock.Fake, s Spender) {
		l := Limit{Burst: 2, Count: 3, Period: time.Second} // T = 333,333 µs
		for i, step := range []struct {
			advance time.Duration
			id      string
			retry   time.Duration
		}{
			{0, "a", 0}, {0, "a", 0}, {0, "a", 333_333 * time.Microsecond},
			{0, "b", 0},
			{333_332 * time.Microsecond, "a", time.Microsecond},
			{time.Microsecond, "a", 0}, {0, "a", 333_333 * time.Microsecond},
			{time.Hour, "a", 0}, {0, "a", 0}, {0, "a", 333_333 * time.Microsecond},
		} {
			fake.Advance(step.advance)
			d, err := one(t, s, "Some", l, step.id)
			if err != nil || d.Retry != step.retry || d.Allowed != (step.retry == 0) {
				t.Fatalf("step %d: %+v, %v; want retry %v", i, d, err, step.retry)
			}
		}
		if d, err := one(t, s, "Other", l, "a"); err != nil || !d.Allowed {
			t.Errorf("limits of two names share a count: %+v, %v", d, err)
		}
		for range 100 {
			if d, err := one(t, s, "Some", Off, "a"); err != nil || !d.Allowed {
				t.Fatalf("off refuses: %+v, %v", d, err)
			}
		}
	})
}

func TestLargeNumbersStayExact(t *testing.T) {
	spenders(t, func(t *testing.T, fake *clock.Fake, s Spender) {
		l := Limit{Burst: 365, Count: 1, Period: 24 * time.Hour}
		for range 365 {
			if d, err := one(t, s, "Big", l, "x"); err != nil || !d.Allowed {
				t.Fatalf("%+v, %v", d, err)
			}
		}
		fake.Advance(24*time.Hour - time.Microsecond)
		if d, err := one(t, s, "Big", l, "x"); err != nil || d.Retry != time.Microsecond {
			t.Fatalf("%+v, %v; want a wait of 1 µs", d, err)
		}
	})
}

func TestParallelSpendersAllowExactlyTheBurst(t *testing.T) {
	spenders(t, func(t *testing.T, _ *clock.Fake, s Spender) {
		l := Limit{Burst: 10, Count: 1, Period: time.Hour}
		var mu sync.Mutex
		var wg sync.WaitGroup
		allowed := 0
		for range 50 {
			wg.Go(func() {
				d, err := one(t, s, "Parallel", l, "x")
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				} else if d.Allowed {
					allowed++
				}
			})
		}
		wg.Wait()
		if allowed != 10 {
			t.Errorf("%d of 50 were allowed, want 10", allowed)
		}
	})
}

func TestRedisCountsByItsOwnClockAndForgets(t *testing.T) {
	for name, connect := range chatdtest.Redises {
		t.Run(name, func(t *testing.T) {
			client := connect(t)
			s := NewRedis(client)
			l := Limit{Burst: 1, Count: 1, Period: time.Hour}
			if d, err := one(t, s, "Own", l, "+49 170 1234567"); err != nil || !d.Allowed {
				t.Fatalf("%+v, %v", d, err)
			}
			d, err := one(t, s, "Own", l, "+49 170 1234567")
			if err != nil || d.Allowed || d.Retry > time.Hour || d.Retry < 59*time.Minute {
				t.Fatalf("%+v, %v", d, err)
			}
			keys := chatdtest.Keys(t, client, "*")
			if len(keys) != 1 || len(keys[0]) != len("cv:limit:Own:")+32 {
				t.Fatalf("keys %q: want one, with a hash for the id", keys)
			}
			if ttl, err := client.PTTL(t.Context(), keys[0]).Result(); err != nil || ttl <= 0 || ttl > time.Hour {
				t.Errorf("the count lapses in %v, %v", ttl, err)
			}
			if err := client.Set(t.Context(), keys[0], "not a number", 0).Err(); err != nil {
				t.Fatal(err)
			}
			if d, err := one(t, s, "Own", l, "+49 170 1234567"); err != nil || !d.Allowed {
				t.Errorf("a count that is none: %+v, %v", d, err)
			}
		})
	}
}

func TestLocalStaysBounded(t *testing.T) {
	fake := clock.NewFake(time.Unix(1_700_000_000, 0))
	s := NewLocal(fake)
	s.max = 100
	l := Limit{Burst: 1, Count: 1, Period: time.Minute}
	for i := range 1000 {
		one(t, s, "Flood", l, fmt.Sprint(i))
		if len(s.tats) > 100 {
			t.Fatalf("%d counts are kept", len(s.tats))
		}
	}
	fake.Advance(time.Hour)
	one(t, s, "Flood", l, "late")
	if len(s.tats) != 1 {
		t.Errorf("%d counts are kept after all but one have lapsed", len(s.tats))
	}
}

type broken struct {
	err   error
	asked int
}

func (b *broken) SpendAll(_ context.Context, steps []Step) ([]Decision, error) {
	b.asked++
	return slices.Repeat([]Decision{{Retry: time.Hour, Limit: "Some"}}, len(steps)), b.err
}

func TestFailOpenCountsHereWhileRedisIsAway(t *testing.T) {
	fake := clock.NewFake(time.Unix(1_700_000_000, 0))
	shared := &broken{err: errors.New("connection refused")}
	var changes []bool
	f := NewFailOpen(shared, NewLocal(fake), fake, func(err error) { changes = append(changes, err != nil) })
	l := Limit{Burst: 2, Count: 1, Period: time.Hour}
	for i, want := range []bool{true, true, false, false} {
		if d := f.SpendAll(t.Context(), Step{"Some", l, "x"}); d.Allowed != want {
			t.Errorf("call %d: %+v", i, d)
		}
	}
	if shared.asked != 1 {
		t.Errorf("a failing Redis was asked %d times in one second", shared.asked)
	}
	fake.Advance(restFor)
	shared.err = nil
	if d := f.SpendAll(t.Context(), Step{"Some", l, "y"}); d.Allowed || d.Retry != time.Hour {
		t.Errorf("Redis is back, but its word was not taken: %+v", d)
	}
	if len(changes) != 2 || !changes[0] || changes[1] {
		t.Errorf("changes told: %v", changes)
	}
	none := NewFailOpen(nil, NewLocal(fake), fake, func(error) { t.Error("there is nothing to fail") })
	if d := none.SpendAll(t.Context(), Step{"Some", l, "x"}); !d.Allowed {
		t.Errorf("without Redis: %+v", d)
	}
}
