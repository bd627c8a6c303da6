// Package admintest helps to test what a daemon shows its operators.
package admintest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// Get asks a listener.
func Get(t testing.TB, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// Samples returns every value by its name and labels, as "name label=value";
// histograms by their count.
func Samples(t testing.TB, g prometheus.Gatherer) map[string]string {
	t.Helper()
	all, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, family := range all {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, l := range metric.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			switch {
			case metric.Counter != nil:
				out[name] = fmt.Sprint(metric.Counter.GetValue())
			case metric.Gauge != nil:
				out[name] = fmt.Sprint(metric.Gauge.GetValue())
			case metric.Histogram != nil:
				out[name] = fmt.Sprint(metric.Histogram.GetSampleCount())
			}
		}
	}
	return out
}

// Want compares some samples.
func Want(t testing.TB, g prometheus.Gatherer, want map[string]string) {
	t.Helper()
	got := Samples(t, g)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s: %q, want %s", name, got[name], value)
		}
	}
}

// Lint says where names and help of the metrics with this prefix do not follow
// Prometheus' conventions.
func Lint(t testing.TB, g prometheus.Gatherer, prefix string) {
	t.Helper()
	all, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(all).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, prefix) {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
