package main

import (
	"maps"
	"strings"
	"testing"

	"chatvault/chatd/internal/ratelimit"
)

func TestWhatIsWrongInTheConfigurationIsSaid(t *testing.T) {
	base := newSite(t)
	wrongRole, wrongKey := base.pki.Issue("somebody.chatvault.internal")
	loose := base.file("password", []byte("secret"), 0o644)
	for name, c := range map[string]struct {
		settings map[string]any // nil: leave it out
		want     string
	}{
		"a misspelt setting":          {map[string]any{"lisen": ":1"}, `did you mean "listen"`},
		"too many uplinks":            {map[string]any{"vault-links": 5}, "vault-links"},
		"no vault":                    {map[string]any{"vault": nil}, "--vault"},
		"a vault without a port":      {map[string]any{"vault": []string{"10.0.0.7"}}, "want HOST:PORT"},
		"a certificate of no role":    {map[string]any{"vault-cert": wrongRole, "vault-key": wrongKey}, "chatd.chatvault.internal"},
		"an authority that is none":   {map[string]any{"vault-ca": loose}, "holds no certificate"},
		"plain beyond loopback":       {map[string]any{"listen": ":8080", "host": []string{"a"}}, "set tls-cert"},
		"no host beyond loopback":     {map[string]any{"listen": ":8080", "behind-proxy": []string{"10.0.0.0/8"}}, "host: wanted"},
		"a host that is a URL":        {map[string]any{"host": []string{"wss://a"}}, "host"},
		"an origin without a scheme":  {map[string]any{"origin": []string{"app.example"}}, "origin"},
		"an origin with a path":       {map[string]any{"origin": []string{"https://app.example/"}}, "origin"},
		"a range that is none":        {map[string]any{"behind-proxy": []string{"10.0.0.1/8"}}, "behind-proxy"},
		"a certificate without a key": {map[string]any{"tls-cert": "x"}, "both or none"},
		"a fleet id that is none":     {map[string]any{"fleet": "Test Fleet"}, "fleet"},
		"a bundle that is none":       {map[string]any{"fleet-bundle": loose}, "fleet-bundle"},
		"no issuers":                  {map[string]any{"issuers": nil}, "issuers"},
		"a Redis that is none":        {map[string]any{"redis": "localhost"}, "redis"},
		"a password in the URL":       {map[string]any{"redis": "redis://:hunter2@localhost"}, "redis-password-file"},
		"a password for everybody":    {map[string]any{"redis": "redis://localhost", "redis-password-file": loose}, "chmod 600"},
		"a password for nothing":      {map[string]any{"redis-password-file": loose}, "no password"},
		"an unknown limit":            {map[string]any{"limit": map[string]string{"Opens": "1/1/1s"}}, "none of that name"},
		"a limit that is none":        {map[string]any{"limit": map[string]string{"OpensPerAccount": "1/1"}}, "burst/count/period"},
		"no file of limits":           {map[string]any{"limits": "no/such/file"}, "no/such/file"},
		"too many connections":        {map[string]any{"max-connections": 1 << 40}, "open files"},
		"an admin that is none":       {map[string]any{"admin": "9090"}, "admin"},
		"profiles for everybody":      {map[string]any{"admin": ":9090", "admin-pprof": true}, "not on loopback"},
		"profiles nowhere":            {map[string]any{"admin-pprof": true}, "wants admin"},
		"an endless drain delay":      {map[string]any{"drain-delay": "1h"}, "drain-delay"},
		"an endless ping":             {map[string]any{"ping": "24h"}, "ping"},
		"no time for AUTH":            {map[string]any{"auth-timeout": "0s"}, "auth-timeout"},
		"no sessions":                 {map[string]any{"max-sessions-per-connection": 0}, "max-sessions"},
	} {
		t.Run(name, func(t *testing.T) {
			s := *base
			s.t = t
			s.settings = maps.Clone(base.settings)
			for k, v := range c.settings {
				if s.settings[k] = v; v == nil {
					delete(s.settings, k)
				}
			}
			for _, cmd := range []string{"check-config", "serve"} {
				code, _, stderr := run(t, cmd, "--config", s.config())
				if code != 2 || !strings.Contains(stderr, c.want) || strings.Contains(stderr, "hunter2") {
					t.Errorf("%s: exit code %d, %q; want 2 and %q", cmd, code, stderr, c.want)
				}
			}
		})
	}
	if code, out, stderr := run(t, "check-config", "--config", base.config()); code != 0 || out != "ok\n" {
		t.Errorf("a good configuration: %d, %q, %q", code, out, stderr)
	}
}

func TestLimitsByFlagAndByFile(t *testing.T) {
	s := newSite(t)
	s.settings["limit"] = map[string]string{"OpensPerAccount": "500/500/1m", "ConnectionsPerIP": "off"}
	for _, args := range [][]string{
		{"--config", s.config()},
		{"--config", s.config(), "--limit", "OpensPerAccount=500/500/1m", "--limit", "ConnectionsPerIP=off"},
	} {
		var g grammar
		if err := app.Parse(&g, append([]string{"serve"}, args...)); err != nil {
			t.Fatal(err)
		}
		rules, err := readLimits(&g.Serve.Config)
		if err != nil {
			t.Fatal(err)
		}
		set := rules.Set
		if set["OpensPerAccount"].Burst != 500 || set["ConnectionsPerIP"] != ratelimit.Off || set["FramesPerConnection"] == ratelimit.Off {
			t.Errorf("%v: %v", args, set)
		}
	}
}
