package vault

import (
	"log/slog"
	"sync"
	"time"
)

// clock says how much of the time told is a jump that is not believed yet. Were it
// believed at once, an NTP server that is wrong by a day would destroy every locked
// record whose last password is still under way, and a thief's claim would ripen
// before anybody could object.
//
// A jump forward is believed once as much time has passed, on a clock that nobody
// sets, as the longest of the rules' waits. Small steps add up. The time at the start
// is believed: a process cannot tell a wrong clock from a long sleep.
type clock struct {
	// static after construction
	now     func() time.Time
	elapsed func() time.Duration
	wait    time.Duration
	log     *slog.Logger
	began   int64 // by now less elapsed at the start, ns

	mu     sync.Mutex    // guards all below
	offset time.Duration // how far now has come before elapsed, as believed
	jump   time.Duration // beyond that, the furthest that was seen; 0: none worth it
	since  time.Duration // when, by elapsed
}

// clockSlack is a step that is not worth waiting for, unless more follow.
const clockSlack = time.Minute

// newClock sets the clocks of a config that are not set.
func newClock(cfg *Config) *clock {
	if cfg.Elapsed == nil {
		now, start := time.Now, time.Now()
		if cfg.Now != nil {
			now, start = cfg.Now, cfg.Now()
		}
		cfg.Elapsed = func() time.Duration { return now().Sub(start) }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &clock{now: cfg.Now, elapsed: cfg.Elapsed, log: cfg.Logger, wait: max(cfg.Params.DestroyAfter, cfg.Params.ReplaceDelay)}
	c.began = c.now().UnixNano() - int64(c.elapsed())
	return c
}

// believed is the time without the doubt.
func (c *clock) believed() time.Time { return c.now().Add(-c.doubt()) }

// told is when the clock shows what will be believed to be a time to come, in Unix
// seconds. If it has shown that already, then it has jumped.
func (c *clock) told(believed uint64) uint64 {
	if believed > uint64(c.now().Unix()) {
		return believed
	}
	return believed + uint64((c.doubt()+time.Second-1)/time.Second)
}

func (c *clock) doubt() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	up := c.elapsed()
	// Not Sub, which would compare the readings of the clock that nobody sets.
	offset := time.Duration(c.now().UnixNano()-c.began) - up
	c.offset = min(c.offset, offset) // a clock that was set back is believed
	ahead := offset - c.offset
	switch {
	case ahead > c.jump+clockSlack:
		c.jump, c.since = ahead, up
		c.log.Warn("the clock has jumped; no key is destroyed and no claim ripens by that", "ahead", ahead, "for", c.wait)
	case c.jump > 0 && up-c.since >= c.wait:
		c.offset += min(c.jump, ahead)
		ahead, c.jump = offset-c.offset, 0
		c.log.Info("the clock is believed again")
	default:
		c.jump = min(c.jump, ahead)
	}
	return ahead
}
