package ratelimit

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"

	"github.com/redis/go-redis/v9"
)

//go:embed spend.lua
var spendLua string

var spendScript = redis.NewScript(spendLua)

// Redis counts for all relays together. Ids reach Redis only as the first 16
// bytes of their SHA-256.
type Redis struct {
	client redis.Scripter
	// now, in µs, replaces Redis' own clock in tests. Production uses the one
	// clock that all relays share.
	now func() int64
}

// NewRedis returns a Redis that counts by the clock of the Redis it asks.
func NewRedis(client redis.Scripter) *Redis { return &Redis{client: client} }

// Spend implements Spender.
func (s *Redis) Spend(ctx context.Context, name string, l Limit, id string) (Decision, error) {
	if l == Off {
		return Decision{Allowed: true}, nil
	}
	now := ""
	if s.now != nil {
		now = fmt.Sprint(s.now())
	}
	sum := sha256.Sum256([]byte(id))
	k := "cv:limit:" + name + ":" + hex.EncodeToString(sum[:16])
	wait, err := spendScript.Run(ctx, s.client, []string{k}, l.interval(), l.tolerance(), now).Int64()
	if err != nil {
		return Decision{}, fmt.Errorf("limit %s in Redis: %w", name, err)
	}
	return decide(wait), nil
}
