package main

import (
	"context"
	"os"
	"runtime/debug"
	"strings"

	"chatvault/docker/goals"
)

// newReport begins bin/bench-store.json.
func newReport(ctx context.Context, p plan) *goals.Report {
	r := goals.NewReport(ctx)
	r.Setting = map[string]any{
		"quick":   p.quick, // then the numbers are worth nothing
		"clients": clients, "sealed_record_bytes": storedSize,
		"temp_dir_filesystem": goals.Said(ctx, "stat", "-f", "-c", "%T", os.TempDir()),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			switch m.Path {
			case "github.com/cockroachdb/pebble/v2", "go.etcd.io/etcd/client/v3", "github.com/jackc/pgx/v5":
				r.Versions[m.Path] = m.Version
			}
		}
	}
	if text := goals.Said(ctx, "strace", "--version"); text != "" {
		r.Versions["strace"] = strings.TrimPrefix(text, "strace -- version ")
	}
	return r
}
