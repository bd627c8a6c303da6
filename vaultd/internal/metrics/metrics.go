// Package metrics shows Prometheus what a vault node does. Labels come from
// closed sets: kinds of requests, statuses, events of the program, never an
// account, a record or anything else that somebody sent.
//
// It stands around the parts of the vault, so that they know nothing of it:
// what is not one of their own counters is measured where they are called.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/vault"
)

// Metrics holds a vault node's metrics.
type Metrics struct {
	// Registry has them all, those of the process and of Go included.
	Registry *prometheus.Registry

	ops          *prometheus.CounterVec
	opSeconds    *prometheus.HistogramVec
	counted      map[vault.Event]prometheus.Counter
	storeSeconds *prometheus.HistogramVec
	storeErrors  *prometheus.CounterVec
	hsmSeconds   *prometheus.HistogramVec
	hsmErrors    *prometheus.CounterVec
}

// New returns metrics in which nothing has happened yet.
func New() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	seconds := func(name, help, label string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help,
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{label})
	}
	one := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		Registry:     prometheus.NewRegistry(),
		ops:          counter("vaultd_ops_total", "Requests inside vault sessions, by kind and by the status of the reply.", "op", "code"),
		opSeconds:    seconds("vaultd_op_seconds", "Time that a request took, by kind.", "op"),
		storeSeconds: seconds("vaultd_store_seconds", "Time that a call of the record store took, by call.", "call"),
		storeErrors:  counter("vaultd_store_errors_total", "Calls of the record store that failed: unknown ones may have been stored. A swap that lost to another is a conflict, and no fault.", "call", "error"),
		hsmSeconds:   seconds("vaultd_hsm_seconds", "Time that an operation of the HSM took, waiting for a session included.", "call"),
		hsmErrors:    counter("vaultd_hsm_errors_total", "Operations of the HSM that failed.", "call"),
		counted: map[vault.Event]prometheus.Counter{
			vault.Charged:   one("vaultd_attempts_charged_total", "Attempts charged by this node. One whose storing was in doubt is not in it."),
			vault.Restored:  one("vaultd_attempts_restored_total", "Recoveries that succeeded, and so gave the attempts back."),
			vault.Destroyed: one("vaultd_keys_destroyed_total", "Records whose key this node destroyed, after ten wrong passwords."),
		},
	}
	m.Registry.MustRegister(m.ops, m.opSeconds, m.storeSeconds, m.storeErrors, m.hsmSeconds, m.hsmErrors,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, c := range m.counted {
		m.Registry.MustRegister(c)
	}
	m.begin()
	return m
}

// begin shows what has not happened yet as 0, so that a rate has a beginning.
func (m *Metrics) begin() {
	for _, op := range opNames {
		m.opSeconds.WithLabelValues(op)
		m.ops.WithLabelValues(op, frame.OK.String())
	}
	for _, call := range storeCalls {
		m.storeSeconds.WithLabelValues(call)
		for _, kind := range storeErrorNames {
			m.storeErrors.WithLabelValues(call, kind)
		}
	}
	for _, call := range hsmCalls {
		m.hsmSeconds.WithLabelValues(call)
		m.hsmErrors.WithLabelValues(call)
	}
}

// Count is for vault.Config.Count.
func (m *Metrics) Count(e vault.Event) { m.counted[e].Inc() }

// opNames are the kinds of requests.
var opNames = map[vaultmsg.Kind]string{
	vaultmsg.KAuthorise: "authorise", vaultmsg.KStatus: "status",
	vaultmsg.KRegisterStart: "register_start", vaultmsg.KRegisterFinish: "register_finish",
	vaultmsg.KRecoverStart: "recover_start", vaultmsg.KRecoverFinish: "recover_finish", vaultmsg.KAbort: "abort",
	vaultmsg.KDelete: "delete", vaultmsg.KClaim: "claim", vaultmsg.KCancel: "cancel",
}
