package observe

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/client/cmd/chatload/internal/result"
)

const page = `# HELP go_goroutines Number of goroutines.
# TYPE go_goroutines gauge
go_goroutines 21
process_cpu_seconds_total 1.5
process_open_fds 14
process_resident_memory_bytes 2.097152e+07
chatd_connections{state="active"} 3
chatd_connections{state="parked"} 4 1395066363000
chatd_closes_total{reason="a } brace"} 2
chatd_frames_total{dir="in"} 10
go_gc_total 9
nonsense
`

func TestParse(t *testing.T) {
	all, err := parse([]byte(page))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{"chatd_connections": 7, "process_resident_memory_bytes": 20 << 20, "chatd_closes_total": 2, "go_goroutines": 21} {
		if got, ok := family(all, name); !ok || got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, bad := range []string{"", "<html>not found</html>", "# only comments\n"} {
		if all, err := parse([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, all)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(page))
	f.Add([]byte("a{b=\"}\"} NaN\n} 1\n{} +Inf"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parse(b)
		if err == nil && len(all) == 0 {
			t.Fatal("nothing, and no error")
		}
		for name := range all {
			if name == "" || len(name) > len(b) {
				t.Fatalf("a metric %q", name)
			}
			family(all, name)
		}
	})
}

// fake is a process that serves metrics; each scrape sees 100 more connections
// of 2 KiB each, and half a second of CPU.
func fake(t *testing.T, broken *atomic.Bool) string {
	var scrapes atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() || r.URL.Path != "/metrics" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		n := scrapes.Add(1) - 1
		fmt.Fprintf(w, "process_resident_memory_bytes %d\nprocess_cpu_seconds_total %v\nchatd_connections{state=\"parked\"} %d\nchatd_frames_total{dir=\"in\"} %d\n",
			10<<20+n*100*2048, float64(n)/2, n*100, n*7)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestWatch(t *testing.T) {
	var broken atomic.Bool
	target, err := Page("relay=" + fake(t, &broken))
	if err != nil {
		t.Fatal(err)
	}
	w, err := Start(t.Context(), []Target{target}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	servers, lost := w.Stop(t.Context())
	if len(servers) != 1 || len(lost) != 0 {
		t.Fatalf("%+v, lost %v", servers, lost)
	}
	s := servers[0]
	if s.Name != "relay" || s.RSSBefore != 10<<20 || s.CPU != 0.5 || s.ConnectionsAfter != 100 || s.PerConnection != 2048 || s.DescriptorsAfter != -1 ||
		s.Events[`chatd_frames_total{dir="in"}`] != 7 || len(s.Events) != 1 {
		t.Errorf("%+v", s)
	}
	if w, err = Start(t.Context(), []Target{target}, time.Hour); err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	if servers, lost := w.Stop(t.Context()); len(servers) != 0 || len(lost) != 1 {
		t.Errorf("it is gone: %+v, lost %v", servers, lost)
	}
	if _, err := Start(t.Context(), []Target{target}, time.Hour); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("it was never there: %v", err)
	}
}

func TestCompare(t *testing.T) {
	series := []result.ServerPoint{{RSS: 5 << 20, Connections: 1000}, {RSS: 9 << 20, Connections: 10}}
	s := compare("a", sample{rss: 1 << 20, cpu: 7}, sample{rss: 2 << 20, cpu: 1}, series)
	if !s.Restarted || s.CPU != 1 || s.PerConnection != 0 || s.RSSMax != 9<<20 || s.ConnectionsMax != 1000 {
		t.Errorf("another process: %+v", s)
	}
	s = compare("a", sample{rss: 1 << 20, cpu: 7}, sample{rss: 2 << 20, cpu: 9}, series)
	if s.Restarted || s.CPU != 2 || s.PerConnection != (4<<20)/1000 {
		t.Errorf("%+v", s)
	}
}

func TestThisProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // there is no /proc
	}
	s, err := process(os.Getpid())
	if err != nil || s.rss < 1<<20 || s.cpu < 0 || s.cpu > 3600 || s.descriptors < 3 {
		t.Errorf("%+v, %v", s, err)
	}
	if idle, total, ok := Idle(); !ok || idle <= 0 || total <= idle {
		t.Errorf("idle %v of %v s", idle, total)
	}
}

func TestPage(t *testing.T) {
	for text, want := range map[string]Target{
		"http://127.0.0.1:9090":             {Name: "127.0.0.1:9090", url: "http://127.0.0.1:9090/metrics"},
		"chatd=https://a.example/m?x=1":     {Name: "chatd", url: "https://a.example/m?x=1"},
		"http://a.example/metrics?chatd=no": {Name: "a.example", url: "http://a.example/metrics?chatd=no"},
	} {
		if got, err := Page(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}
