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
func (s *Redis) SpendAll(ctx context.Context, steps []Step) ([]Decision, error) {
	waits := make([]*redis.Cmd, len(steps))
	if err := s.ask(ctx, steps, waits, spendScript.EvalSha); err != nil {
		return nil, err
	}
	// A Redis that was restarted, or a new node, does not know the script yet.
	if slices.ContainsFunc(waits, unknownScript) {
		if err := s.ask(ctx, steps, waits, spendScript.Eval); err != nil {
			return nil, err
		}
	}
	out := make([]Decision, len(steps))
	for i, cmd := range waits {
		if cmd == nil { // off
			out[i] = Decision{Allowed: true}
			continue
		}
		wait, err := cmd.Int64()
		if err != nil {
			return nil, fmt.Errorf("limit %s in Redis: %w", steps[i].Name, err)
		}
		out[i] = decide(steps[i].Name, wait)
	}
	return out, nil
}

func unknownScript(cmd *redis.Cmd) bool {
	return cmd != nil && redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT")
}

// call is EvalSha or Eval.
type call func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd

// ask calls the script for each step that has no answer yet.
func (s *Redis) ask(ctx context.Context, steps []Step, waits []*redis.Cmd, f call) error {
	now := ""
	if s.now != nil {
		now = fmt.Sprint(s.now())
	}
	asked := false
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, step := range steps {
			if step.Limit == Off || waits[i] != nil && !unknownScript(waits[i]) {
				continue
			}
			asked = true
			sum := sha256.Sum256([]byte(step.ID))
			k := "cv:limit:" + step.Name + ":" + hex.EncodeToString(sum[:16])
			waits[i] = f(ctx, p, []string{k}, step.Limit.interval(), step.Limit.tolerance(), now)
		}
		return nil
	})
	if !asked || err == nil || redis.HasErrorPrefix(err, "NOSCRIPT") {
		return nil
	}
	return fmt.Errorf("limits in Redis: %w", err)
}
