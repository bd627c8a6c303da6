// Package command is the grammar of chatload and what its commands do.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"chatvault/client/cmd/chatload/internal/load"
	"chatvault/client/cmd/chatload/internal/report"
	"chatvault/client/cmd/chatload/internal/result"
	"chatvault/protocol/cmdline"
)

const name = "chatload"

const description = `Puts load on a relay and the vault behind it, and measures.

  chatload scenarios
  chatload run echo --url ws://127.0.0.1:8080/v1/ws --fleet pins.json --issuer-key issuer.key --iss https://app.dev --rate 50 --duration 30s --out echo --slo 'echo.p99<20ms'
  chatload run idle … --connections 50000 --rate 1000 --processes 4 --metrics http://127.0.0.1:9090/metrics
  chatload run drain … --connections 5000 --rate 500 --duration 2m --drain-pid "$(pidof chatd)"
  chatload compare before/result.json after/result.json
  chatload merge --out both machine1/result.json machine2/result.json

The load is open: operations start when they are due, whatever became of those before. Latency "by schedule" counts from then, so that a stall of the relay is not hidden by asking less; "by service" counts from the start. Where the two part, the rate is more than the relay, or chatload, can do; then chatload says which of them was the bottleneck.

All of it comes from few addresses: lift the relay's limits (chatd serve --limit ConnectionsPerIP=off), or spread it with --local-addrs. One process has as many connections as it may have descriptors, and about 28,000 for each source address: --processes and --local-addrs give more.

Only for relays and vaults that are yours: the scenarios register accounts, and destroy keys.

Exit codes: 0 ok, 1 error, 2 usage, 99 an objective (--slo, --max-regression) was missed.`

// exitMissed is the exit code when an objective was missed.
const exitMissed = 99

// grammar is the command line.
type grammar struct {
	Run       runCmd             `cmd:"" help:"Run a scenario."`
	Scenarios scenariosCmd       `cmd:"" help:"List the scenarios."`
	Tickets   ticketsCmd         `cmd:"" help:"Make devices and tickets with an issuer's key, for --tickets of run."`
	Compare   compareCmd         `cmd:"" help:"Compare two results."`
	Merge     mergeCmd           `cmd:"" help:"Merge the results of generators that ran at the same time."`
	Worker    workerCmd          `cmd:"" hidden:""`
	Version   cmdline.VersionCmd `cmd:"" help:"Print the version."`
}

// Main runs one command line and returns the exit code.
func Main(ctx context.Context, io cmdline.IO, args []string) int {
	var g grammar
	return cmdline.App{Name: name, Description: description, IO: io}.Run(ctx, &g, args)
}

type scenariosCmd struct{}

// Run lists the scenarios.
func (scenariosCmd) Run(io cmdline.IO) error {
	t := tabwriter.NewWriter(io.Out, 0, 0, 2, ' ', 0)
	for _, s := range load.Scenarios() {
		fmt.Fprintf(t, "%s\t%s\n\tMeasures %s.\n", s.Name, s.About, strings.Join(s.Ops, ", "))
	}
	fmt.Fprintln(t, "\nWhat is measured, for --slo:")
	for _, op := range load.Operations() {
		fmt.Fprintf(t, "%s\t%s\n", op.Name, op.About)
	}
	return t.Flush()
}

// readResult reads a result from a file, or from the folder that run wrote.
func readResult(file string) (*result.Result, error) {
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		file = filepath.Join(file, resultFile)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := result.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// resultFile is the one of a result's files that chatload reads again.
const resultFile = "result.json"

// mayWrite makes a folder, unless dir is empty, and sees that files can be made in
// it: before a run, which may have taken a day by the time it has something to write.
func mayWrite(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, tempPattern)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// writeAll writes a result's files into a folder: result.json, report.html, and
// a percentile table for each operation, by schedule and by service.
func writeAll(dir string, r *result.Result) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// First what the rest can be made of.
	if err := writeFile(dir, resultFile, r.Write); err != nil {
		return err
	}
	if err := writeFile(dir, "report.html", func(w io.Writer) error { return report.Write(w, r) }); err != nil {
		return err
	}
	for _, op := range r.Ops {
		if op.Schedule.Count == 0 {
			continue
		}
		err := errors.Join(writeFile(dir, op.Name+".schedule.hgrm", op.Schedule.Histogram.WriteHGRM),
			writeFile(dir, op.Name+".service.hgrm", op.Service.Histogram.WriteHGRM))
		if err != nil {
			return err
		}
	}
	return nil
}

// tempPattern names what is not complete yet.
const tempPattern = ".chatload-*"

// writeFile makes a file, or replaces it, whole: who is interrupted twice finds the
// old one or the new one.
func writeFile(dir, name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(dir, tempPattern)
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(dir, name), errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// counts is outcomes for people, by name.
func counts(outcomes map[string]int64) string {
	var out []string
	for _, code := range slices.Sorted(maps.Keys(outcomes)) {
		out = append(out, fmt.Sprintf("%s %d", code, outcomes[code]))
	}
	return strings.Join(out, ", ")
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// summary writes what people want to know first.
func summary(w io.Writer, r *result.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "operation\toffered\tmissed\tgood\tfailed\trate\tp50\tp99\tp99.9\tmax\tservice p99\t")
	for _, op := range r.Ops {
		rate := "-" // of what nobody scheduled
		if op.OfferedRate > 0 {
			rate = fmt.Sprintf("%.1f/s", op.AchievedRate)
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%s\t", op.Name, op.Offered, op.Missed, op.Good(), op.Failed, rate)
		s := op.Schedule
		for _, v := range []float64{s.P50, s.P99, s.P999, s.Max, op.Service.P99} {
			if s.Count > 0 {
				fmt.Fprintf(t, "%.1f ms\t", v)
			} else {
				fmt.Fprint(t, "-\t") // nothing that had a duration
			}
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, op := range r.Ops {
		if op.Outcomes[load.CodeOK] != op.Done {
			fmt.Fprintf(w, "%s: %s\n", op.Name, counts(op.Outcomes))
		}
	}
	for _, s := range r.Servers {
		fmt.Fprintf(w, "%s: memory %.1f MiB before, %.1f after, CPU %.2f s", s.Name, mib(s.RSSBefore), mib(s.RSSAfter), s.CPU)
		if s.ConnectionsMax > 0 {
			fmt.Fprintf(w, ", at most %d connections", s.ConnectionsMax)
		}
		if s.PerConnection > 0 {
			fmt.Fprintf(w, " of %.1f KiB", float64(s.PerConnection)/1024)
		}
		fmt.Fprintln(w)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(w, "warning: %s\n", warning)
	}
	for _, v := range r.Verdicts {
		word := "kept"
		if !v.Kept {
			word = "MISSED"
		}
		fmt.Fprintf(w, "%s %s (%s)\n", word, v.SLO, v.Was)
	}
	return nil
}
