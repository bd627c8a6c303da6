package admin

import (
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"chatvault/protocol/cmdline/admin/admintest"
)

func start(t *testing.T, c Config) string {
	t.Helper()
	at, stop, err := Start(t.Context(), "127.0.0.1:0", c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return "http://" + at.String()
}

func TestEndpoints(t *testing.T) {
	registry := prometheus.NewRegistry()
	n := prometheus.NewCounter(prometheus.CounterOpts{Name: "chatd_n_total", Help: "N."})
	registry.MustRegister(n)
	n.Add(3)
	var ready atomic.Bool
	url := start(t, Config{Ready: ready.Load, Metrics: registry})
	for _, c := range []struct {
		path string
		code int
		body string
	}{
		{"/livez", 200, "ok\n"}, {"/readyz", 503, "not ready\n"}, {"/metrics", 200, "chatd_n_total 3"},
		{"/debug/pprof/", 404, ""}, {"/debug/pprof/heap", 404, ""}, {"/", 404, ""},
	} {
		if code, body := admintest.Get(t, url+c.path); code != c.code || !strings.Contains(body, c.body) {
			t.Errorf("%s: %d %q, want %d %q", c.path, code, body, c.code, c.body)
		}
	}
	ready.Store(true)
	if code, _ := admintest.Get(t, url+"/readyz"); code != 200 {
		t.Errorf("ready: %d", code)
	}
	var build map[string]string
	if _, body := admintest.Get(t, url+"/buildinfo"); json.Unmarshal([]byte(body), &build) != nil || build["go"] == "" {
		t.Errorf("buildinfo: %q", body)
	}
}

func TestProfilesOnlyWhenAskedFor(t *testing.T) {
	url := start(t, Config{Ready: func() bool { return true }, Metrics: prometheus.NewRegistry(), Profiles: true})
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1"} {
		if code, body := admintest.Get(t, url+path); code != 200 || !strings.Contains(body, "goroutine") {
			t.Errorf("%s: %d", path, code)
		}
	}
}

func TestAnAddressThatIsTaken(t *testing.T) {
	url := start(t, Config{Ready: func() bool { return true }, Metrics: prometheus.NewRegistry()})
	if _, _, err := Start(t.Context(), strings.TrimPrefix(url, "http://"), Config{Metrics: prometheus.NewRegistry()}); err == nil {
		t.Error("two listen at one address")
	}
}

func TestFlagsAreChecked(t *testing.T) {
	for _, c := range []struct {
		flags AdminFlags
		want  string // "" = good
	}{
		{AdminFlags{}, ""},
		{AdminFlags{Admin: ":9090"}, ""},
		{AdminFlags{Admin: "127.0.0.1:0", AdminPprof: true}, ""},
		{AdminFlags{Admin: "[::1]:0", AdminPprof: true}, ""},
		{AdminFlags{Admin: "localhost:0", AdminPprof: true}, ""},
		{AdminFlags{AdminPprof: true}, "wants admin"},
		{AdminFlags{Admin: "9090"}, "want HOST:PORT"},
		{AdminFlags{Admin: ":9090", AdminPprof: true}, "not on loopback"},
		{AdminFlags{Admin: "10.0.0.1:9090", AdminPprof: true}, "not on loopback"},
	} {
		err := c.flags.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.flags, err, c.want)
		}
	}
}
