package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Daemon is one long-running program of the stack, as a process of its own.
// It can be killed and started again; its output is appended to one file. Its
// methods may be called from any goroutine.
type Daemon struct {
	// Name is the program's, LogFile where all it prints is kept.
	Name, LogFile string

	// command makes the process to be started, anew for each start.
	command func() *exec.Cmd
	// ready is asked about each line that is printed, until it says yes.
	ready func(line []byte) bool

	mu      sync.Mutex
	current *process // nil when none was started, or it was waited for
}

// process is one life of a Daemon.
type process struct {
	cmd   *exec.Cmd
	ready chan struct{} // closed by the first line that says so
	done  chan struct{} // closed after the end; then err is set
	err   error
}

var (
	errRunning    = errors.New("is running already")
	errNotRunning = errors.New("is not running")
)

// stopGrace is how long a program may take between SIGTERM and its end, unless
// the context ends before.
const stopGrace = 30 * time.Second

// Start starts the program and returns when it has said that it is ready. When
// it ends before, or ctx does, the error has the last lines that it printed.
func (d *Daemon) Start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != nil {
		return fmt.Errorf("%s %w", d.Name, errRunning)
	}
	p, err := d.launch()
	if err != nil {
		return fmt.Errorf("start %s: %w", d.Name, err)
	}
	select {
	case <-p.ready:
		d.current = p
		return nil
	case <-p.done:
		return fmt.Errorf("%s ended before it was ready: %v\n%s", d.Name, p.err, d.tail())
	case <-ctx.Done():
		killGroup(p.cmd.Process)
		<-p.done
		return fmt.Errorf("%s was not ready in time: %w\n%s", d.Name, ctx.Err(), d.tail())
	}
}

// launch starts the process from a thread that lives as long as it does: Linux
// sends the parent-death signal when the thread that forked ends.
func (d *Daemon) launch() (*process, error) {
	log, err := os.OpenFile(d.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: d.command(), ready: make(chan struct{}), done: make(chan struct{})}
	p.cmd.SysProcAttr = ownGroup()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		out, err := startWithPipe(p.cmd)
		started <- err
		if err != nil {
			return
		}
		defer out.Close()
		copied := make(chan struct{})
		go func() {
			defer close(copied)
			// It ends when all who hold the other end have ended.
			_, _ = io.Copy(&lineWriter{to: log, ready: d.ready, found: func() { close(p.ready) }}, out)
		}()
		p.err = p.cmd.Wait()
		killGroup(p.cmd.Process) // what it left behind
		<-copied
		close(p.done)
	}()
	return p, <-started
}

// startWithPipe starts a command and returns the end of the pipe that it
// prints into.
func startWithPipe(cmd *exec.Cmd) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Kill ends the program with SIGKILL, as a crash or a power cut would, and
// whatever it has started with it.
func (d *Daemon) Kill() error {
	p := d.take()
	if p == nil {
		return fmt.Errorf("%s %w", d.Name, errNotRunning)
	}
	killGroup(p.cmd.Process)
	<-p.done
	return nil
}

// Stop sends SIGTERM and waits for the end. A program that exits with another
// code than 0 is an error, as is one that has to be killed because ctx or 30
// seconds are over.
func (d *Daemon) Stop(ctx context.Context) error {
	p := d.take()
	if p == nil {
		return fmt.Errorf("%s %w", d.Name, errNotRunning)
	}
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	// An error means that it has ended by itself: Wait knows how.
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	var err error
	select {
	case <-p.done:
		err = p.err
	case <-ctx.Done():
		err = fmt.Errorf("did not end after SIGTERM: %w", ctx.Err())
	}
	killGroup(p.cmd.Process)
	<-p.done
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", d.Name, err, d.tail())
	}
	return nil
}

// Running says whether the program runs.
func (d *Daemon) Running() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil {
		return false
	}
	select {
	case <-d.current.done:
		return false
	default:
		return true
	}
}

// PID is the process id, 0 when the program does not run.
func (d *Daemon) PID() int {
	if !d.Running() {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current.cmd.Process.Pid
}

// Logs is all that the program has printed since the stack was made.
func (d *Daemon) Logs() ([]byte, error) { return os.ReadFile(d.LogFile) }

// Admin is the address of the program's admin listener, of its last life.
func (d *Daemon) Admin() (string, error) {
	log, err := d.Logs()
	if err != nil {
		return "", err
	}
	address := ""
	for line := range bytes.Lines(log) {
		if m := said(line); m.Msg == "admin" {
			address = m.Address
		}
	}
	if address == "" {
		return "", fmt.Errorf("%s has no admin listener", d.Name)
	}
	return address, nil
}

func (d *Daemon) take() *process {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.current
	d.current = nil
	return p
}

// tail is the last lines of the log, for error messages.
func (d *Daemon) tail() string {
	b, err := d.Logs()
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// lineWriter copies to a file and shows each whole line to ready until that
// says yes. One goroutine writes.
type lineWriter struct {
	to    *os.File
	ready func(line []byte) bool
	found func()
	part  []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	n, err := w.to.Write(b)
	if w.ready == nil {
		return n, err
	}
	w.part = append(w.part, b...)
	for w.ready != nil {
		line, rest, whole := bytes.Cut(w.part, []byte("\n"))
		if !whole {
			break
		}
		w.part = rest
		if w.ready(line) {
			w.found()
			w.ready, w.part = nil, nil
		}
	}
	return n, err
}
