package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"chatvault/client/cmd/chatload/internal/command"
	"chatvault/client/cmd/chatload/internal/load"
	"chatvault/client/cmd/chatload/internal/result"
	"chatvault/docker/stack"
	"chatvault/protocol/cmdline"
)

// target is a running stack, and how chatload is called for it.
type target struct {
	*stack.Stack
	t *testing.T
}

func start(t *testing.T) target {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	bin := t.TempDir()
	if err := stack.Build(ctx, bin); err != nil {
		t.Fatal(err)
	}
	s, err := stack.Start(ctx, stack.Options{Dir: t.TempDir(), BinDir: bin, ChatdArgs: []string{
		"--limit", "ConnectionsPerIP=off,OpensPerAccount=off,ConnectionsPerAccount=off,OpensPerDevice=off,ConnectionsPerDevice=off",
		"--auth-timeout", "1s", "--ping", "1s", "--drain", "1s", "--admin", "127.0.0.1:0",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := s.Chatd.Logs()
			t.Logf("chatd: %s", log)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return target{s, t}
}

// comesBack starts chatd again when somebody has ended it.
func (tg target) comesBack() error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for tg.Chatd.Running() {
		<-tick.C
	}
	_ = tg.Chatd.Kill() // it has ended: this only forgets it
	return tg.Chatd.Start(tg.t.Context())
}

// metrics is the page of the relay's metrics.
func (tg target) metrics() string {
	tg.t.Helper()
	address, err := tg.Chatd.Admin()
	if err != nil {
		tg.t.Fatal(err)
	}
	return "chatd=http://" + address + "/metrics"
}

// TestMain is the program itself when it is started as one of its processes.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		main()
	}
	os.Exit(m.Run())
}

// chatload runs a command line as typed, and returns what it printed.
func (tg target) chatload(ctx context.Context, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = command.Main(ctx, cmdline.IO{Out: &o, Err: &e}, args)
	return code, o.String(), e.String()
}

// run runs a scenario and returns its result, which must be whole.
func (tg target) run(ctx context.Context, want int, scenario string, args ...string) (*result.Result, string) {
	tg.t.Helper()
	dir := filepath.Join(tg.t.TempDir(), "out")
	// Time enough for a busy machine: nothing here is about being fast.
	args = append([]string{"run", scenario, "--url", tg.URL(), "--fleet", tg.PinsFile, "--out", dir, "--timeout", "60s"}, args...)
	if !strings.Contains(strings.Join(args, " "), "--tickets") {
		args = append(args, "--issuer-key", tg.IssuerKeyFile, "--iss", stack.Issuer)
	}
	code, out, errs := tg.chatload(ctx, args...)
	if code != want {
		tg.t.Fatalf("%s: exit code %d, want %d\n%s%s", scenario, code, want, out, errs)
	}
	f, err := os.Open(filepath.Join(dir, "result.json"))
	if err != nil {
		tg.t.Fatal(err)
	}
	defer f.Close()
	r, err := result.Read(f)
	if err != nil {
		tg.t.Fatal(err)
	}
	s, err := load.Find(scenario)
	if err != nil {
		tg.t.Fatal(err)
	}
	for _, op := range r.Ops {
		if !slices.Contains(s.Ops, op.Name) {
			tg.t.Errorf("%s measures %s, and does not say so", scenario, op.Name)
		}
	}
	if html, err := os.ReadFile(filepath.Join(dir, "report.html")); err != nil || !bytes.Contains(html, []byte("<svg")) {
		tg.t.Errorf("%s: report: %v", scenario, err)
	}
	for _, op := range r.Ops {
		for _, by := range []string{"schedule", "service"} {
			name := op.Name + "." + by + ".hgrm"
			if b, err := os.ReadFile(filepath.Join(dir, name)); op.Schedule.Count > 0 && (err != nil || !bytes.Contains(b, []byte("Percentile"))) {
				tg.t.Errorf("%s: %s: %v", scenario, name, err)
			}
		}
	}
	return r, out
}

// expect is how often operations must have ended how, at least.
type expect map[string]map[string]int64

// One stack serves all.
func TestAgainstTheStack(t *testing.T) {
	tg := start(t)
	t.Run("scenarios", func(t *testing.T) { scenarios(t, tg) })
	t.Run("story", func(t *testing.T) { story(t, tg) })
}

// Each scenario does what it says, against the real programs.
func scenarios(t *testing.T, tg target) {
	for _, c := range []struct {
		scenario string
		args     []string
		want     expect
	}{
		{"connect", []string{"--rate", "40", "--duration", "1s"}, expect{"connect": {"ok": 20}}},
		{"idle", []string{"--rate", "100", "--connections", "10", "--duration", "1500ms", "--local-addrs", "127.0.0.2-127.0.0.4"},
			expect{"connect": {"ok": 10}, "ping": {"ok": 10}}},
		{"echo", []string{"--rate", "30", "--connections", "3", "--duration", "1s"}, expect{"authorise": {"ok": 3}, "echo": {"ok": 30}}},
		{"echo", []string{"--rate", "30", "--connections", "5", "--duration", "1s", "--processes", "2"}, expect{"authorise": {"ok": 5}, "echo": {"ok": 30}}},
		{"register", []string{"--rate", "2", "--duration", "1s"}, expect{"register": {"ok": 2}}},
		{"recover", []string{"--rate", "3", "--accounts", "1", "--duration", "1s"}, expect{"recover": {"ok": 3}}},
		{"wrong", []string{"--rate", "10", "--duration", "1s"},
			expect{"wrong-password": {"wrong_password": 9, "destroyed": 1}, "after-destruction": {"destroyed": 1}}},
		{"storm", []string{"--rate", "100", "--connections", "10", "--every", "500ms", "--duration", "1s"},
			expect{"connect": {"ok": 10}, "reconnect": {"ok": 20}}},
		{"slow", []string{"--rate", "10", "--connections", "3", "--duration", "1s"}, expect{"slow-reader": {"held": 3}, "probe": {"ok": 5}}},
		{"slowloris", []string{"--rate", "10", "--connections", "4", "--duration", "8s"},
			expect{"slowloris": {"cut_auth": 2, "cut_request": 2}, "probe": {"ok": 10}}},
		{"ping-flood", []string{"--rate", "10", "--connections", "3", "--duration", "3s"}, expect{"ping-flood": {"cut": 3}, "probe": {"ok": 5}}},
		{"sessions", []string{"--rate", "10", "--connections", "3", "--duration", "1s"}, expect{"sessions": {"some_busy": 3}, "probe": {"ok": 5}}},
		{"half-open", []string{"--rate", "40", "--connections", "8", "--duration", "5s"},
			expect{"half-open": {"cut_upgraded": 2, "cut_vanished": 2}, "probe": {"ok": 10}}},
		{"garbage", []string{"--rate", "22", "--duration", "1s"}, expect{"garbage": {"refused_text": 2, "closed_oversized": 2,
			"closed_framing": 2, "refused_early": 2, "refused_stray": 2, "refused_fragmented": 2}, "probe": {"ok": 5}}},
	} {
		t.Run(c.scenario, func(t *testing.T) {
			t.Parallel()
			tg := target{tg.Stack, t}
			r, _ := tg.run(t.Context(), 0, c.scenario, append(c.args, "--server", "chatd="+strconv.Itoa(tg.Chatd.PID()), "--metrics", tg.metrics())...)
			c.want.check(t, r)
			if len(r.Servers) != 2 || r.Servers[0].RSSAfter == 0 || r.Servers[1].GoroutinesAfter < 5 || r.Servers[1].Events[`chatd_events_total{event="connections"}`] == 0 {
				t.Errorf("of chatd: %+v", r.Servers)
			}
		})
	}
}

// check also wants that nothing failed and nothing was missed.
func (e expect) check(t *testing.T, r *result.Result) {
	t.Helper()
	for name, outcomes := range e {
		op := r.Op(name)
		if op == nil {
			t.Errorf("no operation %s", name)
			continue
		}
		for code, least := range outcomes {
			if op.Outcomes[code] < least {
				t.Errorf("%s: %v: %s %d times, want %d", name, op.Outcomes, code, op.Outcomes[code], least)
			}
		}
	}
	for _, op := range r.Ops {
		if op.Failed > 0 || op.Missed > 0 || op.Done != op.Offered {
			t.Errorf("%s: %d offered, %d done, %d missed, failed %v", op.Name, op.Offered, op.Done, op.Missed, op.Errors)
		}
	}
}

// The rest of a command line's life: tickets from a file, objectives, Ctrl-C,
// a relay that restarts, and results that are merged and compared.
func story(t *testing.T, tg target) {
	file := filepath.Join(t.TempDir(), "phones")
	if code, _, errs := tg.chatload(t.Context(), "tickets", "--issuer-key", tg.IssuerKeyFile, "--iss", stack.Issuer,
		"--fleet", tg.PinsFile, "--count", "12", "--out", file); code != 0 {
		t.Fatal(errs)
	}
	t.Run("tickets that are not accepted", func(t *testing.T) {
		code, out, errs := target{tg.Stack, t}.chatload(t.Context(), "run", "connect", "--url", tg.URL(), "--fleet", tg.PinsFile,
			"--issuer-key", tg.IssuerKeyFile, "--iss", "https://other.example", "--rate", "4", "--duration", "1s")
		if code != 1 || !strings.Contains(out, "connect: not_authorised 2\n") || !strings.Contains(out, "warning: tickets were not accepted: --iss") ||
			!regexp.MustCompile(` 2 +0\.0/s +- `).MatchString(out) || !strings.Contains(errs, "nothing ended well") {
			t.Errorf("exit code %d, %s%s", code, out, errs)
		}
	})
	t.Run("tickets from a file run out", func(t *testing.T) {
		tg := target{tg.Stack, t}
		r, out := tg.run(t.Context(), 99, "connect", "--tickets", file, "--rate", "40", "--duration", "1s",
			"--slo", "connect.errors<1", "--slo", "connect.count>=12")
		if op := r.Op("connect"); op.Outcomes["ok"] != 12 || op.Errors["no_phones"] != 8 {
			t.Errorf("%v", op.Outcomes)
		}
		if !strings.Contains(out, "MISSED connect.errors<1 (8)") || !strings.Contains(out, "kept connect.count>=12 (12)") ||
			!strings.Contains(out, "chatload tickets --count") {
			t.Errorf("it says %s", out)
		}
	})
	for _, processes := range []string{"1", "2"} {
		t.Run("interrupted in processes: "+processes, func(t *testing.T) {
			tg := target{tg.Stack, t}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			r, _ := tg.run(ctx, 0, "idle", "--rate", "50", "--connections", "5", "--duration", "1h", "--processes", processes)
			if !r.Interrupted || r.Op("connect").Good() != 5 || r.Seconds > 30 {
				t.Errorf("interrupted %v after %v s, %d connections", r.Interrupted, r.Seconds, r.Op("connect").Good())
			}
		})
	}
	t.Run("the relay drains", func(t *testing.T) {
		tg := target{tg.Stack, t}
		restarted := make(chan error, 1)
		go func() { restarted <- tg.comesBack() }()
		r, _ := tg.run(t.Context(), 0, "drain", "--rate", "100", "--connections", "6", "--processes", "2", "--duration", "5s",
			"--drain-pid", strconv.Itoa(tg.Chatd.PID()))
		if err := <-restarted; err != nil {
			t.Fatal(err)
		}
		if told, back := r.Op("told"), r.Op("comeback"); told == nil || told.Good() != 6 || back == nil || back.Good() != 6 {
			t.Errorf("told: %+v, came back: %+v", told, back)
		}
	})
	t.Run("the relay restarts", func(t *testing.T) {
		tg := target{tg.Stack, t}
		restarted := make(chan error, 1)
		time.AfterFunc(1500*time.Millisecond, func() {
			err := tg.Chatd.Stop(context.Background())
			if err == nil {
				err = tg.Chatd.Start(context.Background())
			}
			restarted <- err
		})
		r, _ := tg.run(t.Context(), 0, "idle", "--rate", "100", "--connections", "5", "--duration", "5s")
		if err := <-restarted; err != nil {
			t.Fatal(err)
		}
		if hold, back := r.Op("hold"), r.Op("comeback"); hold == nil || hold.Done != 5 || back == nil || back.Good() != 5 {
			t.Errorf("held: %+v, came back: %+v", hold, back)
		}
	})
	t.Run("merge and compare", func(t *testing.T) {
		tg := target{tg.Stack, t}
		var files []string
		for _, rate := range []string{"20", "10"} {
			dir := filepath.Join(t.TempDir(), rate)
			if code, _, errs := tg.chatload(t.Context(), "run", "connect", "--url", tg.URL(), "--fleet", tg.PinsFile, "--issuer-key", tg.IssuerKeyFile,
				"--iss", stack.Issuer, "--rate", rate, "--duration", "1s", "--out", dir); code != 0 {
				t.Fatal(errs)
			}
			files = append(files, dir) // in which is result.json
		}
		both := filepath.Join(t.TempDir(), "both")
		if code, _, errs := tg.chatload(t.Context(), "merge", "--out", both, "--slo", "connect.count>=15", files[0], files[1]); code != 0 {
			t.Error(errs)
		}
		if code, out, _ := tg.chatload(t.Context(), "compare", files[0], files[1], "--max-regression", "20"); code != 99 ||
			!strings.Contains(out, "connect") || !strings.Contains(out, "rate 20, then 10") {
			t.Errorf("half the rate: exit code %d, %s", code, out)
		}
		if code, _, errs := tg.chatload(t.Context(), "compare", files[0], files[0], "--max-regression", "1"); code != 0 {
			t.Errorf("with itself: exit code %d, %s", code, errs)
		}
	})
}

// What is wrong with a command line is said before anything is asked of a
// relay.
func TestUsage(t *testing.T) {
	tg := target{nil, t}
	for _, args := range [][]string{
		{"run"}, {"run", "nonsense", "--url", "ws://127.0.0.1:1/v1/ws", "--fleet", "x"},
		{"run", "echo", "--url", "http://127.0.0.1:1/v1/ws", "--fleet", "x"},
		{"run", "echo", "--url", "ws://127.0.0.1:1/v1/ws", "--fleet", "/nonexistent"},
		{"run", "echo", "--url", "ws://127.0.0.1:1/v1/ws", "--fleet", "x", "--slo", "echo.p99"},
		{"run", "echo", "--url", "ws://127.0.0.1:1/v1/ws", "--fleet", "x", "--slo", "ecko.p99<5ms"},
		{"run", "echo", "--url", "ws://127.0.0.1:1/v1/ws", "--fleet", "x", "--rate", "0"},
		{"run", "echo", "--url", "ws://127.0.0.1:1/v1/ws", "--fleet", "x", "--ksf", "1,1,1"},
		{"run", "echo", "--url", "ws://127.0.0.1:1/v1/ws", "--fleet", "x", "--server", "me"},
		{"run", "echo", "--url", "ws://127.0.0.1:1/v1/ws", "--fleet", "x", "--metrics", "me"},
		{"run", "echo", "--url", "ws://127.0.0.1:1/v1/ws", "--fleet", "x", "--processes", "0"},
		{"run", "echo", "--url", "ws://127.0.0.1:1/v1/ws", "--fleet", "x", "--processes", "3", "--connections", "2"},
		{"tickets", "--out", "x"}, {"merge", "x"}, {"compare", "x"},
	} {
		if code, _, errs := tg.chatload(t.Context(), args...); code != 2 || errs == "" {
			t.Errorf("%v: exit code %d, %q", args, code, errs)
		}
	}
	if code, _, _ := tg.chatload(t.Context(), "compare", "/nonexistent", "/nonexistent"); code != 1 {
		t.Errorf("files that are not there: exit code %d", code)
	}
}
