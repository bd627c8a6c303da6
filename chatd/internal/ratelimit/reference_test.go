package ratelimit

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"chatvault/chatd/internal/chatdtest"
	"chatvault/chatd/internal/clock"
)

// bucket is the other way to say what GCRA says, in exact fractions: it holds
// up to burst tokens, gains one each interval, and a step takes one.
type bucket struct {
	limit  Limit
	tokens *big.Rat
	at     int64 // µs
}

// wait is how long until there is a token, in µs; take takes it.
func (b *bucket) wait(now int64) (micros int64) {
	interval, burst := big.NewRat(b.limit.Period.Microseconds()/int64(b.limit.Count), 1), big.NewRat(int64(b.limit.Burst), 1)
	if b.tokens == nil {
		b.tokens = burst
	} else {
		gained := new(big.Rat).Quo(big.NewRat(now-b.at, 1), interval)
		if b.tokens = new(big.Rat).Add(b.tokens, gained); b.tokens.Cmp(burst) > 0 {
			b.tokens = burst
		}
	}
	b.at = now
	one := big.NewRat(1, 1)
	if b.tokens.Cmp(one) >= 0 {
		return 0
	}
	missing := new(big.Rat).Sub(one, b.tokens)
	return missing.Mul(missing, interval).Num().Int64() // whole: all times are whole µs
}

func (b *bucket) take() { b.tokens = new(big.Rat).Sub(b.tokens, big.NewRat(1, 1)) }

// Every Spender agrees with the bucket to the microsecond, for random limits,
// ids, pauses, and several steps at once.
func TestSpendersAgreeWithAnExactReference(t *testing.T) {
	spenders(t, func(t *testing.T, fake *clock.Fake, s Spender) {
		rnd := rand.New(rand.NewPCG(3, 4))
		for range 20 {
			limits := map[string]Limit{}
			for _, name := range []string{"One", "Two", "Three"} {
				limits[name] = Limit{1 + rnd.IntN(8), 1 + rnd.IntN(50), time.Duration(1+rnd.IntN(60_000)) * time.Millisecond}
			}
			buckets := map[key]*bucket{}
			round := rnd.Uint64()
			for range 60 {
				var steps []Step
				for name, l := range limits {
					if rnd.IntN(3) > 0 {
						id := string(rune('a'+rnd.IntN(2))) + string(rune(0x4e00+round%1000)) + time.Duration(round).String()
						steps = append(steps, Step{name, l, id})
					}
				}
				got, err := s.SpendAll(t.Context(), steps)
				if err != nil || len(got) != len(steps) {
					t.Fatal(got, err)
				}
				var of []*bucket
				for i, step := range steps {
					b := buckets[key{step.Name, step.ID}]
					if b == nil {
						b = &bucket{limit: step.Limit}
						buckets[key{step.Name, step.ID}] = b
					}
					if want := decide(step.Name, b.wait(fake.Now().UnixMicro())); got[i] != want {
						t.Fatalf("%s %v: %+v, want %+v", step.Name, step.Limit, got[i], want)
					}
					of = append(of, b)
				}
				if strictest(got).Allowed {
					for _, b := range of {
						b.take()
					}
				}
				l := limits["One"]
				fake.Advance(time.Duration(rnd.Int64N(2*l.interval())) * time.Microsecond)
			}
		}
	})
}

func TestARefusedStepSpendsNothingOfTheOthers(t *testing.T) {
	spenders(t, func(t *testing.T, fake *clock.Fake, s Spender) {
		narrow, wide := Limit{1, 1, time.Minute}, Limit{3, 1, time.Hour}
		steps := []Step{{"Narrow", narrow, "x"}, {"None", Off, "x"}, {"Wide", wide, "x"}}
		for i, want := range []Decision{
			{Allowed: true},
			{Retry: time.Minute, Limit: "Narrow"},
			{Retry: time.Minute, Limit: "Narrow"},
			{Retry: time.Minute, Limit: "Narrow"},
			{Retry: time.Minute, Limit: "Narrow"},
		} {
			all, err := s.SpendAll(t.Context(), steps)
			if err != nil || strictest(all) != want || !all[1].Allowed {
				t.Errorf("call %d: %+v, %v; want %+v", i, all, err, want)
			}
		}
		for i, want := range []bool{true, true, false} { // of three, one was spent
			if d, err := one(t, s, "Wide", wide, "x"); err != nil || d.Allowed != want {
				t.Errorf("wide, %d: %+v, %v", i, d, err)
			}
		}
		if all, err := s.SpendAll(t.Context(), nil); err != nil || len(all) != 0 || !strictest(all).Allowed {
			t.Errorf("no step: %v, %v", all, err)
		}
	})
}

func TestARedisThatForgotTheScript(t *testing.T) {
	for name, connect := range chatdtest.Redises {
		t.Run(name, func(t *testing.T) {
			client := connect(t)
			s := NewRedis(client)
			l := Limit{1, 1, time.Hour}
			steps := []Step{{"One", l, "x"}, {"None", Off, "x"}, {"Two", l, "x"}}
			for i, allowed := range []bool{true, false} {
				if err := client.ScriptFlush(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
				all, err := s.SpendAll(t.Context(), steps)
				if err != nil || all[0].Allowed != allowed || !all[1].Allowed || all[2].Allowed != allowed {
					t.Errorf("call %d: %+v, %v", i, all, err)
				}
			}
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.SpendAll(t.Context(), steps); err == nil {
				t.Error("a Redis that is gone has answered")
			}
		})
	}
}
