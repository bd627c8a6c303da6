package cmdline

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Signals returns a context that ends with the first SIGTERM or SIGINT, for a
// daemon to drain; a second one ends the process at once, with exit code 1.
// context.Cause tells which signal came. Call stop when drained: signals then
// act as they do by default.
func Signals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	arrived := make(chan os.Signal, 2)
	stopped := make(chan struct{})
	signal.Notify(arrived, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for first := true; ; first = false {
			select {
			case s := <-arrived:
				if !first {
					os.Exit(ExitFailed)
				}
				cancel(fmt.Errorf("received %v", s))
			case <-stopped:
				return
			}
		}
	}()
	return ctx, sync.OnceFunc(func() {
		signal.Stop(arrived)
		close(stopped)
		cancel(context.Canceled)
	})
}
