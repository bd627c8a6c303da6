// Package proc runs the engines that tests need as processes which can be killed,
// paused and started again. Nothing shipped links it.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is one running engine.
type Process struct {
	name string
	log  *tail

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has
}

// Start starts a command. What it prints is kept for Log.
func Start(name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{name: name, log: &tail{}, cmd: cmd, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	// Holders of the pipe that outlive the process must not keep Wait from returning.
	cmd.WaitDelay = time.Second
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// An engine does not outlive a test binary that is killed.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	running.add(p)
	go func() {
		cmd.Wait()
		running.remove(p)
		close(p.exited)
	}()
	return p, nil
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Signal sends a signal. A process that has ended is an error.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%s: %s: %w", p.name, s, err)
	}
	return nil
}

// Pause stops the process with SIGSTOP and returns when every thread of it stands
// still: the signal is sent at once and heard a little later, while a thread on
// another core may still answer somebody.
func (p *Process) Pause() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return Until(10*time.Second, p, func() error {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
		if err != nil {
			return err
		}
		for _, name := range stats {
			b, err := os.ReadFile(name)
			if err != nil {
				continue // the thread is gone
			}
			// pid (command) state …; the command may hold spaces and brackets.
			if _, state, _ := strings.Cut(string(b[bytes.LastIndexByte(b, ')')+1:]), " "); !strings.HasPrefix(state, "T") {
				return fmt.Errorf("thread %s is in state %.1s", name, state)
			}
		}
		return nil
	})
}

// endLimit is how long a process may take to end. One that signal 9 does not end
// in that time waits inside of the kernel.
const endLimit = time.Minute

// End sends a signal and waits until the process has ended. It is no error if that
// had happened before. After a minute it is killed, and that is one.
func (p *Process) End(s syscall.Signal) error {
	if err := p.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(endLimit):
		p.Signal(syscall.SIGKILL)
		return fmt.Errorf("%s: did not end after %s; killed", p.name, s)
	}
}

// Log is the end of what it printed.
func (p *Process) Log() string { return p.log.String() }

// tail keeps the last bytes written.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 16 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if len(t.b) > 2*tailSize {
		t.b = bytes.Clone(t.b[len(t.b)-tailSize:])
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b[max(0, len(t.b)-tailSize):])
}

// Ports finds n free TCP ports of the loopback interface. They are below the range
// from which the kernel gives ports to outgoing connections: an engine that is
// started again finds its port still free.
func Ports(n int) ([]int, error) {
	var ports []int
	var held []io.Closer
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for range 1000 {
		if len(ports) == n {
			return ports, nil
		}
		port := 15000 + rand.IntN(32000-15000)
		l, err := net.Listen("tcp", Address(port))
		if err != nil {
			continue
		}
		held, ports = append(held, l), append(ports, port)
	}
	return nil, fmt.Errorf("no %d free ports on the loopback interface", n)
}

// Address is a port of the loopback interface.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Until calls f every few milliseconds until it returns nil, and gives up after the
// time, or when the process has ended.
func Until(limit time.Duration, p *Process, f func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
		select {
		case <-p.Exited():
			return fmt.Errorf("%s ended: %w; it said:\n%s", p.name, err, p.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ModuleRoot is the directory of chatvault's go.mod, looked for upwards from the
// working directory, which for a test is its package.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(b, []byte("module chatvault\n")) {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("the working directory is not inside of chatvault's source")
		}
		dir = up
	}
}

// OrFatal ends the test with an engine's error. Tests never skip for want of an
// engine: what is not run is not proven.
func OrFatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
