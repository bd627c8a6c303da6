package command

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/chatload/internal/load"
	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/result"
	"chatvault/protocol/cmdline"
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
	line := glance(run.Glances, 0, time.Minute)
	if !strings.Contains(line, "0s/1m0s  7 held | authorise 1/3 flying 1 failed 1 p50 1000 p99 1000 ms | echo") || len(line) > maxLine {
		t.Errorf("%q", line)
	}
}

func TestWatchStaysSilentWithoutTerminal(t *testing.T) {
	var b strings.Builder
	watch(&b, measure.New(time.Now(), time.Second).Glances, time.Second, false)()
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
	fine := result.Machine{CPUs: 4, LagP99: 19, CPUsUsed: 3, Busy: 0.9}
	failing := func(code string) *result.Result {
		return &result.Result{Machines: []result.Machine{fine}, Ops: []*result.Op{{Name: "connect", Errors: map[string]int64{code: 1}}}}
	}
	for _, c := range []struct {
		name string
		r    *result.Result
		want string
	}{
		{"late, for others", &result.Result{Machines: []result.Machine{{CPUs: 4, LagP99: 21, Busy: 0.99}}}, "because others kept this machine's CPUs busy"},
		{"nobody drains", &result.Result{Scenario: "drain", Machines: []result.Machine{fine}}, "the relay did not drain"},
		{"tickets", failing("not_authorised"), "--iss"},
		{"late", &result.Result{Machines: []result.Machine{fine, {LagP99: 21}}}, "operations late (99th percentile 21 ms)"},
		{"CPU", &result.Result{Machines: []result.Machine{fine, fine}}, "used 6.0 of this machine's 4 CPUs"},
		{"busy", &result.Result{Machines: []result.Machine{{CPUs: 4, Busy: 0.99}}}, "busy to 99 %"},
		{"no room", &result.Result{Machines: []result.Machine{{CPUs: 1, Waits: 3}}}, "3 arrivals waited"},
		{"descriptors", failing(load.CodeNoDescriptors), "ulimit -n"},
		{"ports", failing(load.CodeNoPorts), "--local-addrs"},
		{"phones", failing(load.CodeNoPhones), "chatload tickets"},
		{"well", failing("timeout"), ""},
	} {
		warn(c.r)
		if got := strings.Join(c.r.Warnings, "\n"); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// What no run should begin with.
func TestNothingToWriteTo(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, filepath.Join(file, "under"), "/dev/null/x"} {
		if mayWrite(bad) == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
	fine := filepath.Join(dir, "new", "folder")
	if err := mayWrite(fine); err != nil || mayWrite("") != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(fine); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDrainNeedsItsProcess(t *testing.T) {
	// No process has a number above what Linux allows.
	if (runCmd{DrainPID: 1 << 30}).mayDrain() == nil || (runCmd{}).mayDrain() != nil || (runCmd{DrainPID: os.Getpid()}).mayDrain() != nil {
		t.Error("a process that is not there was accepted, or one that is was not")
	}
}

// When the folder cannot be written to any more, the numbers are shown all the same,
// and a file that was there stays whole.
func TestResultsAreNotLost(t *testing.T) {
	run := measure.New(time.Now(), time.Second)
	op, now := run.Op("echo"), time.Now()
	op.Begin(now)
	op.End(now, now, now, measure.Outcome{Code: "ok"})
	r := &result.Result{Version: result.Version, Scenario: "echo", Ops: run.Results()}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err := runCmd{Out: filepath.Join(dir, "file")}.finish(cmdline.IO{Out: &out}, r, nil)
	if err == nil || !strings.Contains(out.String(), "echo") {
		t.Errorf("%v, %q", err, out.String())
	}
	full := errors.New("the disk is full")
	if err := writeFile(dir, "file", func(io.Writer) error { return full }); !errors.Is(err, full) {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "old" {
		t.Errorf("the old file is %q, %v", b, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestTargets(t *testing.T) {
	for _, bad := range []string{"", "chatd", "chatd=", "=1", "chatd=x", "chatd=-1", "chatd=999999999"} {
		if _, err := parseTargets([]string{bad}, nil); err == nil {
			t.Errorf("process %q was accepted", bad)
		}
	}
	for _, bad := range []string{"", "chatd", "127.0.0.1:9090", "ftp://a/metrics", "a=b=http://x"} {
		if _, err := parseTargets(nil, []string{bad}); err == nil {
			t.Errorf("page %q was accepted", bad)
		}
	}
}

// Several processes share everything, and lose nothing.
func TestParts(t *testing.T) {
	for _, n := range []int{0, 1, 5, 100} {
		sum := 0
		for i := range 3 {
			sum += part{i, 3}.share(n)
		}
		if sum != n || (part{}).share(n) != n {
			t.Errorf("%d became %d", n, sum)
		}
	}
	addrs := func(relay string, of int, texts ...string) string {
		c := runCmd{URL: []string{relay}}
		var all []netip.Addr
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		var out []string
		for i := range of {
			c.part = part{i, of}
			out = append(out, fmt.Sprint(c.addresses(all)))
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ got, want string }{
		{addrs("wss://relay.example/v1/ws", 2), "[] []"},
		{addrs("wss://relay.example/v1/ws", 2, "10.0.0.1", "10.0.0.2", "10.0.0.3"), "[10.0.0.1 10.0.0.3] [10.0.0.2]"},
		{addrs("wss://relay.example/v1/ws", 2, "10.0.0.1"), "[10.0.0.1] [10.0.0.1]"},
	} {
		if c.got != c.want {
			t.Errorf("%s, want %s", c.got, c.want)
		}
	}
	if runtime.GOOS == "linux" {
		if got := addrs("ws://127.0.0.1:1/v1/ws", 2); got != "[127.0.1.1] [127.0.1.2]" {
			t.Errorf("on loopback: %s", got)
		}
	}
}

// More connections than a process may have are refused with the way out.
func TestFits(t *testing.T) {
	if descriptors() == 0 {
		return // nobody knows here
	}
	c := runCmd{Scenario: "idle", Connections: descriptors(), Processes: 1}
	err := c.fits(load.Config{Connections: c.Connections})
	if err == nil || !strings.Contains(err.Error(), "--processes 2") {
		t.Errorf("%v", err)
	}
	c.Processes = 2
	if err := c.fits(load.Config{Connections: c.Connections}); err != nil {
		t.Errorf("the leading process holds none: %v", err)
	}
	c.part = part{0, 2}
	if err := c.fits(load.Config{Connections: c.part.share(c.Connections)}); err != nil {
		t.Errorf("half of them: %v", err)
	}
}

// What several processes say of themselves adds up.
func TestTogether(t *testing.T) {
	a := &worker{last: word{Held: 2, Ops: []measure.Glance{{Name: "echo", Offered: 5, Done: 4, Failed: 1, Flying: 1, P50: 3, P99: 9}}}}
	b := &worker{last: word{Held: 3, Ops: []measure.Glance{{Name: "connect", Offered: 1}, {Name: "echo", Offered: 7, Done: 7, P50: 2, P99: 10}}}}
	ops, held := together([]*worker{a, b})
	want := measure.Glance{Name: "echo", Offered: 12, Done: 11, Failed: 1, Flying: 1, P50: 3, P99: 10}
	if held != 5 || len(ops) != 2 || ops[0] != want {
		t.Errorf("%d held, %+v", held, ops)
	}
}
