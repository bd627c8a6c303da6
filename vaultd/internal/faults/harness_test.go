package faults

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"chatvault/vaultd/internal/recordstore/engines/proc"
)

// What the schedules of the tag "fault" need before and after, see leftover_test.go.
var (
	clearAway = func() error { return nil }
	letGo     = func() {}
)

func TestMain(m *testing.M) {
	MainIfChild()
	if err := clearAway(); err != nil {
		fmt.Fprintln(os.Stderr, "clearing away what an earlier run left:", err)
		os.Exit(1)
	}
	stop := guard("all of it", longest)
	code := m.Run()
	stop()
	os.Exit(code)
}

// guard ends this process, with all that it started, if it is not stopped in time:
// what hangs is told, and does not hang whoever waits for it.
func guard(what string, limit time.Duration) (stop func()) {
	timer := time.AfterFunc(limit, func() {
		b := make([]byte, 4<<20)
		fmt.Fprintf(os.Stderr, "%s takes longer than %s\n%s\n", what, limit, b[:runtime.Stack(b, true)])
		proc.KillAll(os.Stderr)
		letGo()
		os.Exit(2)
	})
	return func() { timer.Stop() }
}

// trial is one schedule: what is loaded, and what happens to it meanwhile.
type trial struct {
	store   string
	members int
	load    Load
	limit   time.Duration // in which all nodes must work again after the last fault
	faults  func(ctx context.Context) (told []string, err error)

	told   []string
	back   time.Duration // how long it took
	h      *History
	guilty int // accounts with a history that nothing explains
}

// run runs the load while the faults happen, and then asks that all nodes work
// again within the limit.
func (x *trial) run(t *testing.T) error {
	t.Helper()
	defer guard(t.Name(), 4*time.Minute)()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	x.h = NewHistory()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		x.load.Run(ctx, x.h)
	}()
	var err error
	x.told, err = x.faults(ctx)
	if err == nil {
		began := time.Now()
		err = Alive(ctx, x.limit, x.load)
		x.back = time.Since(began)
	}
	cancel()
	<-ended
	return err
}

// prove runs a trial that has to be linearizable.
func (x *trial) prove(t *testing.T) {
	t.Helper()
	if err := x.run(t); err != nil {
		x.report(t, "FAILED")
		t.Fatal(err)
	}
	var err error
	if x.guilty, err = x.h.Check(); err != nil || x.h.done == 0 {
		x.report(t, "FAILED")
		t.Fatalf("%d operations, %d accounts are not linearizable; %v", x.h.done, x.guilty, err)
	}
	x.report(t, "linearizable, all nodes back after "+x.back.Round(time.Millisecond).String())
}

// report prints a schedule's one line.
func (x *trial) report(t *testing.T, verdict string) {
	kinds := make(map[string]int)
	for _, name := range x.told {
		kinds[name]++
	}
	var told []string
	for name, n := range kinds {
		told = append(told, fmt.Sprintf("%d × %s", n, name))
	}
	slices.Sort(told)
	fmt.Printf("%s: %s, %d members; faults: %s; %s; %s\n", strings.TrimPrefix(t.Name(), "Test"), x.store, x.members, strings.Join(told, ", "), x.h, verdict)
}

func mustBeLinearizable(t *testing.T, h *History) {
	t.Helper()
	t.Log(h)
	if h.done == 0 {
		t.Fatal("nothing was done")
	}
	if guilty, err := h.Check(); err != nil {
		t.Fatalf("%d accounts are not linearizable; %v", guilty, err)
	}
}
