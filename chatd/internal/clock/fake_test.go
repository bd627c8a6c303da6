package clock_test

import (
	"slices"
	"testing"
	"time"

	"chatvault/chatd/internal/clock"
)

func TestFakeCallsInOrderWhatFallsDue(t *testing.T) {
	f := clock.NewFake(time.Unix(1000, 0))
	var calls []string
	var at []int64
	note := func(name string) func() {
		return func() { calls = append(calls, name); at = append(at, f.Now().Unix()) }
	}
	f.AfterFunc(3*time.Second, note("three"))
	f.AfterFunc(time.Second, func() {
		note("one")()
		f.AfterFunc(time.Second, note("two"))
	})
	stopped := f.AfterFunc(time.Second, note("stopped"))
	moved := f.AfterFunc(time.Second, note("moved"))
	if !stopped.Stop() || stopped.Stop() || !moved.Reset(10*time.Second) {
		t.Fatal("a pending timer was not told from one that is over")
	}

	f.Advance(5 * time.Second)
	if want := []string{"one", "two", "three"}; !slices.Equal(calls, want) {
		t.Errorf("called %v, want %v", calls, want)
	}
	if want := []int64{1001, 1002, 1003}; !slices.Equal(at, want) || f.Now().Unix() != 1005 {
		t.Errorf("called at %v, now %d", at, f.Now().Unix())
	}
	f.Advance(5 * time.Second)
	if len(calls) != 4 || calls[3] != "moved" {
		t.Errorf("called %v, want the moved one too", calls)
	}
}

func TestAfterOnBothClocks(t *testing.T) {
	f := clock.NewFake(time.Unix(0, 0))
	done, release := clock.After(f, time.Minute)
	defer release()
	select {
	case <-done:
		t.Fatal("closed at once")
	default:
	}
	f.Advance(time.Minute)
	<-done

	done, release = clock.After(clock.System{}, time.Nanosecond)
	defer release()
	<-done
}
