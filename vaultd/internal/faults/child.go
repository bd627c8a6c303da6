package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/proc"
	"chatvault/vaultd/internal/recordstore/pebblestore"
)

// Child is a node in a process of its own over a Pebble store, so that it can be
// killed. Requests and replies are lines of JSON on its standard input and output.
type Child struct {
	dir  string
	mode string

	mu   sync.Mutex // guards life
	life *life
}

// life is one process of a child, from its start to its end. What comes late from
// one that was killed must not be taken for the word of the next.
type life struct {
	process *proc.Process
	in      *os.File

	mu      sync.Mutex // guards all below
	number  uint64
	waiting map[uint64]chan reply // nil: it answers nobody any more
}

type request struct {
	Number  uint64
	Op      Op
	Timeout time.Duration
}

type reply struct {
	Number uint64
	Op     Op // completed
	Result Result
	Failed string
	Doubt  bool
}

// The environment that makes a test binary a child.
const (
	childDir  = "CHATVAULT_FAULTS_DIR"
	childMode = "CHATVAULT_FAULTS_MODE"
)

// Modes of a child.
const (
	sound    = "sound"
	skipSync = "skip-sync" // a broken store, see unsynced
)

// startLimit is how long a child may take until it serves: it opens a store after
// a crash, on a machine that does other things too.
const startLimit = 30 * time.Second

var errChildGone = errors.New("the node's process is not running")

// MainIfChild serves, if this process was started as a child, and then does not
// return. TestMain calls it.
func MainIfChild() {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	if err := serve(dir, os.Getenv(childMode)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(dir, mode string) error {
	o := pebblestore.Options{Create: true, Log: slog.New(slog.DiscardHandler)}
	if mode == skipSync {
		o.FS = unsynced()
	}
	store, err := pebblestore.Open(dir, o)
	if err != nil {
		return err
	}
	node := &Local{Store: store, Rules: Vault()}
	var mu sync.Mutex // guards out
	out := json.NewEncoder(os.Stdout)
	send := func(r reply) {
		mu.Lock()
		defer mu.Unlock()
		if out.Encode(r) != nil {
			os.Exit(1) // nobody listens
		}
	}
	send(reply{}) // it serves
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	for {
		var r request
		if err := in.Decode(&r); errors.Is(err, io.EOF) {
			return store.Close()
		} else if err != nil {
			return err
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
			defer cancel()
			result, err := node.Do(ctx, &r.Op)
			answer := reply{Number: r.Number, Op: r.Op, Result: result}
			if err != nil {
				answer.Failed, answer.Doubt = err.Error(), errors.Is(err, recordstore.ErrUnknown)
			}
			send(answer)
		}()
	}
}

// NewChild is a node over the store in dir. It is not started.
func NewChild(dir, mode string) *Child { return &Child{dir: dir, mode: mode} }

// Start starts the process and waits until it serves.
func (c *Child) Start() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	childIn, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer childIn.Close()
	out, childOut, err := os.Pipe()
	if err != nil {
		in.Close()
		return err
	}
	// The engines' helper takes standard output and error for its log, so the
	// replies come on a descriptor of their own, which the shell puts there.
	cmd := exec.Command("/bin/sh", "-c", `exec "$0" >&3`, exe)
	cmd.Stdin, cmd.ExtraFiles = childIn, []*os.File{childOut}
	cmd.Env = append(os.Environ(), childDir+"="+c.dir, childMode+"="+c.mode)
	p, err := proc.Start("node", cmd)
	childOut.Close()
	if err != nil {
		in.Close()
		out.Close()
		return err
	}
	ready := make(chan reply, 1)
	l := &life{process: p, in: in, waiting: map[uint64]chan reply{0: ready}}
	c.mu.Lock()
	c.life = l
	c.mu.Unlock()
	go l.read(out)
	select {
	case r := <-ready:
		if r.Failed == "" {
			return nil
		}
	case <-time.After(startLimit):
	}
	return errors.Join(fmt.Errorf("the node did not begin to serve: %s", p.Log()), p.End(syscall.SIGKILL))
}

// read hands replies out until the process ends; whoever still waits then is in
// doubt.
func (l *life) read(out *os.File) {
	defer out.Close()
	defer l.in.Close()
	d := json.NewDecoder(bufio.NewReader(out))
	for {
		var r reply
		err := d.Decode(&r)
		l.mu.Lock()
		if err != nil {
			for _, w := range l.waiting {
				w <- reply{Failed: errChildGone.Error(), Doubt: true}
			}
			l.waiting = nil
			l.mu.Unlock()
			return
		}
		w := l.waiting[r.Number]
		delete(l.waiting, r.Number)
		l.mu.Unlock()
		if w != nil {
			w <- r
		}
	}
}

// Do implements Node. What was sent to a process that ends, or that does not
// answer in time, is in doubt.
func (c *Child) Do(ctx context.Context, op *Op) (Result, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		panic("faults: an operation of a child needs a deadline")
	}
	w, err := c.running().send(*op, deadline)
	if err != nil {
		return Result{}, err
	}
	select {
	case r := <-w:
		switch {
		case r.Doubt:
			return Result{}, fmt.Errorf("%w: %s", recordstore.ErrUnknown, r.Failed)
		case r.Failed != "":
			return Result{}, errors.New(r.Failed)
		}
		*op = r.Op
		return r.Result, nil
	case <-ctx.Done():
		return Result{}, fmt.Errorf("%w: %w", recordstore.ErrUnknown, ctx.Err())
	}
}

// send writes a request, and returns where its answer comes. It does not wait for
// a paused process to read.
func (l *life) send(op Op, deadline time.Time) (chan reply, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == nil {
		return nil, errChildGone
	}
	l.number++
	b, err := json.Marshal(request{Number: l.number, Op: op, Timeout: time.Until(deadline)})
	if err != nil {
		panic(err)
	}
	w := make(chan reply, 1)
	l.waiting[l.number] = w
	l.in.SetWriteDeadline(deadline)
	if _, err := l.in.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("%w: %w", recordstore.ErrUnknown, err)
	}
	return w, nil
}

// Kill kills the process with signal 9.
func (c *Child) Kill() error {
	l := c.running()
	if l == nil {
		return nil // it was never started
	}
	return l.process.End(syscall.SIGKILL)
}

// Pause stops the process with SIGSTOP.
func (c *Child) Pause() error { return c.running().process.Pause() }

// Resume lets a paused process go on.
func (c *Child) Resume() error { return c.running().process.Signal(syscall.SIGCONT) }

func (c *Child) running() *life {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.life
}
