package measure

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestCountsAndRates(t *testing.T) {
	start := time.Now().Add(-10 * time.Second)
	run := New(start, 10*time.Second)
	op := run.Op("echo")
	if run.Op("echo") != op {
		t.Error("an operation was made twice")
	}
	run.Op("never")
	op.Span(10 * time.Second)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	op.Begin(at(1))
	op.End(at(1), at(3), at(4), Outcome{Code: "ok"}) // waited for 2 s, took 1 s
	op.Begin(at(2))
	op.End(at(2), at(2), at(3), Outcome{Code: "timeout", Failed: true})
	op.Begin(at(2))
	op.End(at(2), at(2), at(9), Outcome{Code: "held", Untimed: true})
	op.Miss(at(8))
	op.Begin(at(9))

	if all, _ := run.Glances(); all[0].Flying != 1 || all[0].Done != 3 || all[0].P99 < 2990 {
		t.Errorf("at a glance: %+v", all)
	}
	got := run.Results()
	if len(got) != 1 {
		t.Fatalf("%d operations, want the one that happened", len(got))
	}
	r := got[0]
	switch {
	case r.Offered != 5 || r.Missed != 1 || r.Done != 3 || r.Failed != 1 || r.Good() != 2:
		t.Errorf("counts: %+v", r)
	case r.Outcomes["ok"] != 1 || r.Outcomes["held"] != 1 || r.Errors["timeout"] != 1 || len(r.Errors) != 1:
		t.Errorf("outcomes %v, errors %v", r.Outcomes, r.Errors)
	case r.Schedule.Count != 1 || r.Schedule.Max < 2990 || r.Schedule.Max > 3010 || r.Service.Max > 1010:
		t.Errorf("latencies: %+v, %+v", r.Schedule, r.Service)
	case r.OfferedRate != 0.5 || r.AchievedRate != 0.2:
		t.Errorf("rates: %v, %v", r.OfferedRate, r.AchievedRate)
	}
	offered, done := int64(0), int64(0)
	for _, p := range r.Series {
		offered, done = offered+p.Offered, done+p.Done
	}
	if offered != 5 || done != 3 || r.Series[int(8/r.Interval)].Offered != 1 {
		t.Errorf("series: %+v", r.Series)
	}
}

// An operation that takes longer than the schedule lowers the achieved rate.
func TestAchievedUntilTheLast(t *testing.T) {
	start := time.Now().Add(-20 * time.Second)
	op := New(start, time.Second).Op("echo")
	op.Span(time.Second)
	for range 10 {
		op.Begin(start)
		op.End(start, start, start.Add(20*time.Second), Outcome{Code: "ok"})
	}
	if r := op.result(); r.OfferedRate != 10 || r.AchievedRate != 0.5 {
		t.Errorf("offered %v, achieved %v a second", r.OfferedRate, r.AchievedRate)
	}
}

// Whatever the other side says, and however long it lasts, stays bounded.
func TestBounded(t *testing.T) {
	start := time.Now()
	op := New(start, 24*time.Hour).Op("echo")
	for i := range 1000 {
		op.Begin(start)
		op.End(start, start, start.Add(time.Duration(i)*time.Hour), Outcome{Code: fmt.Sprint("close_", i)})
	}
	if r := op.result(); len(r.Outcomes) > maxCodes+1 || r.Outcomes["other"] == 0 || len(r.Series) > 4*maxPoints+1 {
		t.Errorf("%d codes, %d points", len(r.Outcomes), len(r.Series))
	}
	for _, expected := range []time.Duration{0, time.Second, time.Hour, 24 * time.Hour} {
		if r := New(start, expected); expected/r.interval >= maxPoints {
			t.Errorf("%v: an interval of %v", expected, r.interval)
		}
	}
}

func TestFromManyGoroutines(t *testing.T) {
	run := New(time.Now(), time.Second)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 200 {
				now := time.Now()
				op := run.Op("echo")
				op.Begin(now)
				run.Lag(time.Millisecond)
				run.Hold(1)
				op.End(now, now, time.Now(), Outcome{Code: "ok"})
				run.Glances()
			}
		})
	}
	wait.Wait()
	if r := run.Results()[0]; r.Done != 1600 || r.Schedule.Count != 1600 {
		t.Errorf("%d done, %d latencies", r.Done, r.Schedule.Count)
	}
	if _, held := run.Glances(); held != 1600 {
		t.Errorf("%d held", held)
	}
	if p99, most := run.LagMillis(); p99 < 0.99 || most > 1.01 {
		t.Errorf("lag %v, %v ms", p99, most)
	}
}
