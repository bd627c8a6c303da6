package metrics

import (
	"testing"
	"time"

	"chatvault/chatd/internal/count"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/relay"
	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/cmdline/admin/admintest"
)

type carries relay.Load

func (c carries) Load() relay.Load { return relay.Load(c) }

type links uplink.Load

func (l links) Load() uplink.Load { return uplink.Load(l) }

func TestWhatIsCountedIsShown(t *testing.T) {
	counts := new(count.Set)
	m := New(counts)
	failing := true
	m.Watch(Sources{
		Relay:        carries{Active: 2, Parked: 5, Sessions: 3, QueuedBytes: 77, FramesIn: 10, BytesIn: 1000, FramesOut: 11, BytesOut: 1100},
		Vaults:       links{Up: 1, Draining: 2, Down: 3, Links: 5, Missing: 7, QueuedBytes: 9},
		RedisFailing: map[string]func() bool{"limits": func() bool { return failing }, "routes": func() bool { return false }},
	})
	m.Handshake(20 * time.Millisecond)
	for _, name := range []string{
		"closed_silent", "closed_silent", "limited_OpensPerAccount", "refused_busy", "vault_refused_busy", "authenticated", "something_new",
	} {
		counts.Add(name)
	}
	got := admintest.Samples(t, m.Registry)
	for name, want := range map[string]string{
		"chatd_connections state=active": "2", "chatd_connections state=parked": "5", "chatd_vault_sessions": "3", "chatd_queued_bytes": "77",
		"chatd_frames_total dir=in": "10", "chatd_frames_total dir=out": "11", "chatd_bytes_total dir=in": "1000", "chatd_bytes_total dir=out": "1100",
		"chatd_uplinks state=up": "1", "chatd_uplinks state=draining": "2", "chatd_uplinks state=down": "3", "chatd_uplink_queued_bytes": "9",
		"chatd_uplink_links state=up": "5", "chatd_uplink_links state=missing": "7",
		"chatd_redis_up use=limits": "0", "chatd_redis_up use=routes": "1", "chatd_handshake_seconds": "1",
		"chatd_closes_total reason=silent": "2", "chatd_closes_total reason=malformed": "0",
		"chatd_ratelimited_total limit=OpensPerAccount": "1", "chatd_ratelimited_total limit=SessionsPerConnection": "0",
		"chatd_refusals_total cause=busy": "1", "chatd_vault_refusals_total code=busy": "1", "chatd_vault_refusals_total code=unknown": "0",
		"chatd_events_total event=authenticated": "1", "chatd_events_total event=something_new": "1", "chatd_events_total event=notices": "0",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %s", name, got[name], want)
		}
	}
	for limit := range ratelimit.Defaults() {
		if got["chatd_ratelimited_total limit="+limit] == "" {
			t.Errorf("the limit %s is not shown before it refuses", limit)
		}
	}
	if got["chatd_memory_bytes_per_connection"] == "0" || got["go_goroutines"] == "" {
		t.Errorf("memory per connection %s, goroutines %s", got["chatd_memory_bytes_per_connection"], got["go_goroutines"])
	}
	failing = false
	if got := admintest.Samples(t, m.Registry)["chatd_redis_up use=limits"]; got != "1" {
		t.Errorf("redis answers again: %s", got)
	}
}

// Names and help follow Prometheus' conventions.
func TestLint(t *testing.T) {
	m := New(new(count.Set))
	m.Watch(Sources{Relay: carries{}, Vaults: links{}})
	admintest.Lint(t, m.Registry, "chatd_")
}
