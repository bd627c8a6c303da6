package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// report is bin/bench-store.json.
type report struct {
	Began      time.Time         `json:"began"`
	Quick      bool              `json:"quick"` // then the numbers are worth nothing
	Machine    machine           `json:"machine"`
	Commit     string            `json:"commit"`
	Versions   map[string]string `json:"versions"`
	SealedSize int               `json:"sealed_record_bytes"`
	Clients    int               `json:"clients"`
	Rows       []*row            `json:"rows"`
}

type machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	Kernel      string `json:"kernel"`
	LoadAverage string `json:"load_average"` // when the run began: who else was at work
	TempDir     string `json:"temp_dir_filesystem"`
}

func newReport(ctx context.Context, p plan) *report {
	r := &report{
		Began: time.Now().UTC(), Quick: p.quick, SealedSize: storedSize, Clients: clients,
		Commit: said(ctx, "git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
		Machine: machine{
			CPU: cpu(), Cores: runtime.NumCPU(), Kernel: said(ctx, "uname", "-sr"), LoadAverage: fileText("/proc/loadavg"),
			TempDir: said(ctx, "stat", "-f", "-c", "%T", os.TempDir()),
		},
		Versions: map[string]string{"go": runtime.Version()},
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			switch m.Path {
			case "github.com/cockroachdb/pebble/v2", "go.etcd.io/etcd/client/v3", "github.com/jackc/pgx/v5":
				r.Versions[m.Path] = m.Version
			}
		}
	}
	if text := said(ctx, "strace", "--version"); text != "" {
		r.Versions["strace"] = strings.TrimPrefix(text, "strace -- version ")
	}
	return r
}

func (r *report) head() string {
	return fmt.Sprintf("%s, %d cores, load average %s; commit %s; a sealed record has %d bytes",
		r.Machine.CPU, r.Machine.Cores, r.Machine.LoadAverage, r.Commit, r.SealedSize)
}

func (r *report) write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// said is the first line that a command prints; nothing if there is none.
func said(ctx context.Context, name string, args ...string) string {
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
