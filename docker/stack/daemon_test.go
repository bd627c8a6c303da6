package stack

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell is a daemon that is a script; it is ready when it prints "ready".
func shell(t *testing.T, script string) *Daemon {
	t.Helper()
	d := &Daemon{
		Name: "script", LogFile: filepath.Join(t.TempDir(), "log"),
		command: func() *exec.Cmd { return exec.Command("sh", "-c", script) },
		ready:   func(line []byte) bool { return string(line) == "ready" },
	}
	t.Cleanup(func() { _ = d.Kill() })
	return d
}

func TestDaemonLives(t *testing.T) {
	d := shell(t, `echo before; echo ready; echo after >&2; while :; do sleep 1; done`)
	ctx := context.Background()
	for range 2 { // what was killed can be started again
		if err := d.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if !d.Running() || d.PID() == 0 {
			t.Error("it does not run")
		}
		if err := d.Start(ctx); !errors.Is(err, errRunning) {
			t.Errorf("a second start: %v", err)
		}
		pid := d.PID()
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		if d.Running() || syscall.Kill(pid, 0) == nil {
			t.Error("it runs on")
		}
	}
	if err := d.Kill(); !errors.Is(err, errNotRunning) {
		t.Errorf("killed twice: %v", err)
	}
	if err := d.Stop(ctx); !errors.Is(err, errNotRunning) {
		t.Errorf("stopped after the end: %v", err)
	}
	log, err := d.Logs()
	if err != nil || strings.Count(string(log), "before\nready\n") != 2 {
		t.Errorf("log %q, %v", log, err)
	}
}

func TestDaemonStops(t *testing.T) {
	for _, c := range []struct{ trap, want string }{
		{"exit 0", ""},
		{"echo cannot save; exit 3", "cannot save"},
		{":", "did not end"},
	} {
		d := shell(t, `trap '`+c.trap+`' TERM; echo ready; while :; do sleep 600 & wait; done`)
		if err := d.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if c.trap == ":" {
			cancel()
		}
		err := d.Stop(ctx)
		cancel()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("trap %q: %v, want %q", c.trap, err, c.want)
		}
		if d.Running() {
			t.Errorf("trap %q: it runs on", c.trap)
		}
	}
}

func TestDaemonThatFailsToStart(t *testing.T) {
	if err := shell(t, `echo no such token; exit 2`).Start(context.Background()); err == nil || !strings.Contains(err.Error(), "no such token") {
		t.Errorf("ended early: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := shell(t, `echo readyish; while :; do sleep 1; done`).Start(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("never ready: %v", err)
	}
	missing := &Daemon{
		Name: "missing", LogFile: filepath.Join(t.TempDir(), "log"),
		command: func() *exec.Cmd { return exec.Command("/nonexistent/program") },
	}
	if err := missing.Start(context.Background()); err == nil || missing.Running() {
		t.Errorf("a program that is not there started: %v", err)
	}
}

// A killed daemon must not leave what it had started.
func TestDaemonTakesItsChildrenAlong(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d := shell(t, "")
	d.command = func() *exec.Cmd {
		cmd := exec.Command("sh", "-c", `sleep 600 & echo ready; wait`)
		cmd.ExtraFiles = []*os.File{w} // open in the child as long as it lives
		return cmd
	}
	if err := d.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the child outlived it: %v", err)
	}
}
