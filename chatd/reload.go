package main

import (
	"crypto/tls"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"syscall"

	"chatvault/chatd/internal/count"
	"chatvault/chatd/internal/notify"
	"chatvault/chatd/internal/relay"
	"chatvault/chatd/internal/uplink"
)

// arguments are those of the command line, to read the configuration again.
type arguments []string

// live are the parts of a running chatd that take new settings.
type live struct {
	plan    *plan
	args    arguments
	relay   *relay.Relay
	vaults  *uplink.Pool
	webhook *notify.Webhook // nil: nobody is told
	counts  *count.Set
	log     *slog.Logger
}

// reloadOn reads again, at every SIGHUP, what may change under way: all
// certificates with their keys and the vaults' authority, the limits, the fleet
// bundle, the issuers' key files, Redis' user and password and the keys that
// sign notices. No connection ends by it. stop waits for the one under way.
func (l *live) reloadOn(hangup chan os.Signal) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-hangup:
				l.reload()
			case <-quit:
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangup)
		close(quit)
		<-done
	}
}

// hangups begins to catch SIGHUP, which would end the process otherwise.
func hangups() chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c
}

// reload takes everything or, when anything is wrong with it, nothing.
func (l *live) reload() {
	var g grammar
	next, err := (*plan)(nil), app.Parse(&g, l.args)
	if err == nil {
		next, err = newPlan(&g.Serve.Config, l.log)
	}
	if err == nil {
		err = l.plan.checkLogin(next)
	}
	if err == nil {
		// The running verifier, because it holds what it fetched from URLs.
		err = l.plan.tickets.Reload()
	}
	if err != nil {
		l.counts.Add("reload_failed")
		l.log.Error("reload failed, the old settings stay", "reason", err)
		return
	}
	if cert := next.certificate.Load(); cert != nil && l.plan.clientTLS != nil {
		l.plan.certificate.Store(cert)
	}
	l.vaults.SetTLS(next.vaultTLS)
	l.relay.Reload(next.relay.Limits, next.relay.Bundle, next.relay.BundleEpoch)
	// A key or password is for the address beside it: where that has changed,
	// and waits for a restart, so do they.
	if l.plan.sameRedis(next) {
		l.plan.redis.Login.Become(next.redis.Login)
		l.plan.redisCertificate.Store(next.redisCertificate.Load())
	}
	if l.webhook != nil && next.cfg.NoticeWebhook == l.plan.cfg.NoticeWebhook {
		l.webhook.SetKeys(next.notices.Keys)
	}
	l.counts.Add("reloaded")
	l.log.Info("reloaded", "ignored_until_restart", ignored(l.plan, next))
}

// reloaded are the fields of Config that reload takes.
var reloaded = map[string]bool{
	"ConfigFlag": true, "TLSCert": true, "TLSKey": true, "VaultCA": true, "VaultCert": true, "VaultKey": true, "FleetBundle": true,
	"Limits": true, "Limit": true, "RedisPasswordFile": true, "RedisCert": true, "RedisKey": true, "NoticeWebhookKeyFile": true,
}

// ignored names the settings that have changed but are not taken.
func ignored(old, next *plan) []string {
	names := []string{}
	a, b := reflect.ValueOf(*old.cfg), reflect.ValueOf(*next.cfg)
	for i := range a.NumField() {
		name := a.Type().Field(i).Name
		same := reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface())
		switch name {
		case "Redis": // its user is taken
			same = old.sameRedis(next)
		case "RedisSentinelPasswordFile": // go-redis asks for this one only once
			same = same && old.redis.SentinelPassword == next.redis.SentinelPassword
		case "RedisCA": // those who dial hold on to their authorities
			same = same && old.redisRoots().Equal(next.redisRoots())
		case "NoticeWebhookCA":
			same = same && old.noticeRoots().Equal(next.noticeRoots())
		}
		if !same && !reloaded[name] {
			names = append(names, name)
		}
	}
	return names
}

// serverTLS answers each handshake with the certificate of the time.
func (p *plan) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.certificate.Load(), nil },
		NextProtos:     []string{"http/1.1"}, // HTTP/2 has another way to WebSocket
	}
}
