//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"chatvault/docker/stack"
)

// fault is something that breaks, and is mended after a while.
type fault struct {
	name  string
	begin func(ctx context.Context) error
	end   func(ctx context.Context) error
}

// tempo is how long a fault lasts, and how long all is well before the next one.
type tempo struct{ leastFault, mostFault, leastGap, mostGap time.Duration }

// brisk is the tempo of the soak.
var brisk = tempo{500 * time.Millisecond, 4 * time.Second, time.Second, 4 * time.Second}

// faults are all that can happen in a round. Kills and restarts hit one relay
// and one vault node, the same for a whole round: the others live on, so that
// their growth can be measured.
func (s *site) faults(victim int) []fault {
	all := []fault{
		kill("chatd", s.relays[victim]), kill("vaultd", s.vaults[victim]), kill("redis", s.Redis),
		restart("chatd", s.relays[victim]), restart("vaultd", s.vaults[victim]),
		freeze("redis", s.Redis),
		storm("the front is cut", s.front, cut), storm("the front is dark", s.front, dark),
	}
	for i := range 2 {
		all = append(all, freeze(fmt.Sprintf("chatd-%d", i+1), s.relays[i]), freeze(fmt.Sprintf("vaultd-%d", i+1), s.vaults[i]),
			storm(fmt.Sprintf("uplink %d is cut", i+1), s.uplinks[i], cut), storm(fmt.Sprintf("uplink %d is dark", i+1), s.uplinks[i], dark))
	}
	return all
}

func kill(name string, d *stack.Daemon) fault {
	return fault{name + " is killed", func(context.Context) error { return d.Kill() }, d.Start}
}

// restart is what an operator does: SIGTERM, and again. What does not end well
// is a defect.
func restart(name string, d *stack.Daemon) fault {
	return fault{name + " is restarted", d.Stop, d.Start}
}

// freeze stops a process without its knowledge, as a paused virtual machine.
func freeze(name string, d *stack.Daemon) fault {
	signal := func(sig syscall.Signal) func(context.Context) error {
		return func(context.Context) error { return syscall.Kill(d.PID(), sig) }
	}
	return fault{name + " is paused", signal(syscall.SIGSTOP), signal(syscall.SIGCONT)}
}

func storm(name string, l *link, w weather) fault {
	set := func(w weather) func(context.Context) error {
		return func(context.Context) error {
			l.set(w)
			return nil
		}
	}
	return fault{name, set(w), set(fair)}
}

// wreck does faults, one after the other, until stop is closed; then all is
// mended. The same seed brings the same faults.
func wreck(ctx context.Context, all []fault, t tempo, rnd *rand.Rand, stop <-chan struct{}, say func(string, ...any)) (done int, err error) {
	var order []int
	for {
		if len(order) == 0 {
			order = rnd.Perm(len(all)) // each once, before any comes again
		}
		f := all[order[0]]
		order = order[1:]
		lasts, gap := span(rnd, t.leastFault, t.mostFault), span(rnd, t.leastGap, t.mostGap)
		if !waits(ctx, stop, gap) {
			return done, nil
		}
		say("%s for %v", f.name, lasts.Round(100*time.Millisecond))
		if err := f.begin(ctx); err != nil {
			return done, fmt.Errorf("%s: %w", f.name, err)
		}
		done++
		waits(ctx, stop, lasts)
		if err := f.end(context.WithoutCancel(ctx)); err != nil {
			return done, fmt.Errorf("after %s: %w", f.name, err)
		}
	}
}

// span is at least least, less than most.
func span(rnd *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rnd.Int64N(int64(most-least)))
}

// waits reports false when stop was closed, or ctx ended, before.
func waits(ctx context.Context, stop <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-stop:
	case <-ctx.Done():
	}
	return false
}
