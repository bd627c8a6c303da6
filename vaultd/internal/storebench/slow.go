package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// slowly puts strace around a server, to make each fsync take longer. The server
// stays our child (-D), so that whoever ends it ends it and not strace alone, and
// runs at full speed between its fsyncs (--seccomp-bpf).
func slowly(argv []string) []string {
	const calls = "fsync,fdatasync,msync"
	return append([]string{
		"strace", "-D", "--seccomp-bpf", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + calls,
		"-e", "inject=" + calls + ":delay_enter=" + strconv.FormatInt(fsyncDelay.Microseconds(), 10),
	}, argv...)
}

// checkSlowly says why a server could not be slowed down: a server that is not
// would be measured as if it were.
func checkSlowly(ctx context.Context) error {
	argv := slowly([]string{"true"})
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil || len(out) > 0 {
		return fmt.Errorf("strace, which is to delay fsync, does not work here: %v: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
