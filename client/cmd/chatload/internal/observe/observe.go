// Package observe watches the processes of the other side while a run goes on:
// through their metrics, or where they run on this machine through /proc.
package observe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"chatvault/client/cmd/chatload/internal/result"
)

// Target is one process.
type Target struct {
	Name string
	pid  int    // of this machine; 0: by url
	url  string // of a page of Prometheus metrics
}

// Errors of targets.
var (
	errProcess = errors.New("want NAME=PID")
	errURL     = errors.New("want a URL like http://127.0.0.1:9090/metrics, or NAME=URL")
)

// Process reads NAME=PID.
func Process(text string) (Target, error) {
	name, pid, ok := strings.Cut(text, "=")
	n, err := strconv.Atoi(pid)
	if !ok || name == "" || err != nil || n < 1 {
		return Target{}, errProcess
	}
	_, err = process(n)
	return Target{Name: name, pid: n}, err
}

// Page reads the URL of a page of metrics, or NAME=URL. The name is else the
// URL's host. A URL without a path means /metrics.
func Page(text string) (Target, error) {
	name, at, named := strings.Cut(text, "=")
	if !named || strings.Contains(name, "/") {
		name, at = "", text
	}
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Target{}, errURL
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/metrics"
	}
	if name == "" {
		name = u.Host
	}
	return Target{Name: name, url: u.String()}, nil
}

// sample is a moment of a process. Negative: not known.
type sample struct {
	at          time.Time
	rss         int64   // bytes
	cpu         float64 // seconds since its start
	descriptors int64
	goroutines  int64
	connections int64
	all         map[string]float64 // what was scraped
}

func (t Target) sample(ctx context.Context, h *http.Client) (sample, error) {
	if t.pid > 0 {
		s, err := process(t.pid)
		s.at, s.goroutines, s.connections = time.Now(), -1, -1
		return s, err
	}
	all, err := scrape(ctx, h, t.url)
	if err != nil {
		return sample{}, err
	}
	of := func(name string) float64 {
		v, ok := family(all, name)
		if !ok {
			return -1
		}
		return v
	}
	return sample{
		at: time.Now(), rss: int64(of("process_resident_memory_bytes")), cpu: of("process_cpu_seconds_total"),
		descriptors: int64(of("process_open_fds")), goroutines: int64(of("go_goroutines")),
		connections: int64(of("chatd_connections")), all: all,
	}, nil
}

// Watch is the samples of a run.
type Watch struct {
	targets  []Target
	http     *http.Client
	interval time.Duration
	start    time.Time
	stop     context.CancelFunc
	running  sync.WaitGroup

	before, after []sample
	series        [][]result.ServerPoint // one goroutine each writes, until Stop
	lost          []bool                 // some scrape did not answer
}

// Start takes the first samples; a target that does not answer is an error.
// Then it takes one every interval until Stop.
func Start(ctx context.Context, targets []Target, interval time.Duration) (*Watch, error) {
	w := &Watch{
		targets: targets, interval: interval, start: time.Now(), http: &http.Client{Transport: &http.Transport{}},
		before: make([]sample, len(targets)), after: make([]sample, len(targets)),
		series: make([][]result.ServerPoint, len(targets)), lost: make([]bool, len(targets)),
	}
	for i, t := range targets {
		var err error
		if w.before[i], err = t.sample(ctx, w.http); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	// Until Stop, also when the run is interrupted: its end is of interest.
	ctx, w.stop = context.WithCancel(context.WithoutCancel(ctx))
	for i := range targets {
		w.running.Go(func() { w.follow(ctx, i) })
	}
	return w, nil
}

func (w *Watch) follow(ctx context.Context, i int) {
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	last := w.before[i]
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s, err := w.targets[i].sample(ctx, w.http)
		if err != nil {
			w.lost[i] = ctx.Err() == nil || w.lost[i]
			continue
		}
		cpu := 0.0
		if took := s.at.Sub(last.at).Seconds(); took > 0 && s.cpu >= last.cpu { // less: a new process
			cpu = (s.cpu - last.cpu) / took
		}
		w.series[i] = append(w.series[i], result.ServerPoint{
			Seconds: s.at.Sub(w.start).Seconds(), RSS: s.rss, CPU: cpu, Connections: s.connections, Goroutines: s.goroutines,
		})
		last = s
	}
}

// Stop takes the last samples and returns what was seen, and who did not answer
// all the time.
func (w *Watch) Stop(ctx context.Context) (servers []result.Server, lost []string) {
	w.stop()
	w.running.Wait()
	defer w.http.CloseIdleConnections()
	for i, t := range w.targets {
		var err error
		if w.after[i], err = t.sample(context.WithoutCancel(ctx), w.http); err != nil {
			w.lost[i] = true
		}
		if w.lost[i] {
			lost = append(lost, t.Name)
		}
		if err == nil {
			servers = append(servers, compare(t.Name, w.before[i], w.after[i], w.series[i]))
		}
	}
	return servers, lost
}

// fewConnections are too few to say what each costs.
const fewConnections = 50

// compare makes the numbers of one process.
func compare(name string, before, after sample, series []result.ServerPoint) result.Server {
	s := result.Server{
		Name: name, RSSBefore: before.rss, RSSAfter: after.rss, RSSMax: max(before.rss, after.rss), CPU: after.cpu - before.cpu,
		DescriptorsBefore: before.descriptors, DescriptorsAfter: after.descriptors,
		GoroutinesBefore: before.goroutines, GoroutinesAfter: after.goroutines,
		ConnectionsBefore: before.connections, ConnectionsAfter: after.connections, ConnectionsMax: max(before.connections, after.connections),
		Series: series, Events: events(before.all, after.all),
	}
	if s.CPU < 0 { // another process answers now
		s.CPU, s.Restarted = after.cpu, true
		s.Events = events(nil, after.all)
	}
	most := result.ServerPoint{RSS: after.rss, Connections: after.connections}
	for _, p := range series {
		s.RSSMax, s.ConnectionsMax = max(s.RSSMax, p.RSS), max(s.ConnectionsMax, p.Connections)
		if p.Connections > most.Connections {
			most = p
		}
	}
	if more := most.Connections - before.connections; more >= fewConnections && !s.Restarted {
		s.PerConnection = (most.RSS - before.rss) / more
	}
	return s
}
