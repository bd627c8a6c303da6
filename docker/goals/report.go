package goals

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Report is what a benchmark leaves as JSON.
type Report struct {
	Began    time.Time         `json:"began"`
	Machine  Machine           `json:"machine"`
	Commit   string            `json:"commit"`
	Versions map[string]string `json:"versions"`
	Setting  map[string]any    `json:"setting,omitempty"` // what was the same for all rows
	Rows     []*Row            `json:"rows"`
}

// Machine is where it was measured.
type Machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	Kernel      string `json:"kernel"`
	LoadAverage string `json:"load_average"` // when the run began: who else was at work
}

// NewReport begins one.
func NewReport(ctx context.Context) *Report {
	return &Report{
		Began:    time.Now().UTC(),
		Commit:   Said(ctx, "git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
		Machine:  Machine{CPU: cpu(), Cores: runtime.NumCPU(), Kernel: Said(ctx, "uname", "-sr"), LoadAverage: fileText("/proc/loadavg")},
		Versions: map[string]string{"go": runtime.Version()},
	}
}

// Head is a line for the top of the output.
func (r *Report) Head() string {
	return fmt.Sprintf("%s, %d cores, load average %s; commit %s", r.Machine.CPU, r.Machine.Cores, r.Machine.LoadAverage, r.Commit)
}

// Group is what is measured together.
type Group struct {
	Name    string
	Measure func(context.Context) []*Row
}

// Measure measures the groups whose name begins with only, prints each row on
// stdout and the time that a group took on stderr, and writes the report after
// each group. It is met when there are rows, and all are met.
func (r *Report) Measure(ctx context.Context, groups []Group, only, path string) (met bool, err error) {
	met = true
	for _, g := range groups {
		if !strings.HasPrefix(g.Name, only) {
			continue
		}
		began := time.Now()
		rows := g.Measure(ctx)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		fmt.Fprintf(os.Stderr, "  %s took %.0f s\n", g.Name, time.Since(began).Seconds())
		for _, row := range rows {
			fmt.Println(row)
			met = met && row.Met
		}
		r.Rows = append(r.Rows, rows...)
		if err := r.Write(path); err != nil { // what there is so far
			return false, err
		}
	}
	return met && len(r.Rows) > 0, nil
}

// Write writes the report.
func (r *Report) Write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// Said is the first line that a command prints; nothing if there is none.
func Said(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

func fileText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func cpu() string {
	for line := range strings.Lines(fileText("/proc/cpuinfo")) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.Trim(name, " \t\n:")
		}
	}
	return runtime.GOARCH
}
