// Command storebench measures the record stores against their goals: make
// bench-store. It prints one line for each goal: MET or MISSED, what was measured,
// the goal. The status is 0 only if all are met. Everything, each
// repetition too, is in bin/bench-store.json.
//
// Charges are LoadStale, rules.Charge, AES-GCM in this process, and Swap, as package
// vault does them: no OPAQUE and no HSM.
// They are compared with the engine's floor: the same read and swap of as many
// bytes through the engine's own client, without our store layer, in the same
// run, by turns. Servers and clients share this machine.
//
// With --quick everything is tiny: it shows that the program runs, its numbers
// are worth nothing, and it says so.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"chatvault/docker/goals"
)

func main() {
	quick := flag.Bool("quick", false, "measure next to nothing: to see that the program runs")
	out := flag.String("out", "bin/bench-store.json", "where the report goes")
	only := flag.String("only", "", "measure only the rows whose group has this prefix; for development")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := fullPlan()
	if *quick {
		p = quickPlan()
	}
	met, err := run(ctx, p, *only, *out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "storebench:", err)
	}
	if err != nil || !met {
		stop()
		os.Exit(1)
	}
}

// run measures all rows and writes the report.
func run(ctx context.Context, p plan, only, out string) (met bool, err error) {
	if p.quick {
		fmt.Println("--quick: tiny repetitions, to see that the program runs; these numbers are worth nothing")
	}
	rep := newReport(ctx, p)
	fmt.Printf("%s; a sealed record has %d bytes\n", rep.Head(), storedSize)
	return rep.Measure(ctx, groups(p), only, out)
}

// groups are all measurements. Charges come last: their repetitions take the time
// that is left.
func groups(p plan) []goals.Group {
	all := []goals.Group{
		{Name: "follower", Measure: func(ctx context.Context) []*goals.Row { return followerRows(ctx, p) }},
		{Name: "space", Measure: func(ctx context.Context) []*goals.Row { return spaceRows(ctx, p) }},
	}
	for _, e := range engines {
		for _, slow := range []bool{false, true} {
			all = append(all, goals.Group{Name: e.name, Measure: func(ctx context.Context) []*goals.Row {
				return []*goals.Row{chargeRow(ctx, p, e, slow)}
			}})
		}
	}
	return all
}

var engines = []engine{
	{"pebble", startPebble},
	etcdEngine(1),
	etcdEngine(3),
	{"postgres", startPostgres},
}
