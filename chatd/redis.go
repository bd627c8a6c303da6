package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"chatvault/protocol/cmdline"
)

// embedded is the value of --redis for a Redis in this process.
const embedded = "embedded"

func (p *plan) checkRedis() error {
	cfg := p.cfg
	if cfg.Redis == embedded {
		if cfg.RedisPasswordFile != "" {
			return errors.New("redis-password-file: the embedded Redis has no password")
		}
		return nil
	}
	o, err := redis.ParseURL(cfg.Redis)
	if err != nil {
		// The parser's error may repeat the URL, and with it a password.
		return errors.New("redis: want a redis://, rediss:// or unix:// URL, or " + embedded)
	}
	if o.Password != "" {
		return errors.New("redis: put the password into redis-password-file: command lines are read by everybody on the machine")
	}
	if cfg.RedisPasswordFile != "" {
		password, err := cmdline.ReadSecretFile(cfg.RedisPasswordFile)
		if err != nil {
			return fmt.Errorf("redis-password-file: %w", err)
		}
		o.Password = string(password)
	}
	p.redis = o
	return nil
}

// connectRedis never fails: a Redis that cannot be reached is one that is down.
func (p *plan) connectRedis() (client *redis.Client, stop func()) {
	redis.SetLogger(silence{})
	o, server := p.redis, (*miniredis.Miniredis)(nil)
	if o == nil {
		server = miniredis.NewMiniRedis()
		server.ClockTTL(true) // else nothing would ever lapse
		o = &redis.Options{
			// In memory: no port that others on this machine could use.
			Dialer: func(context.Context, string, string) (net.Conn, error) { return server.Dial() },
		}
	}
	// Without it go-redis ignores deadlines of contexts.
	o.ContextTimeoutEnabled = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = time.Second, time.Second, time.Second
	o.MaxRetries, o.DialerRetries = -1, 1
	client = redis.NewClient(o)
	return client, func() {
		client.Close()
		if server != nil {
			server.Close()
		}
	}
}

// silence keeps go-redis off standard error: what matters is logged where it
// is noticed.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
