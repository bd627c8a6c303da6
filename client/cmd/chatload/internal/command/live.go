package command

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"chatvault/client/cmd/chatload/internal/measure"
)

// repaint is how often the live view is painted.
const repaint = 500 * time.Millisecond

// maxLine is how long its line may be, so that no terminal wraps it.
const maxLine = 118

// view is what the live view shows: the operations, and the connections held.
type view func() (ops []measure.Glance, held int64)

// watch paints one line over and over while the run goes on, if w is a
// terminal. Call stop before anything else is written.
func watch(w io.Writer, v view, length time.Duration, quiet bool) (stop func()) {
	f, ok := w.(*os.File)
	if quiet || !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}
	}
	start := time.Now()
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(repaint)
		defer tick.Stop()
		for {
			select {
			case <-done:
				fmt.Fprint(w, "\r\x1b[2K")
				return
			case <-tick.C:
				fmt.Fprint(w, "\r\x1b[2K"+glance(v, time.Since(start), length))
			}
		}
	}()
	return func() {
		close(done)
		<-stopped
	}
}

// glance is the line: time, connections, and each operation.
func glance(v view, since, length time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v/%v", since.Round(time.Second), length.Round(time.Second))
	ops, held := v()
	if held > 0 {
		fmt.Fprintf(&b, "  %d held", held)
	}
	for _, op := range ops {
		if op.Offered == 0 {
			continue
		}
		fmt.Fprintf(&b, " | %s %d/%d", op.Name, op.Done-op.Failed, op.Offered)
		if op.Flying > 0 {
			fmt.Fprintf(&b, " flying %d", op.Flying)
		}
		if op.Failed > 0 {
			fmt.Fprintf(&b, " failed %d", op.Failed)
		}
		if op.P99 > 0 {
			fmt.Fprintf(&b, " p50 %.0f p99 %.0f ms", op.P50, op.P99)
		}
	}
	if b.Len() > maxLine {
		return b.String()[:maxLine]
	}
	return b.String()
}
