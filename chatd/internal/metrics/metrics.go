// Package metrics shows Prometheus what a relay does. Labels come from closed
// sets: the reasons, statuses and limits of the program, never an account, an
// address or anything else that somebody sent.
package metrics

import (
	"runtime/metrics"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"chatvault/chatd/internal/count"
	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/relay"
	"chatvault/chatd/internal/uplink"
	"chatvault/protocol/frame"
)

// Sources are what is read at each scrape.
type Sources struct {
	Relay  interface{ Load() relay.Load }
	Vaults interface{ Load() uplink.Load }
	// RedisFailing says, by what it is used for, whether Redis fails now.
	RedisFailing map[string]func() bool
}

// Metrics holds chatd's metrics.
type Metrics struct {
	// Registry has them all, those of the process and of Go included.
	Registry  *prometheus.Registry
	handshake prometheus.Histogram
	trips     *prometheus.HistogramVec
	commands  prometheus.Counter
	dials     *prometheus.CounterVec
}

// New returns metrics that count what counts counts.
func New(counts *count.Set) *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		handshake: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "chatd_handshake_seconds",
			Help:    "Time from the request for an upgrade to READY, the client's own time included.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		trips: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "chatd_redis_seconds",
			Help:    "Time of a round trip to Redis, which may carry many commands, by outcome.",
			Buckets: []float64{.0002, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}, []string{"outcome"}),
		commands: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "chatd_redis_commands_total", Help: "Commands sent to Redis.",
		}),
		dials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chatd_redis_connects_total", Help: "New connections to Redis, by outcome.",
		}, []string{"outcome"}),
	}
	for _, outcome := range []string{outcomeOK, outcomeFailed} {
		m.trips.WithLabelValues(outcome)
		m.dials.WithLabelValues(outcome)
	}
	m.Registry.MustRegister(
		m.handshake, m.trips, m.commands, m.dials, &events{counts},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Handshake notes the time of a handshake that led to READY.
func (m *Metrics) Handshake(d time.Duration) { m.handshake.Observe(d.Seconds()) }

// Outcomes of what is asked of Redis.
const (
	outcomeOK     = "ok"
	outcomeFailed = "failed"
)

func outcome(err error) string {
	if err != nil {
		return outcomeFailed
	}
	return outcomeOK
}

// RedisTrip notes a round trip to Redis.
func (m *Metrics) RedisTrip(took time.Duration, commands int, err error) {
	m.trips.WithLabelValues(outcome(err)).Observe(took.Seconds())
	m.commands.Add(float64(commands))
}

// RedisDial notes a new connection to Redis.
func (m *Metrics) RedisDial(err error) { m.dials.WithLabelValues(outcome(err)).Inc() }

// Watch adds what is read from the parts of a running relay.
func (m *Metrics) Watch(s Sources) { m.Registry.MustRegister(&gauges{s}) }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// family is a group of counters whose names begin alike; what follows is the
// value of the one label.
type family struct {
	prefix string
	desc   *prometheus.Desc
	known  []string // shown as 0 before they first happen
}

// families are tried in this order. The last takes everything.
var families = []family{
	{"closed_", desc("chatd_closes_total", "Connections that ended, by reason.", "reason"), relay.Reasons()},
	{"limited_", desc("chatd_ratelimited_total", "What a limit refused, by limit.", "limit"), limits()},
	{"vault_refused_", desc("chatd_vault_refusals_total", "REFUSE frames of vault nodes, by status.", "code"), append(statuses(), "unknown")},
	{"refused_", desc("chatd_refusals_total", "Requests and frames that chatd refused, by cause.", "cause"), append(statuses(),
		"max_connections", "sockets", "handshake_gate", "auth_gate", "tls", "upgrade", "no_subprotocol", "no_address", "not_proxied")},
	{"notice_", desc("chatd_notices_total", "Doorbells between relays, by what became of them.", "outcome"), []string{
		"sent", "heard", "unheard", "not_sent", "malformed",
	}},
	{"webhook_", desc("chatd_notice_webhooks_total", "Notices to the app's backend, by what became of them.", "outcome"), []string{
		"delivered", "refused", "failed", "dropped", "joined", "retried",
	}},
	{"", desc("chatd_events_total", "Everything else that is counted, by event.", "event"), []string{
		"connections", "authenticated", "sessions_attached", "notices", "dropped_not_attached", "queues_full", "credit_waits", "sessions_overrun", "sessions_stalled", "redis_failed", "redis_flushed", "reloaded", "reload_failed",
	}},
}

func limits() []string {
	names := []string{relay.SessionsPerConnection}
	for name := range ratelimit.Defaults() {
		names = append(names, name)
	}
	return names
}

// statuses names what a REFUSE may say.
func statuses() []string {
	var names []string
	for _, s := range frame.Statuses() {
		if s != frame.OK && s < frame.WrongPassword { // beyond: inside vault sessions only
			names = append(names, s.String())
		}
	}
	return names
}

// events shows a count.Set.
type events struct{ counts *count.Set }

// Describe implements prometheus.Collector.
func (*events) Describe(to chan<- *prometheus.Desc) {
	for _, f := range families {
		to <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (e *events) Collect(to chan<- prometheus.Metric) {
	left := e.counts.All()
	for _, f := range families {
		values := map[string]int64{}
		for _, label := range f.known {
			values[label] = 0
		}
		for name, n := range left {
			if label, ok := strings.CutPrefix(name, f.prefix); ok {
				values[label] = n
				delete(left, name)
			}
		}
		for label, n := range values {
			to <- prometheus.MustNewConstMetric(f.desc, prometheus.CounterValue, float64(n), label)
		}
	}
}

var (
	connections = desc("chatd_connections", "Clients' connections, by state: parked ones have no goroutine and no buffers.", "state")
	sessions    = desc("chatd_vault_sessions", "Vault sessions attached to connections.")
	queued      = desc("chatd_queued_bytes", "Bytes of frames that wait to be written to clients.")
	frames      = desc("chatd_frames_total", "Frames, by direction: in is from clients.", "dir")
	bytes       = desc("chatd_bytes_total", "Bytes of frames, by direction: in is from clients.", "dir")
	uplinks     = desc("chatd_uplinks", "Vault nodes, by state of their best link.", "state")
	uplinkLinks = desc("chatd_uplink_links", "Links to vault nodes, by state: missing ones should be up.", "state")
	uplinkQueue = desc("chatd_uplink_queued_bytes", "Bytes that wait to be written to vault nodes.")
	redisUp     = desc("chatd_redis_up", "1 while Redis answers, 0 while this relay goes on alone, by use.", "use")
	memory      = desc("chatd_memory_bytes_per_connection", "Go's memory in use (heap, stacks, runtime), divided by connections; 0 without any.")
)

// gauges shows what Sources say.
type gauges struct{ Sources }

// Describe implements prometheus.Collector.
func (*gauges) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connections, sessions, queued, frames, bytes, uplinks, uplinkLinks, uplinkQueue, redisUp, memory} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	l := g.Relay.Load()
	gauge(connections, float64(l.Active), "active")
	gauge(connections, float64(l.Parked), "parked")
	gauge(sessions, float64(l.Sessions))
	gauge(queued, float64(l.QueuedBytes))
	counter(frames, l.FramesIn, "in")
	counter(frames, l.FramesOut, "out")
	counter(bytes, l.BytesIn, "in")
	counter(bytes, l.BytesOut, "out")
	gauge(memory, memoryPer(l.Active+l.Parked))
	u := g.Vaults.Load()
	gauge(uplinks, float64(u.Up), "up")
	gauge(uplinks, float64(u.Draining), "draining")
	gauge(uplinks, float64(u.Down), "down")
	gauge(uplinkLinks, float64(u.Links), "up")
	gauge(uplinkLinks, float64(u.Missing), "missing")
	gauge(uplinkQueue, float64(u.QueuedBytes))
	for use, failing := range g.RedisFailing {
		up := 1.0
		if failing() {
			up = 0
		}
		gauge(redisUp, up, use)
	}
}

// memoryPer is Go's memory that is not free or given back, per connection.
func memoryPer(connections int) float64 {
	if connections == 0 {
		return 0
	}
	s := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(s)
	return float64(s[0].Value.Uint64()-s[1].Value.Uint64()-s[2].Value.Uint64()) / float64(connections)
}
