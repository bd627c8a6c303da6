// Package command is the grammar of chatload and what its commands do.
package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
		fmt.Fprintf(t, "%s\t%s\n", s.Name, s.About)
	}
	return t.Flush()
}

// readResult reads a result from a file.
func readResult(file string) (*result.Result, error) {
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

// writeAll writes a result's files into a folder: result.json, report.html, and
// a percentile table for each operation, by schedule and by service.
func writeAll(dir string, r *result.Result) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]func(io.Writer) error{
		"result.json": r.Write,
		"report.html": func(w io.Writer) error { return report.Write(w, r) },
	}
	for _, op := range r.Ops {
		if op.Schedule.Count > 0 {
			files[op.Name+".schedule.hgrm"] = op.Schedule.Histogram.WriteHGRM
			files[op.Name+".service.hgrm"] = op.Service.Histogram.WriteHGRM
		}
	}
	for name, write := range files {
		if err := writeFile(filepath.Join(dir, name), write); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	if err := write(f); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// summary writes what people want to know first.
func summary(w io.Writer, r *result.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "operation\toffered\tmissed\tgood\tfailed\trate\tp50\tp99\tp99.9\tmax\tservice p99\t")
	for _, op := range r.Ops {
		s := op.Schedule
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%.1f/s\t%.1f ms\t%.1f ms\t%.1f ms\t%.1f ms\t%.1f ms\t\n", op.Name, op.Offered, op.Missed,
			op.Good(), op.Failed, op.AchievedRate, s.P50, s.P99, s.P999, s.Max, op.Service.P99)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, op := range r.Ops {
		if len(op.Outcomes) > 1 || op.Failed > 0 {
			fmt.Fprintf(w, "%s: %v\n", op.Name, op.Outcomes)
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
