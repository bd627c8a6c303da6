package ratelimit

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

//go:embed spend.lua
var spendLua string

var spendScript = redis.NewScript(spendLua)

// Pipeliner is a Redis of any kind: one, Sentinel's, or a Cluster.
type Pipeliner interface {
	Pipelined(ctx context.Context, f func(redis.Pipeliner) error) ([]redis.Cmder, error)
}

// Redis counts for all relays together. Ids reach Redis only as the first 16
// bytes of their SHA-256.
type Redis struct {
	client Pipeliner
	// now, in µs, replaces Redis' own clock in tests. Production uses the one
	// clock that all relays share.
	now func() int64
}

// NewRedis returns a Redis that counts by the clock of the Redis it asks.
func NewRedis(client Pipeliner) *Redis { return &Redis{client: client} }

// SpendAll implements Spender, in one round trip: a call of the script for
// each step, because a Cluster refuses one script over keys of several slots.
// When some steps are refused, what the others spent is given back in a second
// one; in between, somebody else may be refused what would have been theirs.
func (s *Redis) SpendAll(ctx context.Context, steps []Step) ([]Decision, error) {
	return s.SpendAlong(ctx, nil, steps)
}

// Along queues commands that go to Redis in the round trip of others.
type Along func(ctx context.Context, p redis.Pipeliner)

// SpendAlong does what SpendAll does; along, if not nil, takes part in the first
// trip.
func (s *Redis) SpendAlong(ctx context.Context, along Along, steps []Step) ([]Decision, error) {
	waits, err := s.run(ctx, steps, trip{call: spendScript.EvalSha, along: along})
	if err != nil {
		return nil, err
	}
	out := make([]Decision, len(steps))
	for i, wait := range waits {
		out[i] = decide(steps[i].Name, wait)
	}
	if strictest(out).Allowed {
		return out, nil
	}
	var spent []Step
	for i, d := range out {
		if d.Allowed && steps[i].Limit != Off {
			spent = append(spent, steps[i])
		}
	}
	if len(spent) > 0 {
		// If this fails, a count stays one too high until it lapses.
		_, _ = s.run(ctx, spent, trip{call: spendScript.EvalSha, back: "back"})
	}
	return out, nil
}

// run calls the script for each step and returns what it says, 0 for Off.
func (s *Redis) run(ctx context.Context, steps []Step, t trip) ([]int64, error) {
	cmds := make([]*redis.Cmd, len(steps))
	if err := s.ask(ctx, steps, cmds, t); err != nil {
		return nil, err
	}
	// A Redis that was restarted, or a new node, does not know the script yet.
	if slices.ContainsFunc(cmds, unknownScript) {
		t.call, t.along = spendScript.Eval, nil
		if err := s.ask(ctx, steps, cmds, t); err != nil {
			return nil, err
		}
	}
	waits := make([]int64, len(steps))
	for i, cmd := range cmds {
		if cmd == nil { // off
			continue
		}
		var err error
		if waits[i], err = cmd.Int64(); err != nil {
			return nil, fmt.Errorf("limit %s in Redis: %w", steps[i].Name, err)
		}
	}
	return waits, nil
}

func unknownScript(cmd *redis.Cmd) bool {
	return cmd != nil && redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT")
}

// call is EvalSha or Eval.
type call func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd

// trip is how a round trip is made.
type trip struct {
	call  call
	back  string // to give back what was spent, "back"
	along Along  // what else goes with it, or nil
}

// ask calls the script for each step that has no answer yet.
func (s *Redis) ask(ctx context.Context, steps []Step, cmds []*redis.Cmd, t trip) error {
	now := ""
	if s.now != nil {
		now = fmt.Sprint(s.now())
	}
	asked := t.along != nil
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, step := range steps {
			if step.Limit == Off || cmds[i] != nil && !unknownScript(cmds[i]) {
				continue
			}
			asked = true
			sum := sha256.Sum256([]byte(step.ID))
			k := "cv:limit:" + step.Name + ":" + hex.EncodeToString(sum[:16])
			cmds[i] = t.call(ctx, p, []string{k}, step.Limit.interval(), step.Limit.tolerance(), now, t.back)
		}
		if t.along != nil {
			t.along(ctx, p)
		}
		return nil
	})
	if !asked || err == nil || redis.HasErrorPrefix(err, "NOSCRIPT") {
		return nil
	}
	return fmt.Errorf("limits in Redis: %w", err)
}
