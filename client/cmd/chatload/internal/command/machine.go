package command

import (
	"os"
	"runtime"
	"strings"
	"time"

	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/observe"
	"chatvault/client/cmd/chatload/internal/result"
)

// effort is what generating load costs this machine, from its begin on.
type effort struct {
	began       time.Time
	own         float64 // CPU seconds of this process
	idle, total float64 // of the machine
}

func beginEffort() effort {
	e := effort{began: time.Now(), own: ownCPU()}
	e.idle, e.total, _ = observe.Idle()
	return e
}

// machine describes where this runs, and how busy it was.
func (e effort) machine(version string, run *measure.Run) result.Machine {
	host, _ := os.Hostname() // a report without it is as good
	m := result.Machine{
		Host: host, CPU: cpuModel(), CPUs: runtime.NumCPU(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Version: version,
	}
	m.LagP99, m.LagMax = run.LagMillis()
	m.Waits = run.Waits()
	if took := time.Since(e.began).Seconds(); took > 0 {
		m.CPUsUsed = (ownCPU() - e.own) / took
	}
	if idle, total, ok := observe.Idle(); ok && total > e.total {
		m.Busy = 1 - (idle-e.idle)/(total-e.total)
	}
	return m
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
