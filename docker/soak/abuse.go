//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chatvault/docker/stack"
)

// The promise of the abuse: what good clients may notice, and what the relay may
// take. Ratios are of medians of runs by turns, quiet and abused; where they exceed
// the bound to the last, of the best quarter.
const (
	worstRatio  = 2.0       // of the good clients' p99, abused to quiet
	memoryCap   = 256 << 20 // bytes of the relay, resident
	pairs       = 5         // of runs; when they cross the bound as many again,
	mostPairs   = 15        // up to this
	goodLasts   = 4 * time.Second
	leastSwarm  = 2000             // descriptors that the relay has under abuse: it is abused
	swarmWithin = 30 * time.Second // in which the abusers must be so many
)

// Good clients: echoes through relay and vault. Each comes from an address of its
// own, as phones do, and the relay has all its default limits.
var good = []string{
	"echo", "--connections", "40", "--rate", "150", "--duration", goodLasts.String(), "--local-addrs", "127.0.2.1-127.0.2.40",
	"--timeout", "20s",
}

// abusers do all at once what scenarios of chatload call abuse, from a hundred
// addresses. They last until they are ended.
var abusers = [][]string{
	// A wave that stands, and a stream that goes on.
	{"half-open", "--rate", "1000", "--connections", "2600", "--local-addrs", "127.0.3.1-127.0.3.100"},
	{"half-open", "--rate", "150", "--connections", "6000", "--local-addrs", "127.0.9.1-127.0.9.100"},
	{"slowloris", "--rate", "100", "--connections", "400", "--local-addrs", "127.0.4.1-127.0.4.100"},
	{"garbage", "--rate", "40", "--local-addrs", "127.0.5.1-127.0.5.100"}, // oversized and fragmented frames too
	{"ping-flood", "--rate", "20", "--connections", "5000", "--local-addrs", "127.0.6.1-127.0.6.100"},
	{"sessions", "--rate", "20", "--connections", "300", "--local-addrs", "127.0.7.1-127.0.7.100"},
	{"slow", "--rate", "10", "--connections", "20", "--local-addrs", "127.0.8.1-127.0.8.100"},
}

// refusals are how chatd answers those that it does answer within a run, in its own
// words; any of them shows that they were there.
var refusals = map[string][]string{
	"garbage":    {"malformed"},
	"ping-flood": {"FramesPerConnection"},
	"sessions":   {"OpensPerAccount", "OpensPerDevice", "ConnectionsPerAccount", "ConnectionsPerDevice"},
}

// measured is one run of the good clients.
type measured struct {
	p50     float64 // ms, by schedule
	p99     float64
	failed  int64              // of echoes and of connects
	memory  int64              // the relay's most, bytes
	cpu     float64            // seconds of CPU that the relay took
	refused map[string]float64 // what the relay refused meanwhile, by its own words
	errors  map[string]int64   // how the good clients' operations failed
	swarm   int                // descriptors that the relay had
}

// abuse is the relay with its vault and its good clients on one CPU, and the
// abusers on another.
type abuse struct {
	*stack.Stack
	dir, bin string
	chatload string
	theirs   int // the abusers' CPU
	say      func(string, ...any)
}

// abuseIn abuses a fresh stack in dir.
func abuseIn(ctx context.Context, dir, bin string, say func(string, ...any)) (err error) {
	ours, theirs, restore, err := splitCPUs()
	if err != nil {
		return err
	}
	defer restore()
	s, err := stack.Start(ctx, stack.Options{Dir: dir, BinDir: bin, Redis: stack.RealRedis, ChatdArgs: []string{
		"--admin", "127.0.0.1:0", "--memory-limit", fmt.Sprintf("%dMiB", memoryCap*3/4>>20),
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	a := &abuse{Stack: s, dir: dir, bin: bin, chatload: filepath.Join(bin, "chatload"), theirs: theirs, say: say}
	say("abuse: chatd, vaultd and good clients on CPU %d, abusers on CPU %d", ours, theirs)
	return a.judge(ctx)
}

// judge measures pairs of runs until they keep the bound, or are too many.
func (a *abuse) judge(ctx context.Context) error {
	var quiet, abused []measured
	var problems []error
	ratio := 0.0
	for len(quiet) < mostPairs {
		for range pairs {
			for _, kind := range []struct {
				name string
				runs *[]measured
				with bool
			}{{"quiet", &quiet, false}, {"abused", &abused, true}} {
				m, err := a.measure(ctx, kind.with)
				if err != nil {
					return fmt.Errorf("%s: %w", kind.name, err)
				}
				*kind.runs = append(*kind.runs, m)
				a.say("  %-6s  good clients' p50 %5.1f ms, p99 %6.1f ms, %d failed; chatd: %.1f s of CPU, %.0f MiB at most, %d descriptors; it refused %v",
					kind.name, m.p50, m.p99, m.failed, m.cpu, float64(m.memory)/(1<<20), m.swarm, m.refused)
				problems = append(problems, m.problems(kind.name, kind.with)...)
			}
		}
		q, b := p99(quiet, 2), p99(abused, 2)
		ratio = b / q
		a.say("good clients' p99: %.1f ms quiet, %.1f ms abused, ratio %.2f, at most %.1f, of %d pairs", q, b, ratio, worstRatio, len(quiet))
		if ratio <= worstRatio {
			break
		}
	}
	if ratio > worstRatio {
		// What else a machine does for minutes adds to a run, and takes nothing away:
		// abuse that harms shows in the best quarter of so many runs, too.
		q, b := p99(quiet, 4), p99(abused, 4)
		ratio = b / q
		a.say("in the best quarter of the runs: %.1f ms quiet, %.1f ms abused, ratio %.2f", q, b, ratio)
	}
	if ratio > worstRatio {
		problems = append(problems, fmt.Errorf("good clients wait %.2f times as long under abuse, more than %.1f", ratio, worstRatio))
	}
	return errors.Join(problems...)
}

// problems are what must not be in any run.
func (m measured) problems(name string, with bool) (out []error) {
	if m.failed > 0 {
		out = append(out, fmt.Errorf("%s: %d operations of good clients failed: %v", name, m.failed, m.errors))
	}
	if m.memory > memoryCap {
		out = append(out, fmt.Errorf("%s: chatd took %d bytes, more than %d", name, m.memory, memoryCap))
	}
	if !with {
		return out
	}
	if m.swarm < leastSwarm {
		out = append(out, fmt.Errorf("only %d descriptors under abuse: nothing was shown", m.swarm))
	}
	for who, words := range refusals {
		if !slices.ContainsFunc(words, func(word string) bool { return m.refused[word] > 0 }) {
			out = append(out, fmt.Errorf("%s: chatd refused nothing of %s: nothing was shown", name, who))
		}
	}
	return out
}

// p99 is that of the run below which one part of all of them is: the median for 2.
func p99(runs []measured, part int) float64 {
	var all []float64
	for _, m := range runs {
		all = append(all, m.p99)
	}
	slices.Sort(all)
	return all[len(all)/part]
}

// measure runs the good clients, alone or beside the abusers.
func (a *abuse) measure(ctx context.Context, with bool) (m measured, err error) {
	if err := a.alone(ctx); err != nil {
		return m, err
	}
	abusing := &swarm{}
	if with {
		abusing, err = a.unleash(ctx)
		defer abusing.end()
		if err != nil {
			return m, err
		}
	}
	if m.swarm, err = descriptors(a.Chatd.PID()); err != nil {
		return m, err
	}
	at, err := a.Chatd.Admin()
	if err != nil {
		return m, err
	}
	cmd := exec.CommandContext(ctx, a.chatload, a.args(good, "--json", "--metrics", "http://"+at+"/metrics")...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return m, fmt.Errorf("chatload: %w: %s", err, errs.String())
	}
	return m, errors.Join(m.read(out), abusing.idle())
}

// read takes what matters from a result of chatload.
func (m *measured) read(out []byte) error {
	var r struct {
		Ops []struct {
			Name     string           `json:"name"`
			Failed   int64            `json:"failed"`
			Missed   int64            `json:"missed"`
			Errors   map[string]int64 `json:"errors"`
			Schedule struct {
				P50 float64 `json:"p50_ms"`
				P99 float64 `json:"p99_ms"`
			} `json:"schedule"`
		} `json:"ops"`
		Servers []struct {
			Most   int64              `json:"rss_max"`
			CPU    float64            `json:"cpu_seconds"`
			Events map[string]float64 `json:"events"`
		} `json:"servers"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return err
	}
	if len(r.Servers) != 1 {
		return errors.New("chatd's metrics did not answer")
	}
	m.memory, m.cpu = r.Servers[0].Most, r.Servers[0].CPU
	m.refused, m.errors = map[string]float64{}, map[string]int64{}
	for name, n := range r.Servers[0].Events {
		for _, family := range []string{"chatd_ratelimited_total{limit=", "chatd_refusals_total{cause="} {
			if word, ok := strings.CutPrefix(name, family); ok {
				m.refused[strings.Trim(word, `"}`)] += n
			}
		}
	}
	for _, op := range r.Ops {
		for code, n := range op.Errors {
			m.errors[op.Name+" "+code] += n
		}
		m.failed += op.Failed + op.Missed
		if op.Name == "echo" {
			m.p50, m.p99 = op.Schedule.P50, op.Schedule.P99
		}
	}
	if m.p99 == 0 {
		return errors.New("no echo came back")
	}
	return nil
}

func (a *abuse) args(scenario []string, more ...string) []string {
	return slices.Concat([]string{"run"}, scenario, []string{"--url", a.URL(), "--fleet", a.PinsFile,
		"--issuer-key", a.IssuerKeyFile, "--iss", stack.Issuer, "--quiet"}, more)
}

// swarm is the abusers, while they are at it.
type swarm struct {
	all   []*exec.Cmd
	ended []<-chan struct{}
}

// end kills them.
func (s *swarm) end() {
	for _, c := range s.all {
		_ = c.Process.Kill() // it may have ended already
	}
	for _, done := range s.ended {
		<-done
	}
}

// idle says which of them have ended by themselves: they abused nobody.
func (s *swarm) idle() error {
	var all []error
	for i, done := range s.ended {
		select {
		case <-done:
			all = append(all, fmt.Errorf("%s ended before its end: %v", abusers[i][0], s.all[i].ProcessState))
		default:
		}
	}
	return errors.Join(all...)
}

// unleash starts all abusers and waits until the relay has as many as it shall
// stand, and until what their limits allow them at once, such as an account's
// first 60 vault sessions, is used up.
func (a *abuse) unleash(ctx context.Context) (*swarm, error) {
	s := &swarm{}
	for _, scenario := range abusers {
		c := exec.Command(a.chatload, a.args(scenario, "--duration", "1h", "--probe-rate", "0")...)
		done, err := startBound(c, a.theirs)
		if err != nil {
			return s, err
		}
		s.all, s.ended = append(s.all, c), append(s.ended, done)
	}
	for deadline := time.Now().Add(swarmWithin); time.Now().Before(deadline) && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		n, err := descriptors(a.Chatd.PID())
		if err != nil {
			return s, err
		}
		if n > leastSwarm {
			break
		}
	}
	pause(ctx, time.Second)
	return s, ctx.Err()
}

// alone waits until nobody is connected.
func (a *abuse) alone(ctx context.Context) error {
	for deadline := time.Now().Add(30 * time.Second); ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		n, err := descriptors(a.Chatd.PID())
		if err != nil {
			return err
		}
		if n < 40 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("chatd still has %d descriptors, though nobody is there", n)
		}
	}
	return ctx.Err()
}

// splitCPUs binds this process, and what it starts, to one CPU, and names
// another for the abusers.
func splitCPUs() (ours, theirs int, restore func(), err error) {
	before, err := affinity()
	if err != nil {
		return 0, 0, nil, err
	}
	if len(before) < 2 {
		return 0, 0, nil, errors.New("the abuse wants two CPUs: one for the abusers")
	}
	ours, theirs = before[0], before[1]
	if err := bind(os.Getpid(), ours); err != nil {
		return 0, 0, nil, err
	}
	return ours, theirs, func() { _ = bind(os.Getpid(), before...) }, nil
}
