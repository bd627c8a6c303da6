package command

import (
	"os"
	"strings"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/chatload/internal/load"
	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/result"
	"chatvault/protocol/opaque"
)

func TestGlance(t *testing.T) {
	run := measure.New(time.Now(), time.Minute)
	for _, name := range []string{"authorise", "echo", "a-very-long-name-of-an-operation", "another-very-long-name"} {
		op, now := run.Op(name), time.Now()
		op.Begin(now)
		op.End(now.Add(-time.Second), now, now, measure.Outcome{Code: "ok"})
		op.Begin(now)
		op.End(now, now, now, measure.Outcome{Code: "timeout", Failed: true})
		op.Begin(now)
	}
	run.Hold(7)
	line := glance(run, time.Minute)
	if !strings.Contains(line, "0s/1m0s  7 held | authorise 1/3 flying 1 failed 1 p50 1000 p99 1000 ms | echo") || len(line) > maxLine {
		t.Errorf("%q", line)
	}
}

func TestWatchStaysSilentWithoutTerminal(t *testing.T) {
	var b strings.Builder
	watch(&b, measure.New(time.Now(), time.Second), time.Second, false)()
	if b.Len() != 0 {
		t.Errorf("%q", b.String())
	}
}

func TestParseKSF(t *testing.T) {
	for text, want := range map[string]client.KSF{
		"default": opaque.DefaultArgon2id, "cheap": {MemoryKiB: 19 << 10, Time: 2, Parallelism: 1},
		"32,4,2": {MemoryKiB: 32 << 10, Time: 4, Parallelism: 2},
	} {
		if got, err := parseKSF(text); err != nil || got != want || got.Check() != nil {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1", "1,2", "1,2,3,4", "a,b,c", "-1,2,3", "5000,2,1"} {
		if got, err := parseKSF(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if got, err := parseKSF("19,2,260"); err != nil || got.Check() == nil {
		t.Errorf("260 lanes became %+v, %v", got, err)
	}
}

// The generator says when it was itself what was measured.
func TestWarns(t *testing.T) {
	op := func(code string) *result.Op {
		return &result.Op{Name: "connect", Errors: map[string]int64{code: 1}}
	}
	for _, c := range []struct {
		name  string
		op    *result.Op
		waits int64
		lag   float64
		want  string
	}{
		{"late", op("x"), 0, 21, "is itself the bottleneck"},
		{"no room", op("x"), 3, 1, "3 arrivals waited"},
		{"descriptors", op(load.CodeNoDescriptors), 0, 1, "ulimit -n"},
		{"ports", op(load.CodeNoPorts), 0, 1, "--local-addrs"},
		{"phones", op(load.CodeNoPhones), 0, 1, "chatload tickets"},
		{"well", op("timeout"), 0, 19, ""},
	} {
		r := &result.Result{Ops: []*result.Op{c.op}}
		warn(r, c.waits, c.lag)
		if got := strings.Join(r.Warnings, "\n"); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

func TestServers(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		me := server{"me", os.Getpid()}
		u, err := me.usage()
		if err != nil || u.rss < 1<<20 || u.cpu < 0 || u.cpu > 3600 {
			t.Errorf("this process: %+v, %v", u, err)
		}
	}
	for _, bad := range []string{"", "chatd", "chatd=", "=1", "chatd=x", "chatd=-1", "chatd=999999999"} {
		if _, err := parseServers([]string{bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	s := []server{{"a", 1}, {"b", 2}}
	got := compareSamples(s, []used{{1, 2, true}, {1, 2, true}}, []used{{5, 3.5, true}, {}})
	if len(got) != 1 || got[0] != (result.Server{Name: "a", RSSBefore: 1, RSSAfter: 5, CPU: 1.5}) {
		t.Errorf("%+v", got)
	}
}
