package arrival

import (
	"testing"
	"time"
)

func TestCounts(t *testing.T) {
	for _, c := range []struct {
		name string
		s    Schedule
		want int
		span time.Duration
	}{
		{"ten a second", Steady{10, 3 * time.Second}, 30, 3 * time.Second},
		{"one in ten seconds", Steady{0.1, time.Second}, 1, time.Second},
		{"not a whole number", Steady{0.7, 3 * time.Second}, 3, 3 * time.Second},
		{"no rate", Steady{0, time.Minute}, 0, time.Minute},
		{"no time", Steady{5, 0}, 0, 0},
		{"bounded", Steady{1e12, time.Hour}, maxCount, time.Hour},
		{"ramp up", Ramp{0, 10, 10 * time.Second}, 50, 10 * time.Second},
		{"ramp down", Ramp{20, 0, time.Second}, 10, time.Second},
		{"flat ramp", Ramp{10, 10, 2 * time.Second}, 20, 2 * time.Second},
		{"negative ramp", Ramp{-1, 10, 2 * time.Second}, 0, 2 * time.Second},
		{"bursts", Bursts{5, time.Second, 2500 * time.Millisecond}, 15, 2500 * time.Millisecond},
		{"first", First{Steady{10, time.Minute}, 7}, 7, 700 * time.Millisecond},
		{"first of fewer", First{Steady{10, time.Second}, 70}, 10, time.Second},
	} {
		if got := c.s.Count(); got != c.want {
			t.Errorf("%s: %d arrivals, want %d", c.name, got, c.want)
		}
		if got := c.s.Span(); got != c.span {
			t.Errorf("%s: over %v, want %v", c.name, got, c.span)
		}
	}
}

// Every schedule is in order, within its span, and Due counts it back.
func TestTimes(t *testing.T) {
	for _, s := range []Schedule{
		Steady{7, 3 * time.Second}, Steady{0.3, 20 * time.Second}, Ramp{0, 13, 5 * time.Second},
		Ramp{9, 1, 4 * time.Second}, Ramp{5, 5, 2 * time.Second}, Bursts{3, 200 * time.Millisecond, time.Second},
		First{Ramp{1, 30, 3 * time.Second}, 11},
	} {
		last := time.Duration(0)
		for i := range s.Count() {
			at := s.At(i)
			if at < last || at > s.Span() {
				t.Errorf("%#v: arrival %d at %v, after %v, span %v", s, i, at, last, s.Span())
			}
			if due := Due(s, at); due <= i {
				t.Errorf("%#v: %d due at %v, the time of arrival %d", s, due, at, i)
			}
			last = at
		}
		if s.At(0) != 0 || Due(s, -1) != 0 || Due(s, s.Span()) != s.Count() {
			t.Errorf("%#v: first at %v, %d due at the end", s, s.At(0), Due(s, s.Span()))
		}
	}
}

func TestValues(t *testing.T) {
	for _, c := range []struct {
		s    Schedule
		i    int
		want time.Duration
	}{
		{Steady{4, time.Minute}, 6, 1500 * time.Millisecond},
		{Ramp{0, 10, 10 * time.Second}, 8, 4 * time.Second},  // t²/2 = 8
		{Ramp{10, 0, 10 * time.Second}, 18, 2 * time.Second}, // 10t − t²/2 = 18
		{Bursts{3, 2 * time.Second, time.Minute}, 7, 4 * time.Second},
	} {
		if got := c.s.At(c.i).Round(time.Microsecond); got != c.want {
			t.Errorf("%#v: arrival %d at %v, want %v", c.s, c.i, got, c.want)
		}
	}
}
