package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"chatvault/client/cmd/chatload/internal/result"
)

func example() *result.Result {
	op := &result.Op{
		Name: "echo", Offered: 100, Done: 98, Failed: 2, Missed: 2, OfferedRate: 10, AchievedRate: 9.6, Interval: 1,
		Outcomes: map[string]int64{"ok": 96, "timeout": 2}, Errors: map[string]int64{"timeout": 2},
	}
	schedule, service := result.NewHistogram(), result.NewHistogram()
	for i := range 96 {
		schedule.Record(time.Duration(i+1) * 10 * time.Millisecond)
		service.Record(time.Duration(i+1) * time.Millisecond)
	}
	op.Schedule, op.Service = schedule.Summary(), service.Summary()
	for i := range 10 {
		op.Series = append(op.Series, result.Point{Offered: 10, Done: 9, Failed: int64(i % 2), P50: float64(i), P99: 20, Max: 30})
	}
	untimed := &result.Op{
		Name: "hold", Interval: 1, Done: 1, Outcomes: map[string]int64{"connection_lost": 1}, Errors: map[string]int64{},
		Schedule: result.NewHistogram().Summary(), Service: result.NewHistogram().Summary(),
	}
	return &result.Result{
		Version: result.Version, Scenario: "echo", Targets: []string{`ws://x/"><script>alert(1)</script>`},
		Started: time.Unix(0, 0), Seconds: 10.5, Interrupted: true, Ops: []*result.Op{op, untimed},
		Settings: map[string]string{"rate": "10", "b&b": "<i>"}, Warnings: []string{"the generator is <slow>"},
		Machines: []result.Machine{{Host: "h", CPU: "c", CPUs: 2, Platform: "linux/amd64", Version: "chatload 1"}},
		Servers: []result.Server{{
			Name: "chatd", RSSBefore: 10 << 20, RSSAfter: 20 << 20, CPU: 1.25, DescriptorsBefore: -1, ConnectionsMax: 4321, PerConnection: 2560,
			Events: map[string]float64{`chatd_frames_total{dir="in"}`: 12345},
			Series: []result.ServerPoint{{Seconds: 1, RSS: 10 << 20, Goroutines: -1}, {Seconds: 2, RSS: 20 << 20, CPU: 0.5, Connections: 4321, Goroutines: -1}},
		}},
		Verdicts: []result.Verdict{{SLO: "echo.p99<1s", Was: "950ms", Kept: true}, {SLO: "echo.errors<1", Was: "2"}},
	}
}

func render(t *testing.T, r *result.Result) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTellsEverything(t *testing.T) {
	html := render(t, example())
	for _, want := range []string{
		"interrupted", "echo.p99&lt;1s", "missed", "timeout", "9.6/s", "950 ms", "linux/amd64", "chatload 1",
		"20.0 MiB", "1.25 s", "4321", "2.5 KiB", "12345", "chatd_frames_total{dir=&#34;in&#34;}", "Memory (MiB)", "Latency by percentile", "99.99%", "the generator is &lt;slow&gt;", "connection_lost",
	} {
		if !strings.Contains(html, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	// Three plots of what was timed, one of what was not, and memory, CPU and
	// connections of the other side, whose goroutines are not known.
	if n := strings.Count(html, "<svg"); n != 7 {
		t.Errorf("%d plots, want 7", n)
	}
}

// Nothing in it makes a browser ask anybody, and nothing of a result is markup.
func TestSelfContained(t *testing.T) {
	html := render(t, example())
	for _, bad := range []string{"<script", "<link", "<iframe", "<img", "<object", "<embed", "src=", "@import", "url(", "xlink:", "http://", "https://", "<i>"} {
		if strings.Contains(html, bad) {
			t.Errorf("it has %q", bad)
		}
	}
	for _, href := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(html, -1) {
		if !strings.HasPrefix(href[1], "#") {
			t.Errorf("a link to %s", href[1])
		}
	}
}

// Every tag that is opened is closed, and every number in a plot is one.
func TestWellFormed(t *testing.T) {
	for _, r := range []*result.Result{example(), {Version: 1, Scenario: "empty"}} {
		html := render(t, r)
		d := xml.NewDecoder(strings.NewReader(html))
		d.Entity = xml.HTMLEntity
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		for _, bad := range []string{"NaN", "Inf", "%!", "ZgotmplZ", "<nil>"} {
			if strings.Contains(html, bad) {
				t.Errorf("it has %s", bad)
			}
		}
	}
}

func TestAxes(t *testing.T) {
	for _, high := range []float64{0, 0.3, 1, 9.6, 10, 61, 12345, math.NaN()} {
		a := linear(high)
		if a.high < high || len(a.ticks) < 2 || len(a.ticks) > 8 || a.part(0) != 0 {
			t.Errorf("up to %v: %+v", high, a)
		}
	}
	for _, values := range [][]float64{nil, {0, -1}, {5}, {1}, {0.01, 3000}} {
		a := logarithmic(values)
		if a.high <= a.low || len(a.ticks) < 2 {
			t.Errorf("of %v: %+v", values, a)
		}
		for _, v := range values {
			if v > 0 && (math.Log10(v) < a.low || math.Log10(v) > a.high) {
				t.Errorf("%v is not on %+v", v, a)
			}
		}
	}
}
