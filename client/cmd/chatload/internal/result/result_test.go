package result

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

// made is a result of one operation whose latencies are ms.
func made(name string, ms ...int) *Result {
	op := &Op{Name: name, Interval: 1, Outcomes: map[string]int64{"ok": int64(len(ms))}, Errors: map[string]int64{}}
	schedule, service := NewHistogram(), NewHistogram()
	for i, v := range ms {
		d := time.Duration(v) * time.Millisecond
		schedule.Record(2 * d)
		service.Record(d)
		op.Series = append(op.Series, Point{Offered: 1, Done: 1, P50: float64(2 * v), P99: float64(2 * v), Max: float64(2 * v)})
		op.Done, op.Offered = int64(i+1), int64(i+1)
	}
	op.OfferedRate, op.AchievedRate = 10, 9
	op.Schedule, op.Service = schedule.Summary(), service.Summary()
	return &Result{
		Version: Version, Scenario: "s", Targets: []string{"ws://a"}, Started: time.Unix(1000, 0).UTC(), Seconds: 3,
		Settings: map[string]string{"rate": "10"}, Machines: []Machine{{CPUs: 2}}, Ops: []*Op{op},
	}
}

func TestReadsWhatItWrites(t *testing.T) {
	r := made("echo", 1, 5, 100)
	r.Warn("slow")
	r.Warn("slow")
	var first, second bytes.Buffer
	if err := r.Write(&first); err != nil {
		t.Fatal(err)
	}
	text := first.String()
	again, err := Read(&first)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Write(&second); err != nil {
		t.Fatal(err)
	}
	if text != second.String() || len(again.Warnings) != 1 {
		t.Errorf("it came back as %s", second.String())
	}
	if got := again.Op("echo").Schedule.Histogram.Quantile(50); got < 9.9 || got > 10.1 {
		t.Errorf("p50 %v ms, want 10", got)
	}
}

func TestReadRefuses(t *testing.T) {
	var good bytes.Buffer
	if err := made("echo", 1).Write(&good); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":         "",
		"version":         strings.Replace(good.String(), `"version": 1`, `"version": 2`, 1),
		"unknown field":   strings.Replace(good.String(), `"seconds"`, `"minutes"`, 1),
		"name":            strings.Replace(good.String(), `"echo"`, `"../echo"`, 1),
		"null operation":  `{"version":1,"ops":[null]}`,
		"no histogram":    `{"version":1,"ops":[{"name":"echo","interval_seconds":1}]}`,
		"broken contents": strings.Replace(good.String(), `"histogram": "`, `"histogram": "A`, 1),
		"interval":        strings.Replace(good.String(), `"interval_seconds": 1`, `"interval_seconds": 0`, 1),
	} {
		if _, err := Read(strings.NewReader(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	var good bytes.Buffer
	if err := made("echo", 1, 7).Write(&good); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte(`{"version":1,"scenario":"idle","ops":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Read(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		var first, second bytes.Buffer
		if err := r.Write(&first); err != nil {
			t.Fatal(err)
		}
		again, err := Read(bytes.NewReader(first.Bytes()))
		if err != nil {
			t.Fatalf("it does not read what it wrote: %v", err)
		}
		if err := again.Write(&second); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Fatalf("it comes back different: %v", err)
		}
	})
}

func TestHistogramBounds(t *testing.T) {
	h := NewHistogram()
	if h.Quantile(99) != 0 || h.Mean() != 0 || h.Max() != 0 {
		t.Error("an empty one has latencies")
	}
	for _, d := range []time.Duration{-time.Second, 0, 5 * time.Hour} {
		h.Record(d)
	}
	if h.Count() != 3 || h.Quantile(1) != 0.001 || h.Max() < 3.59e6 || h.Max() > 3.61e6 {
		t.Errorf("%d values, least %v ms, most %v ms", h.Count(), h.Quantile(1), h.Max())
	}
	var b bytes.Buffer
	if err := h.WriteHGRM(&b); err != nil || !strings.Contains(b.String(), "Percentile") {
		t.Errorf("hgrm: %v %s", err, b.String())
	}
}

func TestMerge(t *testing.T) {
	a, b := made("echo", 1, 2, 3), made("echo", 100)
	b.Started, b.Seconds, b.Interrupted = a.Started.Add(-time.Second), 9, true
	b.Settings["rate"], b.Targets = "20", []string{"ws://b"}
	b.Ops[0].Failed, b.Ops[0].Missed, b.Ops[0].Done = 2, 4, 3
	b.Ops[0].Errors["timeout"], b.Ops[0].Outcomes["timeout"] = 2, 2
	b.Ops = append(b.Ops, made("ping", 4).Ops[0])
	m, err := Merge(a, b)
	if err != nil {
		t.Fatal(err)
	}
	op := m.Op("echo")
	switch {
	case op.Offered != 4 || op.Done != 6 || op.Failed != 2 || op.Missed != 4 || op.Errors["timeout"] != 2 || op.Outcomes["ok"] != 4:
		t.Errorf("counts: %+v", op)
	case op.OfferedRate != 20 || op.AchievedRate != 18:
		t.Errorf("rates: %v, %v", op.OfferedRate, op.AchievedRate)
	case op.Schedule.Count != 4 || op.Schedule.Max < 199 || op.Schedule.P50 > 4.1:
		t.Errorf("latencies: %+v", op.Schedule)
	case len(op.Series) != 3 || op.Series[0].Offered != 2 || op.Series[0].Max != 200 || op.Series[1].Offered != 1:
		t.Errorf("series: %+v", op.Series)
	case m.Seconds != 9 || !m.Interrupted || !m.Started.Equal(b.Started) || len(m.Machines) != 2 || len(m.Targets) != 2:
		t.Errorf("merged: %+v", m)
	case m.Settings["rate"] != "10 | 20" || m.Op("ping").Done != 1:
		t.Errorf("settings %v, ping %+v", m.Settings, m.Op("ping"))
	case a.Ops[0].Done != 3 || a.Ops[0].Schedule.Count != 3:
		t.Error("it changed what it merged")
	}
	c := made("echo", 1)
	c.Scenario = "another"
	if _, err := Merge(a, c); err == nil {
		t.Error("two scenarios were merged")
	}
	d := made("echo", 1)
	d.Ops[0].Interval = 2
	if _, err := Merge(a, d); err == nil {
		t.Error("two intervals were merged")
	}
	if _, err := Merge(); err == nil {
		t.Error("nothing was merged")
	}
}

func TestCompare(t *testing.T) {
	a, b := made("echo", 10), made("echo", 20)
	b.Ops[0].AchievedRate = 4.5
	worse := map[string]float64{}
	for _, d := range Compare(a, b) {
		worse[d.Metric] = d.Worse
	}
	for metric, want := range map[string]float64{"rate": 0.5, "p50": 1, "service.p99": 1, "errors": 0} {
		if got, ok := worse[metric]; !ok || got < want-0.01 || got > want+0.01 {
			t.Errorf("%s is worse by %v, want %v", metric, got, want)
		}
	}
	if got := Compare(a, made("other", 1)); len(got) != 0 {
		t.Errorf("what both do not have: %v", got)
	}
	var out bytes.Buffer
	if err := WriteDifferences(&out, Compare(a, b)); err != nil || !strings.Contains(out.String(), "-50.0%") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// Rates of runs that followed each other must not be taken for one load.
func TestMergeSaysThatTheyWereNotOneLoad(t *testing.T) {
	at := func(seconds int) *Result {
		return &Result{Version: Version, Scenario: "echo", Started: time.Unix(int64(seconds), 0), Seconds: 10}
	}
	for _, c := range []struct {
		starts []int
		want   bool
	}{{[]int{0, 9}, false}, {[]int{0, 5, 9}, false}, {[]int{0, 11}, true}, {[]int{5, 0, 12}, true}} {
		var all []*Result
		for _, s := range c.starts {
			all = append(all, at(s))
		}
		got, err := Merge(all...)
		if err != nil || (len(got.Warnings) > 0) != c.want {
			t.Errorf("%v: %v, %v", c.starts, got.Warnings, err)
		}
	}
}

func TestOtherSettings(t *testing.T) {
	a := &Result{Settings: map[string]string{"rate": "20", "local-addrs": "", "every": "10s", "old": "1"}}
	b := &Result{Settings: map[string]string{"rate": "10", "local-addrs": "127.0.0.2", "every": "10s", "new": "1"}}
	if got := strings.Join(OtherSettings(a, b), "; "); got != "local-addrs none, then 127.0.0.2; rate 20, then 10" {
		t.Error(got)
	}
}
