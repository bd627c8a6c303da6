package cmdline

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestMain makes of the test binary, called with this argument, a daemon that
// never finishes draining.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "drain-for-ever" {
		ctx, _ := Signals(context.Background())
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println(context.Cause(ctx))
		select {}
	}
	os.Exit(m.Run())
}

func TestTheFirstSignalDrainsTheSecondEnds(t *testing.T) {
	for first, second := range map[syscall.Signal]syscall.Signal{syscall.SIGTERM: syscall.SIGINT, syscall.SIGINT: syscall.SIGTERM} {
		cmd := exec.Command(os.Args[0], "drain-for-ever")
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		expect := func(want string) {
			t.Helper()
			if !lines.Scan() || lines.Text() != want {
				t.Errorf("printed %q, want %q", lines.Text(), want)
			}
		}
		expect("ready")
		cmd.Process.Signal(first)
		expect("received " + first.String())
		cmd.Process.Signal(second)
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != ExitFailed {
			t.Errorf("ended with %v", err)
		}
	}
}

// What timeout(1) sends twice is one signal: the second must not end what the first
// lets end in peace.
func TestTheSameSignalAtOnceIsNoSecond(t *testing.T) {
	for _, c := range []struct {
		s     os.Signal
		after time.Duration
		want  bool
	}{
		{syscall.SIGINT, 0, false}, {syscall.SIGINT, echoes - 1, false}, {syscall.SIGINT, echoes, true},
		{syscall.SIGTERM, 0, true}, {syscall.SIGTERM, time.Hour, true},
	} {
		if got := second(syscall.SIGINT, c.s, c.after); got != c.want {
			t.Errorf("%v %v after SIGINT: a second one %v", c.s, c.after, got)
		}
	}
}

func TestStopEndsTheContext(t *testing.T) {
	ctx, stop := Signals(context.Background())
	if ctx.Err() != nil {
		t.Error("over before it began")
	}
	stop()
	stop()
	if !errors.Is(context.Cause(ctx), context.Canceled) {
		t.Error(context.Cause(ctx))
	}
}
