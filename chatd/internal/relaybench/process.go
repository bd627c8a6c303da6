//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is a program that the benchmark has started. It dies with the
// benchmark, whatever ends that.
type process struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string   // what it says; lost while nobody listens and it is full
	done  chan struct{} // closed when it has ended
}

// start starts a program that says on stdout, or on stderr, what await waits for.
// Only the main goroutine may call it: the kernel kills the program when the
// thread that started it ends, and main keeps its thread.
func start(name string, speaksErr bool, procs int, path string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(path, args...), lines: make(chan string, 64), done: make(chan struct{})}
	p.cmd.Env = os.Environ()
	if procs > 0 {
		p.cmd.Env = append(p.cmd.Env, fmt.Sprintf("GOMAXPROCS=%d", procs))
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = os.Stderr
	pipe := p.cmd.StdoutPipe
	if speaksErr {
		p.cmd.Stderr = nil
		pipe = p.cmd.StderrPipe
	}
	out, err := pipe()
	if err != nil {
		return nil, err
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go p.listen(out)
	return p, nil
}

func (p *process) listen(out io.Reader) {
	defer close(p.done)
	in := bufio.NewScanner(out)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		select {
		case p.lines <- in.Text():
		default:
		}
	}
	p.cmd.Wait() // how it ended does not matter: it was killed, or somebody waits for a line
}

// patience is how long anything may take that is not measured.
const patience = 2 * time.Minute

// await returns the first line that found accepts.
func (p *process) await(ctx context.Context, found func(line string) bool) error {
	late := time.After(patience)
	last := ""
	for {
		select {
		case line := <-p.lines:
			if last = line; found(line) {
				return nil
			}
		case <-p.done:
			return fmt.Errorf("%s ended: %s", p.name, last)
		case <-late:
			return fmt.Errorf("%s does not answer: %s", p.name, last)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// said waits for a line of JSON with this msg, and reads it into v.
func (p *process) said(ctx context.Context, msg string, v any) error {
	return p.await(ctx, func(line string) bool {
		var s struct {
			Msg string `json:"msg"`
		}
		return json.Unmarshal([]byte(line), &s) == nil && s.Msg == msg && (v == nil || json.Unmarshal([]byte(line), v) == nil)
	})
}

// kill ends it, as a crash would, and waits for the end.
func (p *process) kill() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // that it has ended already is no error
	<-p.done
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// agent is a process of this program that obeys: an order in a line of JSON,
// the answer in another.
type agent struct{ *process }

// ask gives an order and waits for the answer.
func (a agent) ask(ctx context.Context, o order) (answer, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return answer{}, err
	}
	if _, err := a.in.Write(append(b, '\n')); err != nil {
		return answer{}, fmt.Errorf("%s: %w", a.name, err)
	}
	var got answer
	err = a.await(ctx, func(line string) bool { return json.Unmarshal([]byte(line), &got) == nil })
	if err == nil && got.Error != "" {
		err = errors.New(got.Error)
	}
	if err != nil {
		return got, fmt.Errorf("%s, %s: %w", a.name, o.Do, err)
	}
	return got, nil
}

// obey answers orders until nobody gives any more.
func obey(do func(order) (answer, error)) error {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return nil // the benchmark has ended
		}
		got, err := do(o)
		if err != nil {
			got.Error = err.Error()
		}
		if err := out.Encode(got); err != nil {
			return err
		}
	}
}
