package redisconn

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"chatvault/docker/redistest"
)

// watched connects, and counts what the connection's Watch is told.
type watched struct {
	redis.UniversalClient
	trips, commands, failed, dials, refused atomic.Int64
}

func connect(t *testing.T, url string) *watched {
	t.Helper()
	a, err := Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{}
	client, stop := Connect(Options{Address: a, Timeout: time.Minute, Watch: Watch{
		Trip: func(took time.Duration, commands int, err error) {
			w.trips.Add(1)
			w.commands.Add(int64(commands))
			if err != nil {
				w.failed.Add(1)
			}
		},
		Dial: func(err error) {
			if w.dials.Add(1); err != nil {
				w.refused.Add(1)
			}
		},
	}})
	t.Cleanup(stop)
	w.UniversalClient = client
	return w
}

func sites(t *testing.T) map[string]*redistest.Site {
	all := map[string]*redistest.Site{
		"single": redistest.Single(t, ""), "sentinel": redistest.Sentinels(t), "cluster": redistest.Cluster(t),
	}
	for _, s := range all {
		t.Cleanup(s.Close)
		s.Steady(t)
	}
	return all
}

// Whatever the kind, a deadline is kept, also when a server accepts and never
// answers, or is not there at all.
func TestDeadlinesAreKept(t *testing.T) {
	for name, s := range sites(t) {
		t.Run(name, func(t *testing.T) {
			c := connect(t, s.URL())
			if err := c.Set(t.Context(), "a", "1", 0).Err(); err != nil {
				t.Fatal(err)
			}
			pipe := c.Pipeline()
			a, b := pipe.Get(t.Context(), "a"), pipe.Get(t.Context(), "none")
			pipe.Exec(t.Context())
			if a.Val() != "1" || b.Err() != redis.Nil {
				t.Errorf("%v, %v", a, b)
			}
			if c.trips.Load() != 2 || c.commands.Load() != 3 || c.failed.Load() != 0 || c.dials.Load() == 0 || c.refused.Load() != 0 {
				t.Errorf("told of %d trips, %d commands, %d failed, %d dials, %d refused",
					c.trips.Load(), c.commands.Load(), c.failed.Load(), c.dials.Load(), c.refused.Load())
			}
			for _, p := range s.Servers {
				p.Pause(t)
			}
			inTime(t, c)
			for _, p := range append(s.Servers, s.Sentinels...) {
				p.Kill(t)
			}
			inTime(t, c)
			if c.failed.Load() != 2 {
				t.Errorf("%d failures told", c.failed.Load())
			}
		})
	}
}

func inTime(t *testing.T, c redis.UniversalClient) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
	defer cancel()
	began := time.Now()
	err := c.Get(ctx, "a").Err()
	if took := time.Since(began); err == nil || errors.Is(err, redis.Nil) || took > 20*time.Second { // the client itself would wait for a minute
		t.Errorf("after %v: %v", took, err)
	}
}

func TestTheEmbeddedOneLetsThingsLapse(t *testing.T) {
	c := connect(t, "embedded")
	if err := c.Set(t.Context(), "a", "1", time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Await(t, "it lapses", func() bool { return c.Exists(t.Context(), "a").Val() == 0 })
}
