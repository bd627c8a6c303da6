// Package chatdtest starts what chatd's tests need: a Redis of every kind, a
// certificate authority, an issuer of tickets, a vault that answers.
package chatdtest

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"chatvault/chatd/internal/redisconn"
	"chatvault/docker/redistest"
	"chatvault/protocol/secret"
)

// Redises connects to an empty Redis of each kind, by name, as chatd does.
// Every suite about Redis runs over all of them. The real ones are shared by the
// tests of a package, whose TestMain calls StopRedises.
var Redises = map[string]func(testing.TB) redis.UniversalClient{
	"embedded": func(t testing.TB) redis.UniversalClient { return connect(t, redisconn.Options{Timeout: patience}) },
	"redis-server": func(t testing.TB) redis.UniversalClient {
		return shared(t, "redis-server", func() *redistest.Site { return redistest.Single(t, "") })
	},
	"sentinel": func(t testing.TB) redis.UniversalClient {
		return shared(t, "sentinel", func() *redistest.Site { return redistest.Sentinels(t) })
	},
	"cluster": func(t testing.TB) redis.UniversalClient {
		return shared(t, "cluster", func() *redistest.Site { return redistest.Cluster(t) })
	},
}

var sites struct {
	sync.Mutex
	byName map[string]*redistest.Site
}

// shared connects to the package's Redis of a kind, and empties it.
func shared(t testing.TB, name string, start func() *redistest.Site) redis.UniversalClient {
	t.Helper()
	sites.Lock()
	defer sites.Unlock()
	if sites.byName[name] == nil {
		s := start()
		s.Steady(t)
		if sites.byName == nil {
			sites.byName = map[string]*redistest.Site{}
		}
		sites.byName[name] = s
	}
	c := RedisSite{sites.byName[name]}.Client(t)
	Flush(t, c)
	return c
}

// StopRedises kills what Redises has started.
func StopRedises() {
	sites.Lock()
	defer sites.Unlock()
	for _, s := range sites.byName {
		s.Close()
	}
	sites.byName = nil
}

// RedisSite is one Redis of any kind, as real processes.
type RedisSite struct{ *redistest.Site }

// Client connects to it as chatd does, but waits longer: a busy machine is no
// fault of Redis.
func (s RedisSite) Client(t testing.TB) redis.UniversalClient {
	t.Helper()
	a, err := redisconn.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, redisconn.Options{Address: a, Login: redisconn.NewLogin(a.User, secret.Bytes(s.Password)), Timeout: patience})
}

func connect(t testing.TB, o redisconn.Options) redis.UniversalClient {
	c, stop := redisconn.Connect(o)
	t.Cleanup(stop)
	return c
}

// StartRedis starts a redis-server on a Unix socket, for one test.
func StartRedis(t testing.TB, password string) RedisSite {
	t.Helper()
	return owned(t, redistest.Single(t, password))
}

// StartSentinels starts what redistest.Sentinels does, for one test.
func StartSentinels(t testing.TB) RedisSite {
	t.Helper()
	return owned(t, redistest.Sentinels(t))
}

// StartCluster starts what redistest.Cluster does, for one test.
func StartCluster(t testing.TB) RedisSite {
	t.Helper()
	return owned(t, redistest.Cluster(t))
}

func owned(t testing.TB, s *redistest.Site) RedisSite {
	t.Cleanup(s.Close)
	return RedisSite{s}
}

// masters runs f on each server that holds keys of its own.
func masters(t testing.TB, c redis.UniversalClient, f func(context.Context, *redis.Client) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	switch c := c.(type) {
	case *redis.ClusterClient:
		err = c.ForEachMaster(ctx, f)
	case *redis.Client:
		err = f(ctx, c)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Flush empties a Redis of any kind.
func Flush(t testing.TB, c redis.UniversalClient) {
	t.Helper()
	masters(t, c, func(ctx context.Context, c *redis.Client) error { return c.FlushAll(ctx).Err() })
}

// Keys returns the keys of a Redis of any kind that fit the pattern, sorted.
func Keys(t testing.TB, c redis.UniversalClient, pattern string) []string {
	t.Helper()
	var mu sync.Mutex
	var all []string
	masters(t, c, func(ctx context.Context, c *redis.Client) error {
		keys, err := c.Keys(ctx, pattern).Result()
		mu.Lock()
		defer mu.Unlock()
		all = append(all, keys...)
		return err
	})
	slices.Sort(all)
	return all
}

// Commands returns how often each command was called by clients or scripts,
// over all masters, by INFO commandstats. The embedded Redis does not count.
func Commands(t testing.TB, c redis.UniversalClient) map[string]int {
	t.Helper()
	var mu sync.Mutex
	all := map[string]int{}
	masters(t, c, func(ctx context.Context, c *redis.Client) error {
		info, err := c.Info(ctx, "commandstats").Result()
		mu.Lock()
		defer mu.Unlock()
		for line := range strings.Lines(info) {
			name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
			if count, _, cut := strings.Cut(rest, ","); ok && cut {
				n, bad := strconv.Atoi(count)
				if bad != nil {
					return bad
				}
				all[name] += n
			}
		}
		return err
	})
	return all
}

// More returns what was counted since before.
func More(before, now map[string]int) map[string]int {
	more := maps.Clone(now)
	for name, n := range before {
		if more[name] -= n; more[name] == 0 {
			delete(more, name)
		}
	}
	return more
}

// Await polls a state that arrives by itself.
func Await(t testing.TB, what string, ok func() bool) { t.Helper(); redistest.Await(t, what, ok) }
