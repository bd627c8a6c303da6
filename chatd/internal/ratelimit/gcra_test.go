package ratelimit

import (
	"encoding"
	"math/rand/v2"
	"testing"
	"time"

	"chatvault/protocol/frame"
)

func TestSpendIsExactInMicroseconds(t *testing.T) {
	l := Limit{Burst: 3, Count: 10, Period: time.Second} // T = 100,000 µs
	now := int64(1_700_000_000_000_000)
	var tat int64
	step := func(at, wantWait int64) {
		t.Helper()
		next, wait := l.Spend(tat, at)
		if wait != wantWait {
			t.Fatalf("at %d: wait %d, want %d", at-now, wait, wantWait)
		}
		tat = next
	}
	step(now, 0)
	step(now, 0)
	step(now, 0)
	step(now, 100_000)
	step(now+1, 99_999)
	step(now+99_999, 1)
	step(now+100_000, 0)
	step(now+100_000, 100_000)
	step(now+400_000, 0) // the whole burst is back
	step(now+400_000, 0)
	step(now+400_000, 0)
	step(now+400_000, 100_000)
}

func TestAClockThatWasAheadLocksNobodyOutForLong(t *testing.T) {
	l := Limit{Burst: 5, Count: 1, Period: time.Minute}
	now := time.Unix(1_700_000_000, 0).UnixMicro()
	tat, _ := l.Spend(0, now+365*24*time.Hour.Microseconds())
	if _, wait := l.Spend(tat, now); wait > time.Minute.Microseconds() {
		t.Errorf("wait %v", time.Duration(wait)*time.Microsecond)
	}
}

// In any window that starts with a full burst, no more than burst + time/T
// conform, and never fewer than time/T when asked without a pause.
func TestSpendAgainstACount(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		l := Limit{Burst: 1 + rnd.IntN(20), Count: 1 + rnd.IntN(50), Period: time.Duration(1+rnd.IntN(1000)) * time.Millisecond}
		start := int64(1_700_000_000_000_000)
		now, tat, allowed := start, int64(0), int64(0)
		for range 300 {
			next, wait := l.Spend(tat, now)
			if wait == 0 {
				tat = next
				allowed++
				continue
			}
			if _, again := l.Spend(tat, now+wait); again != 0 {
				t.Fatalf("%v: told to wait %d µs, then refused again", l, wait)
			}
			now += rnd.Int64N(wait + 1)
		}
		if most := int64(l.Burst) + (now-start)/l.interval(); allowed > most {
			t.Fatalf("%v allowed %d in %d µs, at most %d conform", l, allowed, now-start, most)
		}
	}
}

func TestLimitText(t *testing.T) {
	for _, s := range []string{"50/10/1s", "1/1/24h0m0s", "off"} {
		var l Limit
		if err := l.UnmarshalText([]byte(s)); err != nil || l.String() != s {
			t.Errorf("%s: %v, %v", s, l, err)
		}
	}
	for _, s := range []string{"", "50", "50/10", "0/1/1s", "1/0/1s", "0/0/0s", "1/1/0s", "1/1/1", "-1/1/1s", "1/1/1s/1", "1/9999999/1s", "x/1/1s", "1000000/1/24h", "OFF"} {
		var l Limit
		if err := l.UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q was accepted as %v", s, l)
		}
	}
	var _ encoding.TextMarshaler = Limit{}
}

func TestNewRules(t *testing.T) {
	r, err := NewRules(map[string]Limit{OpensPerAccount: Off})
	if err != nil || r.Set[OpensPerAccount] != Off || r.Set[ConnectionsPerIP] != Defaults()[ConnectionsPerIP] {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := NewRules(map[string]Limit{"NoSuchLimit": Off}); err == nil {
		t.Error("an unknown name was accepted")
	}
	if _, err := NewRules(map[string]Limit{OpensPerAccount: {Burst: -1}}); err == nil {
		t.Error("a limit that is none was accepted")
	}
	for name, l := range Defaults() {
		if err := l.Check(); err != nil || len(name) > frame.MaxLimit {
			t.Errorf("default %s: %v", name, err)
		}
	}
}

func FuzzLimitText(f *testing.F) {
	for _, s := range []string{"50/10/1s", "off", "1/1/1h", "3//", "9/9/9ns"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var l, again Limit
		if l.UnmarshalText([]byte(s)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(l.String())); err != nil || again != l {
			t.Fatalf("%q read as %v, then as %v: %v", s, l, again, err)
		}
		now := int64(1_700_000_000_000_000)
		if _, wait := l.Spend(0, now); wait != 0 {
			t.Fatalf("%v refuses the first", l)
		}
	})
}
