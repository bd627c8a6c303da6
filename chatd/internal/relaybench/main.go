//go:build linux

// Command relaybench measures chatd against its goals: make bench-relay. It prints
// one line for each goal: MET or MISSED, what was measured, the goal. The status
// is 0 only if all are met. Everything, each repetition too, is in
// bin/bench-relay.json.
//
// chatd is the real program, with tickets, Redis as a process of its own, and an
// uplink with mutual TLS to a vault that sends DATA back. The floors (package
// floors) do the same work with the same payload: 256 bytes, a whole WebSocket
// message. Whatever is compared is measured by turns, or at the same time, in
// the same run, on the same machine, with one CPU for Go (GOMAXPROCS=1) but in the
// reconnect storm. CPU is that of the server's process alone, user and kernel;
// memory is its RSS.
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
	"runtime"
	"strings"
	"syscall"
	"time"

	"chatvault/docker/goals"
)

// Processes are started from this thread, which lives as long as the program: the
// kernel kills them when it ends.
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		if err := play(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintf(os.Stderr, "relaybench %s: %v\n", os.Args[1], err)
			os.Exit(1)
		}
		return
	}
	quick := flag.Bool("quick", false, "measure next to nothing: to see that the program runs")
	out := flag.String("out", "bin/bench-relay.json", "where the report goes")
	only := flag.String("only", "", "measure only the groups whose name has this prefix; for development")
	reps := flag.Int("reps", 0, "repetitions; for development")
	profiles := flag.String("profiles", "", "an existing directory for profiles of chatd, which then is slower; for development")
	chatd := flag.String("chatd", "", "a chatd that is there already; built if empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := fullPlan()
	if *quick {
		p = quickPlan()
	}
	if *reps > 0 {
		p.Repetitions, p.memory, p.storms, p.Rounds = *reps, *reps, *reps, 1
	}
	met, err := run(ctx, p, *chatd, *profiles, *only, *out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "relaybench:", err)
	}
	if err != nil || !met {
		stop()
		os.Exit(1)
	}
}

// play is what a process of this program does for another one.
func play(role string, args []string) error {
	switch {
	case role == "clients" && len(args) == 1:
		return runClients(args[0])
	case role == "vault" && len(args) == 3:
		return runVault(args[0], args[1], args[2])
	case (role == "door" || role == "plain-door") && len(args) == 1:
		return runDoor(role == "door", args[0])
	}
	return fmt.Errorf("no such role")
}

// plan is how much is measured.
type plan struct {
	goals.Plan
	quick       bool
	memory      int           // repetitions of what measures memory
	storms      int           // and of the storm
	length      time.Duration // of one side of a repetition
	connections []int         // that relay frames
	connects    int           // in a repetition
	phones      int           // that a process holds
}

func fullPlan() plan {
	return plan{
		Plan:   goals.Plan{Repetitions: 5, Rounds: 3, NoRepeats: time.Now().Add(16 * time.Minute)},
		memory: 3, storms: 5, length: 2 * time.Second, connections: []int{64, 1000}, connects: 4000, phones: accounts,
	}
}

func quickPlan() plan {
	return plan{
		Plan: goals.Plan{Repetitions: 2, Rounds: 1, NoRepeats: time.Now()}, quick: true,
		memory: 1, storms: 1, length: 300 * time.Millisecond, connections: []int{8, 64}, connects: 200, phones: 300,
	}
}

// group is what is measured together.
// groups are all measurements.
func groups(w *world, p plan) (all []goals.Group) {
	for _, g := range []struct {
		name    string
		measure func(*world, plan) []*goals.Row
	}{
		{"relay", relayed}, {"hop", hop}, {"connect", connects}, {"stuck", stuck},
		{"pings", pings}, {"memory", memory}, {"storm", reconnects},
	} {
		all = append(all, goals.Group{Name: g.name, Measure: func(context.Context) []*goals.Row { return g.measure(w, p) }})
	}
	return all
}

// run measures all rows and writes the report.
func run(ctx context.Context, p plan, chatd, profiles, only, out string) (met bool, err error) {
	if p.quick {
		fmt.Println("--quick: tiny repetitions, to see that the program runs; these numbers are worth nothing")
	}
	rep := goals.NewReport(ctx)
	rep.Setting = map[string]any{"quick": p.quick, "connections_per_process": p.phones, "frame_bytes": frameSize, "uplink": "mutual TLS", "go_processors": 1}
	fmt.Println(rep.Head())
	w, err := newWorld(ctx, chatd)
	defer w.close()
	if err != nil {
		return false, err
	}
	w.profiles = profiles
	return rep.Measure(ctx, groups(w, p), only, out)
}
