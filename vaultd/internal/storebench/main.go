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
	"strings"
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
	met = true
	for _, g := range groups() {
		if !strings.HasPrefix(g.name, only) {
			continue
		}
		for _, r := range g.measure(ctx, p) {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			fmt.Println(r)
			met = met && r.Met
			rep.Rows = append(rep.Rows, r)
		}
		if err := rep.Write(out); err != nil { // what there is so far
			return false, err
		}
	}
	return met && len(rep.Rows) > 0, nil
}

// group is what is measured together.
type group struct {
	name    string
	measure func(context.Context, plan) []*goals.Row
}

// groups are all measurements. Charges come last: their repetitions take the time
// that is left.
func groups() []group {
	all := []group{{"follower", followerRows}, {"space", spaceRows}}
	for _, e := range engines {
		for _, slow := range []bool{false, true} {
			all = append(all, group{e.name, func(ctx context.Context, p plan) []*goals.Row {
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
