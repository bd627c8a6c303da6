//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpu is the time that a process has spent on CPUs so far, all threads, user and
// kernel: its own clock, in nanoseconds where /proc has hundredths of a second.
func (p *process) cpu() (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED, see clock_getcpuclockid(3)
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.pid()<<3|sched), &t); err != nil {
		return 0, fmt.Errorf("the clock of %s: %w", p.name, err)
	}
	return time.Duration(t.Nano()), nil
}

// rss is the memory that a process has resident, in bytes.
func (p *process) rss() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid()))
	if err != nil {
		return 0, err
	}
	return parseRSS(string(b))
}

func parseRSS(rollup string) (int64, error) {
	for line := range strings.Lines(rollup) {
		if value, ok := strings.CutPrefix(line, "Rss:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("smaps_rollup: no Rss")
}

// collect makes a server collect its garbage, with the same request to all: the
// heap profile begins with it. Three times, because a sync.Pool gives up what it
// holds at the second.
func (s *server) collect(ctx context.Context) error {
	for range 3 {
		if _, err := get(ctx, "http://"+s.admin+"/debug/pprof/heap?gc=1"); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// metric reads one of chatd's metrics that has no labels.
func (s *server) metric(ctx context.Context, name string) (float64, error) {
	text, err := get(ctx, "http://"+s.admin+"/metrics")
	if err != nil {
		return 0, err
	}
	return parseMetric(text, name)
}

func parseMetric(text, name string) (float64, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(b), err
}

// kernel is the memory that the kernel holds for the sockets of a server's
// clients, on the server's side, in bytes.
func (s *server) kernel(ctx context.Context) (int64, error) {
	_, port, _ := strings.Cut(s.addr, ":")
	out, err := exec.CommandContext(ctx, "ss", "-tnmH", "state", "connected", "sport", "=", ":"+port).Output()
	if err != nil {
		return 0, fmt.Errorf("ss: %w", err)
	}
	return parseSockets(out), nil
}

// skmem is ss's account of a socket: r is received, w queued to be sent, f
// reserved ahead, bl backlog. rb and tb are limits, t is a part of w.
var skmem = regexp.MustCompile(`skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+),o(\d+),bl(\d+)`)

func parseSockets(ss []byte) (sum int64) {
	for _, m := range skmem.FindAllSubmatch(bytes.TrimSpace(ss), -1) {
		for _, field := range m[1:] {
			n, _ := strconv.ParseInt(string(field), 10, 64) // digits
			sum += n
		}
	}
	return sum
}

// calls sums the calls of INFO commandstats, but for those of INFO itself.
func calls(commandstats string) (sum int64) {
	for line := range strings.Lines(commandstats) {
		name, rest, ok := strings.Cut(line, ":calls=")
		if !ok || name == "cmdstat_info" {
			continue
		}
		n, _, _ := strings.Cut(rest, ",")
		v, _ := strconv.ParseInt(n, 10, 64)
		sum += v
	}
	return sum
}
