package cmdline

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// echoes is how soon the same signal may come again and still be the first one:
// timeout(1), for one, sends its signal to the process, and then to its group.
const echoes = 500 * time.Millisecond

// Signals returns a context that ends with the first SIGTERM or SIGINT, for a
// daemon to drain; a second one ends the process at once, with exit code 1, unless
// it is the same again within half a second. context.Cause tells which signal
// came. Call stop when drained: signals then act as they do by default.
func Signals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	arrived := make(chan os.Signal, 2)
	stopped := make(chan struct{})
	signal.Notify(arrived, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		var first os.Signal
		var came time.Time
		for {
			select {
			case s := <-arrived:
				if first == nil {
					first, came = s, time.Now()
					cancel(fmt.Errorf("received %v", s))
				} else if second(first, s, time.Since(came)) {
					os.Exit(ExitFailed)
				}
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

// second says whether a signal that came so long after the first is another one.
func second(first, s os.Signal, after time.Duration) bool { return s != first || after >= echoes }
