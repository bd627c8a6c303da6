package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"chatvault/vaultd/internal/session"
	"chatvault/vaultd/internal/uplink"
)

// Sources are what is read at each scrape.
type Sources struct {
	Sessions interface {
		Len() int
		Count(session.Event) uint64
	}
	Uplinks interface {
		Len() int
		Count(uplink.Event) uint64
	}
	// HSM says how the module stands; nil for one without sessions.
	HSM func() HSMState
	// Ready says, by part, whether it was healthy when it was last asked.
	Ready map[string]func() bool
}

// HSMState is how an HSM module stands.
type HSMState struct {
	Idle, Busy           int    // HSM sessions
	Recoveries, Recycles uint64 // restarts of the module: after faults, to free its memory
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	sessions      = desc("vaultd_sessions", "Vault sessions, those in their handshake included.")
	sessionEvents = desc("vaultd_session_events_total", "What became of vault sessions and their frames, by event.", "event")
	uplinks       = desc("vaultd_uplinks", "Uplinks of relays.")
	uplinkEvents  = desc("vaultd_uplink_events_total", "What became of uplinks, by event.", "event")
	hsmSessions   = desc("vaultd_hsm_sessions", "HSM sessions, by state; none while the module is away.", "state")
	hsmRestarts   = desc("vaultd_hsm_restarts_total", "How often the HSM's module was initialised anew: after a fault, or to free its memory.", "cause")
	ready         = desc("vaultd_ready", "1 while a part does its work, 0 while it does not, by part.", "part")
)

// Watch adds what is read from the parts of a running node.
func (m *Metrics) Watch(s Sources) { m.Registry.MustRegister(&watched{s}) }

type watched struct{ Sources }

// Describe implements prometheus.Collector.
func (*watched) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sessions, sessionEvents, uplinks, uplinkEvents, hsmSessions, hsmRestarts, ready} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (w *watched) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(sessions, w.Sessions.Len())
	for _, e := range session.Events() {
		counter(sessionEvents, w.Sessions.Count(e), e.String())
	}
	gauge(uplinks, w.Uplinks.Len())
	for _, e := range uplink.Events() {
		counter(uplinkEvents, w.Uplinks.Count(e), e.String())
	}
	if w.HSM != nil {
		h := w.HSM()
		gauge(hsmSessions, h.Idle, "idle")
		gauge(hsmSessions, h.Busy, "busy")
		counter(hsmRestarts, h.Recoveries, "fault")
		counter(hsmRestarts, h.Recycles, "memory")
	}
	for part, is := range w.Ready {
		up := 0
		if is() {
			up = 1
		}
		gauge(ready, up, part)
	}
}
