package load

import (
	"context"
	"sync"
	"time"

	"chatvault/client/cmd/chatload/internal/arrival"
	"chatvault/client/cmd/chatload/internal/measure"
)

// interruptGrace is how long what is in flight may take after Ctrl-C.
const interruptGrace = 2 * time.Second

// stream is load of one kind: do is called for each arrival, when it is due,
// in a goroutine of its own, at most room at a time.
type stream struct {
	op       string
	arrivals arrival.Schedule
	room     int
	do       func(ctx context.Context, i int) measure.Outcome
}

// stage is streams that run at the same time, for at least a time.
type stage struct {
	streams []stream
	atLeast time.Duration
	begin   func() error // nil: nothing to do
}

// runStage offers the load, waits for the end of the stage's time, and then for
// what is in flight, each with a bound. It reports false when ctx ended.
func (e *Env) runStage(ctx context.Context, s stage) bool {
	if s.begin != nil {
		if e.failed = s.begin(); e.failed != nil {
			return false
		}
	}
	begin := time.Now()
	length := s.atLeast
	for _, st := range s.streams {
		length = max(length, st.arrivals.Span())
	}
	e.stageEnd = begin.Add(length)
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var dispatchers, flying sync.WaitGroup
	for _, st := range s.streams {
		dispatchers.Go(func() { e.dispatch(ctx, working, st, begin, &flying) })
	}
	dispatchers.Wait()
	whole := sleepUntil(ctx, e.stageEnd)
	grace := e.cfg.Timeout
	if !whole {
		grace = interruptGrace
	}
	cut := time.AfterFunc(grace, stop)
	defer cut.Stop()
	interrupted := context.AfterFunc(ctx, func() { cut.Reset(min(grace, interruptGrace)) })
	defer interrupted()
	flying.Wait()
	return whole
}

// dispatch starts each arrival when it is due. When there is no room it waits,
// and those behind with it: their latency by schedule says for how long. What
// was due and found no room until the end of the schedule is missed.
func (e *Env) dispatch(ctx, working context.Context, s stream, begin time.Time, flying *sync.WaitGroup) {
	op := e.run.Op(s.op)
	defer func() {
		span := s.arrivals.Span()
		if ctx.Err() != nil {
			span = min(span, time.Since(begin)) // no more was offered
		}
		op.Span(span)
	}()
	end := begin.Add(s.arrivals.Span())
	over, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	room := make(chan struct{}, s.room)
	n, started := s.arrivals.Count(), 0
	for behind := false; started < n; started++ {
		due := begin.Add(s.arrivals.At(started))
		if time.Until(due) > 0 {
			behind = false // whatever was waited for, it has been caught up
		}
		if !sleepUntil(ctx, due) {
			break
		}
		select {
		case room <- struct{}{}:
			if !behind {
				e.run.Lag(time.Since(due))
			}
		default:
			behind = true
			e.run.Waited()
			if !enter(over, room) {
				e.miss(op, s.arrivals, begin, started)
				return
			}
		}
		op.Begin(due)
		flying.Add(1)
		go func(i int) {
			defer flying.Done()
			began := time.Now()
			out := s.do(working, i)
			if out.Failed && ctx.Err() != nil && working.Err() != nil {
				out.Code = codeInterrupted
			}
			if out.Began.After(began) {
				began = out.Began
			}
			op.End(due, began, time.Now(), out)
			<-room
		}(started)
	}
	e.miss(op, s.arrivals, begin, started)
}

func enter(ctx context.Context, room chan<- struct{}) bool {
	select {
	case room <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// miss counts the arrivals that are due by now and were not started.
func (e *Env) miss(op *measure.Op, s arrival.Schedule, begin time.Time, started int) {
	for due := arrival.Due(s, time.Since(begin)); started < due; started++ {
		op.Miss(begin.Add(s.At(started)))
	}
}

// sleepUntil reports false when the context ended before.
func sleepUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
