package command

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/client/cmd/chatload/internal/result"
	"chatvault/protocol/cmdline"
)

// order is what the leading process tells the others, one JSON object a line:
// first the run; when all are ready, how long the longest will take; and when all
// are through, that they may let go of what they hold. When it hangs up, they end.
type order struct {
	Run    *runCmd       `json:",omitempty"`
	Part   part          `json:",omitzero"`
	Length time.Duration `json:",omitempty"`
}

// word is what they answer, one JSON object a line: how long they will take,
// how far they are, and their result.
type word struct {
	Ready  time.Duration    `json:",omitempty"`
	Ops    []measure.Glance `json:",omitempty"`
	Held   int64            `json:",omitempty"`
	Over   bool             `json:",omitempty"` // what it holds stands until the next order
	Result *result.Result   `json:",omitempty"`
}

// maxWord bounds a line, in bytes: a result with its histograms.
const maxWord = 64 << 20

// glanceEvery is how often a process says how far it is.
const glanceEvery = 500 * time.Millisecond

// workerCmd is one of the processes of --processes; its orders come on standard
// input.
type workerCmd struct{}

// Run does what it is told.
func (workerCmd) Run(ctx context.Context, app cmdline.App, std cmdline.IO) error {
	orders := json.NewDecoder(std.In)
	var first order
	if err := orders.Decode(&first); err != nil || first.Run == nil {
		return errors.New("this is for chatload run --processes")
	}
	c := *first.Run
	c.part, c.Quiet = first.Part, true
	cfg, err := c.config(std)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	prepared, err := prepare(ctx, c.Scenario, cfg)
	if err != nil {
		return err
	}
	answers := json.NewEncoder(std.Out)
	if err := answers.Encode(word{Ready: prepared.Length()}); err != nil {
		return err
	}
	var start order
	if err := orders.Decode(&start); err != nil {
		return errors.New("the leading process has ended")
	}
	released := make(chan struct{})
	go func() {
		defer close(released)
		if orders.Decode(&order{}) != nil {
			stop() // the leading process ended, or was interrupted
		}
	}()
	// Not all at the same moment: together the arrivals are as even as one's.
	time.Sleep(time.Duration(float64(time.Second) / c.Rate * float64(c.part.Index)))
	run := measure.New(time.Now(), start.Length)
	telling := tell(answers, run)
	r, err := runPrepared(ctx, c.Scenario, cfg, prepared, run, app, func() {
		telling()
		_ = answers.Encode(word{Over: true}) // nobody listens: nobody waits
		<-released
	})
	if err != nil {
		return err
	}
	return answers.Encode(word{Result: r})
}

// tell says again and again how far a run is.
func tell(answers *json.Encoder, run *measure.Run) (stop func()) {
	done := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() {
		tick := time.NewTicker(glanceEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				ops, held := run.Glances()
				_ = answers.Encode(word{Ops: ops, Held: held}) // nobody listens: the run ends by itself
			}
		}
	})
	return func() {
		close(done)
		telling.Wait()
	}
}

// worker is one of the processes, seen from the leading one.
type worker struct {
	cmd     *exec.Cmd
	orders  *json.Encoder
	in      io.Closer
	answers *bufio.Scanner

	mu   sync.Mutex
	last word
}

// lead runs the scenario in several processes and merges what they measured.
func (c runCmd) lead(ctx context.Context, _ cmdline.App, std cmdline.IO, seen func()) (*result.Result, error) {
	if c.Subjects == "" {
		c.Subjects = freshSubjects(c.issuerFlags)
	}
	all := make([]*worker, c.Processes)
	defer func() {
		for _, w := range all {
			if w != nil {
				w.in.Close()
				_ = w.cmd.Wait() // its error has been told, or it was interrupted
			}
		}
	}()
	var preparing errgroup.Group
	complaints := &oneAtATime{to: std.Err}
	for i := range all {
		w, err := startWorker(c, part{i, c.Processes}, complaints)
		if err != nil {
			return nil, err
		}
		all[i] = w
	}
	longest := make([]time.Duration, len(all))
	for i, w := range all {
		preparing.Go(func() error {
			first, err := w.next()
			longest[i] = first.Ready
			return err
		})
	}
	hangUp := func() {
		for _, w := range all {
			w.in.Close()
		}
	}
	defer context.AfterFunc(ctx, hangUp)()
	if err := preparing.Wait(); err != nil {
		return nil, fmt.Errorf("preparing in %d processes: %w", c.Processes, err)
	}
	length := slices.Max(longest)
	defer watch(std.Err, func() ([]measure.Glance, int64) { return together(all) }, length, c.Quiet)()
	_, err := askAll(all, order{Length: length}, func(got word) bool { return got.Over })
	seen()
	if err != nil {
		return nil, err
	}
	results, err := askAll(all, order{}, func(got word) bool { return got.Result != nil })
	if err != nil {
		return nil, err
	}
	var parts []*result.Result
	for _, w := range results {
		parts = append(parts, w.Result)
	}
	return result.Merge(parts...)
}

// askAll gives all processes an order and waits for the answer of each. One that
// was hung up on answers without having heard.
func askAll(all []*worker, o order, answer func(word) bool) ([]word, error) {
	out := make([]word, len(all))
	var asking errgroup.Group
	for i, w := range all {
		asking.Go(func() (err error) {
			_ = w.orders.Encode(o)
			out[i], err = w.until(answer)
			return err
		})
	}
	return out, asking.Wait()
}

// oneAtATime is a writer for several processes.
type oneAtATime struct {
	mu sync.Mutex
	to io.Writer
}

// Write implements io.Writer.
func (o *oneAtATime) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.to.Write(b)
}

// freshSubjects is a prefix for the accounts of all processes.
func freshSubjects(f issuerFlags) string {
	if f.IssuerKey == "" {
		return ""
	}
	return phones.RandomPrefix()
}

func startWorker(c runCmd, p part, to io.Writer) (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &worker{cmd: exec.Command(self, "worker")}
	w.cmd.Stderr = to
	in, err := w.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	w.in, w.orders, w.answers = in, json.NewEncoder(in), bufio.NewScanner(out)
	w.answers.Buffer(nil, maxWord)
	// A process that has ended says no more: next tells.
	_ = w.orders.Encode(order{Run: &c, Part: p})
	return w, nil
}

// next is the next thing that a process says.
func (w *worker) next() (word, error) {
	var got word
	if !w.answers.Scan() {
		return got, cmp.Or(w.answers.Err(), errors.New("a process has ended early"))
	}
	if err := json.Unmarshal(w.answers.Bytes(), &got); err != nil {
		return got, fmt.Errorf("a process says what it should not: %w", err)
	}
	return got, nil
}

// until notes how far the process is until it says what is waited for.
func (w *worker) until(answer func(word) bool) (word, error) {
	for {
		got, err := w.next()
		if err != nil || answer(got) {
			return got, err
		}
		w.mu.Lock()
		w.last = got
		w.mu.Unlock()
	}
}

// together adds up how far all are; a quantile is the worst one's.
func together(all []*worker) (ops []measure.Glance, held int64) {
	for _, w := range all {
		w.mu.Lock()
		last := w.last
		w.mu.Unlock()
		held += last.Held
		for _, op := range last.Ops {
			i := slices.IndexFunc(ops, func(o measure.Glance) bool { return o.Name == op.Name })
			if i < 0 {
				ops = append(ops, op)
				continue
			}
			o := &ops[i]
			o.Offered, o.Missed, o.Done, o.Failed, o.Flying = o.Offered+op.Offered, o.Missed+op.Missed, o.Done+op.Done, o.Failed+op.Failed, o.Flying+op.Flying
			o.P50, o.P99 = max(o.P50, op.P50), max(o.P99, op.P99)
		}
	}
	return ops, held
}
