package wheel

import (
	"math/rand/v2"
	"testing"
	"time"

	"chatvault/chatd/internal/clock"
)

// sleeper notes when it was called.
type sleeper struct {
	Entry
	clock  *clock.Fake
	called []time.Time
	again  func()
}

func newSleeper(c *clock.Fake) *sleeper {
	s := &sleeper{clock: c}
	s.Owner = s
	return s
}

func (s *sleeper) Due() {
	s.called = append(s.called, s.clock.Now())
	if s.again != nil {
		s.again()
	}
}

func TestEntriesAreCalledOnceAndNeverEarly(t *testing.T) {
	c := clock.NewFake(time.Unix(1_000_000, 0))
	w := New(c)
	defer w.Stop()
	type set struct {
		s  *sleeper
		at time.Time
	}
	var all []set
	end := c.Now().Add(10 * time.Minute)
	for c.Now().Before(end) {
		d := rand.N(4 * time.Minute) // up to four turns
		s := newSleeper(c)
		w.Set(&s.Entry, d)
		all = append(all, set{s, c.Now().Add(d)})
		c.Advance(rand.N(time.Second))
		if stale := c.Now().UnixNano() - w.Now(); stale < 0 || stale > int64(Tick) {
			t.Fatalf("Now is %v old", time.Duration(stale))
		}
	}
	c.Advance(5 * time.Minute)
	for _, e := range all {
		if len(e.s.called) != 1 {
			t.Fatalf("called %d times", len(e.s.called))
		}
		if late := e.s.called[0].Sub(e.at); late < 0 || late > Tick {
			t.Errorf("called %v late", late)
		}
	}
}

func TestSetAgainAndClear(t *testing.T) {
	c := clock.NewFake(time.Unix(1_000_000, 0))
	w := New(c)
	defer w.Stop()
	moved, cleared, periodic := newSleeper(c), newSleeper(c), newSleeper(c)
	w.Set(&moved.Entry, time.Second)
	w.Set(&moved.Entry, 3*time.Second)
	w.Set(&cleared.Entry, time.Second)
	w.Clear(&cleared.Entry)
	w.Clear(&cleared.Entry)
	periodic.again = func() { w.Set(&periodic.Entry, time.Second) }
	w.Set(&periodic.Entry, 0)
	c.Advance(2 * time.Second)
	if len(moved.called) != 0 {
		t.Error("called at its old time")
	}
	c.Advance(8 * time.Second)
	if len(moved.called) != 1 || len(cleared.called) != 0 || len(periodic.called) != 10 {
		t.Errorf("called %d, %d and %d times", len(moved.called), len(cleared.called), len(periodic.called))
	}
}

// One Due may clear or move another that is due in the same tick.
func TestOwnersMayTouchEachOther(t *testing.T) {
	c := clock.NewFake(time.Unix(1_000_000, 0))
	w := New(c)
	defer w.Stop()
	a, b, later := newSleeper(c), newSleeper(c), newSleeper(c)
	a.again = func() { w.Clear(&b.Entry); w.Set(&later.Entry, time.Minute) }
	w.Set(&a.Entry, time.Second)
	w.Set(&b.Entry, time.Second)
	w.Set(&later.Entry, time.Second)
	c.Advance(time.Second)
	if len(a.called) != 1 || len(b.called) != 0 || len(later.called) != 0 {
		t.Errorf("called %d, %d and %d times", len(a.called), len(b.called), len(later.called))
	}
}

// jump is a clock whose owner slept: time moves on without any timer.
type jump struct {
	clock.Fake
	now time.Time
	fn  func()
}

func (j *jump) Now() time.Time { return j.now }
func (j *jump) AfterFunc(_ time.Duration, f func()) clock.Timer {
	j.fn = f
	return time.AfterFunc(time.Hour, func() {})
}

func TestALongPauseLosesNothing(t *testing.T) {
	j := &jump{now: time.Unix(1_000_000, 0)}
	w := New(j)
	defer w.Stop()
	fake := clock.NewFake(j.now)
	var all []*sleeper
	for d := time.Duration(0); d < 2*slots*Tick; d += 7 * time.Second {
		s := newSleeper(fake)
		w.Set(&s.Entry, d)
		all = append(all, s)
	}
	j.now = j.now.Add(10 * slots * Tick)
	j.fn()
	for i, s := range all {
		if len(s.called) != 1 {
			t.Errorf("entry %d was called %d times", i, len(s.called))
		}
	}
	w.Stop()
	w.Set(&all[0].Entry, 0)
	j.now = j.now.Add(time.Hour)
	j.fn()
	if len(all[0].called) != 1 {
		t.Error("called after Stop")
	}
}

// busy is an owner whose call takes its time.
type busy struct {
	Entry
	call func()
}

func (b *busy) Due() { b.call() }

// A crowd that is due together does not hold up everybody else until the last was
// called: the clock moves on meanwhile, and so may others.
func TestATurnTakesBreaths(t *testing.T) {
	j := &jump{now: time.Unix(1_000_000, 0)}
	w := New(j)
	defer w.Stop()
	seen := map[int64]int{} // calls at each time that the wheel told
	for range 10 {
		b := &busy{}
		b.Owner, b.call = b, func() { seen[w.Now()]++; j.now = j.now.Add(atOnce / 2) }
		w.Set(&b.Entry, Tick)
	}
	j.now = j.now.Add(Tick)
	j.fn()
	if len(seen) != 5 {
		t.Errorf("%d times were told while 10 were called that take half of atOnce each, want 5", len(seen))
	}
	for _, n := range seen {
		if n != 2 {
			t.Errorf("%d were called in one go, want 2", n)
		}
	}
}

func TestSettingAllocatesNothing(t *testing.T) {
	w := New(clock.System{})
	defer w.Stop()
	s := newSleeper(nil)
	if n := testing.AllocsPerRun(100, func() { w.Set(&s.Entry, time.Hour); w.Clear(&s.Entry); w.Now() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
