package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"chatvault/chatd/internal/redisconn"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/secret"
)

// loginTimeout bounds how long a reload waits for Redis.
const loginTimeout = 2 * time.Second

func (p *plan) checkRedis() (err error) {
	cfg, o := p.cfg, &p.redis
	if o.Address, err = redisconn.Parse(cfg.Redis); errors.Is(err, redisconn.ErrPassword) {
		return fmt.Errorf("redis: %w: put it into redis-password-file", err)
	} else if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	switch {
	case o.Kind == redisconn.Embedded && cfg.RedisPasswordFile != "":
		return errors.New("redis-password-file: the embedded Redis has no password")
	case o.Kind != redisconn.Sentinel && (cfg.RedisSentinelUser != "" || cfg.RedisSentinelPasswordFile != ""):
		return errors.New("redis-sentinel-user and redis-sentinel-password-file: want a redis-sentinel:// URL")
	case cfg.RedisSentinelUser != "" && cfg.RedisSentinelPasswordFile == "":
		return errors.New("redis-sentinel-user: wants redis-sentinel-password-file")
	case !o.TLS && (cfg.RedisCA != "" || cfg.RedisCert != "" || cfg.RedisKey != ""):
		return errors.New("redis-ca, redis-cert and redis-key: want a URL that begins with rediss")
	}
	o.SentinelUser = cfg.RedisSentinelUser
	password, err := readPassword("redis-password-file", cfg.RedisPasswordFile)
	if err != nil {
		return err
	}
	o.Login = redisconn.NewLogin(o.User, password)
	sentinels, err := readPassword("redis-sentinel-password-file", cfg.RedisSentinelPasswordFile)
	if err != nil {
		return err
	}
	o.SentinelPassword = string(sentinels) // go-redis has no other way
	if o.TLS {
		o.Config, err = p.redisTLS()
	}
	return err
}

func readPassword(setting, path string) (secret.Bytes, error) {
	if path == "" {
		return nil, nil
	}
	password, err := cmdline.ReadSecretFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return password, nil
}

func (p *plan) redisTLS() (*tls.Config, error) {
	cfg := p.cfg
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if cfg.RedisCA != "" {
		if c.RootCAs, err = readPool(cfg.RedisCA); err != nil {
			return nil, fmt.Errorf("redis-ca: %w", err)
		}
	}
	if (cfg.RedisCert == "") != (cfg.RedisKey == "") {
		return nil, errors.New("redis-cert and redis-key: set both or none")
	}
	if cfg.RedisCert != "" {
		cert, err := tls.LoadX509KeyPair(cfg.RedisCert, cfg.RedisKey)
		if err != nil {
			return nil, fmt.Errorf("redis-cert and redis-key: %w", err)
		}
		p.redisCertificate.Store(&cert)
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if cert := p.redisCertificate.Load(); cert != nil {
			return cert, nil
		}
		return new(tls.Certificate), nil // shows none
	}
	return c, nil
}

// redisRoots are the authorities of Redis' certificates; nil: the system's, or
// no TLS.
func (p *plan) redisRoots() *x509.CertPool {
	if p.redis.Config == nil {
		return nil
	}
	return p.redis.Config.RootCAs
}

// sameRedis says whether two plans differ at most in how chatd shows itself to
// one and the same Redis.
func (p *plan) sameRedis(next *plan) bool {
	a, b := p.redis.Address, next.redis.Address
	a.User, b.User = "", ""
	return reflect.DeepEqual(a, b)
}

// checkLogin asks Redis whether it takes the next user and password, before
// connections that come much later find out. A Redis that cannot be reached has
// nothing against them.
func (p *plan) checkLogin(next *plan) error {
	if !p.sameRedis(next) || p.redis.Login.Equal(next.redis.Login) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), loginTimeout)
	defer cancel()
	if err := redisconn.CheckLogin(ctx, next.redis); err != nil {
		return fmt.Errorf("redis-password-file: Redis refuses it: %w", err)
	}
	return nil
}

// readPool reads authorities, PEM.
func readPool(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return pool, nil
}
