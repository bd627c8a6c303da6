package command

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"chatvault/client/cmd/chatload/internal/result"
	"chatvault/protocol/cmdline"
)

// machine describes where this runs.
func machine(version string, lag99, lagMax float64) result.Machine {
	host, _ := os.Hostname() // a report without it is as good
	return result.Machine{
		Host: host, CPU: cpuModel(), CPUs: runtime.NumCPU(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Version: version, LagP99: lag99, LagMax: lagMax,
	}
}

// cpuModel is what Linux says; elsewhere nothing.
func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// server is a process of the other side.
type server struct {
	name string
	pid  int
}

func parseServers(texts []string) (out []server, err error) {
	for _, text := range texts {
		name, pid, ok := strings.Cut(text, "=")
		n, err := strconv.Atoi(pid)
		if !ok || name == "" || err != nil || n < 1 {
			return nil, cmdline.Usagef("--server %s: want NAME=PID", text)
		}
		s := server{name, n}
		if _, err := s.usage(); err != nil {
			return nil, cmdline.Usagef("--server %s: %w", text, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// used is what a process uses.
type used struct {
	rss   int64   // bytes
	cpu   float64 // seconds since its start
	known bool
}

// ticksPerSecond is USER_HZ, 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// usage reads /proc (proc_pid_stat(5)): fields 14 and 15 are the CPU, 24 the
// pages in memory.
func (s server) usage() (used, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	if err != nil {
		return used{}, err
	}
	// The second field is the program's name in brackets, and may hold any.
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	fields := strings.Fields(rest)
	number := func(field int) (n int64) {
		if i := field - 3; i < len(fields) {
			n, err = strconv.ParseInt(fields[i], 10, 64)
		} else {
			err = fmt.Errorf("/proc/%d/stat has %d fields", s.pid, len(fields)+2)
		}
		return n
	}
	u := used{known: true}
	for _, field := range []int{14, 15} {
		u.cpu += float64(number(field)) / ticksPerSecond
		if err != nil {
			return used{}, err
		}
	}
	u.rss = number(24) * int64(os.Getpagesize())
	return u, err
}

func sample(servers []server) []used {
	out := make([]used, len(servers))
	for i, s := range servers {
		out[i], _ = s.usage() // one that has ended is not known
	}
	return out
}

// compareSamples leaves out what ended during the run.
func compareSamples(servers []server, before, after []used) (out []result.Server) {
	for i, s := range servers {
		if before[i].known && after[i].known {
			out = append(out, result.Server{
				Name: s.name, RSSBefore: before[i].rss, RSSAfter: after[i].rss, CPU: after[i].cpu - before[i].cpu,
			})
		}
	}
	return out
}
