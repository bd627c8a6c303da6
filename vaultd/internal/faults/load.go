package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"chatvault/protocol/frame"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
)

// Load is what clients do to nodes.
type Load struct {
	Seed    uint64
	Nodes   []Node
	Clients int
	// Accounts is how many are in use at a time. Each is given up after
	// AccountOps operations, and a fresh one takes its place: short histories are
	// checked soon.
	Accounts, AccountOps int
	// Ops ends a client's part; 0: the context does.
	Ops int
	// Timeout bounds each operation.
	Timeout time.Duration
}

// target is an account as the clients know it together: any of them may repeat
// or finish an attempt that another began, on any node.
type target struct {
	id uint64

	mu       sync.Mutex // guards all below
	ops      int
	seen     Result // the last answer that came
	attempts []Op   // charges that were sent; Charge is set when it was answered
}

// run is one Run of a Load.
type run struct {
	Load
	history *History
	number  atomic.Uint64 // the last number given to anything

	mu      sync.Mutex // guards targets
	targets []*target
}

// first keeps the accounts of runs that share a store apart.
var first atomic.Uint64

// Run has the clients work until the context ends or Ops are done.
func (l Load) Run(ctx context.Context, h *History) {
	r := &run{Load: l, history: h, targets: make([]*target, l.Accounts)}
	for i := range r.targets {
		r.targets[i] = &target{id: first.Add(1)}
	}
	var clients sync.WaitGroup
	for c := range l.Clients {
		clients.Go(func() { r.client(ctx, c) })
	}
	clients.Wait()
	r.look(ctx)
}

func (r *run) client(ctx context.Context, c int) {
	rng := rand.New(rand.NewPCG(r.Seed, uint64(c)))
	for n := 0; (r.Ops == 0 || n < r.Ops) && ctx.Err() == nil; n++ {
		t := r.pick(rng)
		op := r.next(rng, t)
		node := rng.IntN(len(r.Nodes))
		if result, err := r.do(ctx, c, node, op); err == nil {
			t.learn(op, result)
		} else if !errors.Is(err, recordstore.ErrUnknown) {
			// Nothing answers: a client waits a little before it asks elsewhere.
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

// do does one operation and notes it. An error that is not ErrUnknown is no part
// of the history: nothing was done.
func (r *run) do(ctx context.Context, client, node int, op Op) (Result, error) {
	// The end of the run must not put operations in doubt.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Timeout)
	defer cancel()
	call := r.history.now()
	result, err := r.Nodes[node].Do(ctx, op)
	switch {
	case err == nil:
		r.history.add(client, op, call, &result)
	case errors.Is(err, recordstore.ErrUnknown):
		r.history.add(client, op, call, nil)
	}
	return result, err
}

// look asks for every account that there ever was once more, at any node that
// answers: whatever was acknowledged and then lost is seen by that. Where nobody
// answers there is nothing to see.
func (r *run) look(ctx context.Context) {
	for i, id := range r.history.ids() {
		answered := false
		for n := 0; n < len(r.Nodes) && !answered; n++ {
			_, err := r.do(ctx, r.Clients, (i+n)%len(r.Nodes), Op{Kind: Status, Account: id, Device: 1})
			answered = err == nil
		}
		if !answered {
			return
		}
	}
}

// pick takes an account, and puts a fresh one in its place when it was used
// enough.
func (r *run) pick(rng *rand.Rand) *target {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := rng.IntN(len(r.targets))
	t := r.targets[i]
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ops++; t.ops == r.AccountOps {
		r.targets[i] = &target{id: first.Add(1)}
	}
	return t
}

// next decides what to do to an account.
func (r *run) next(rng *rand.Rand, t *target) Op {
	t.mu.Lock()
	defer t.mu.Unlock()
	op := Op{Account: t.id, Device: 1, Generation: t.seen.Generation}
	if rng.IntN(5) == 0 {
		op.Device = 2
	}
	dice := rng.IntN(100)
	dead := t.seen.State != record.Live
	if dead && dice >= 70 {
		op.Kind, op.Generation, op.Registration = Register, t.seen.Generation+1, r.number.Add(1)
		return op
	}
	usedUp := t.seen.Charges-t.seen.Base == record.MaxEntries
	switch {
	case (usedUp || dead && dice >= 40) && len(t.attempts) > 0 && dice >= 15:
		return t.another(rng, dice)
	case dice < 8:
		op.Kind = Status
	case dice < 10:
		op.Kind = Delete
	case dice < 15:
		op.Kind, op.Generation, op.Registration = Replace, t.seen.Generation+1, r.number.Add(1)
	case dice < 50 || len(t.attempts) == 0:
		op.Kind, op.Attempt = Charge, r.number.Add(1)
		t.attempts = append(t.attempts, op)
	default:
		return t.another(rng, dice)
	}
	return op
}

// another does something about one of the attempts that were begun last. Half of
// the accounts never see the right password, and come to their end.
func (t *target) another(rng *rand.Rand, dice int) Op {
	recent := min(len(t.attempts), record.MaxEntries)
	old := t.attempts[len(t.attempts)-1-rng.IntN(recent)]
	op := Op{Kind: Charge, Account: t.id, Device: old.Device, Attempt: old.Attempt, Charge: old.Charge, Generation: old.Generation}
	switch {
	case old.Charge == 0 || dice >= 50 && dice < 65: // no answer yet: nobody can have its verdict
		op.Charge = 0
	case t.id%2 == 0 && dice < 80, t.seen.State != record.Live:
		op.Kind = Restore
	default:
		op.Kind, op.Charge = Fail, 0
	}
	return op
}

// learn takes an answer in.
func (t *target) learn(op Op, result Result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = result
	i := slices.IndexFunc(t.attempts, func(a Op) bool { return a.Attempt == op.Attempt })
	switch {
	case op.Kind != Charge || i < 0:
	case result.Status == frame.OK:
		t.attempts[i].Charge, t.attempts[i].Generation = result.Charge, result.Generation
	default: // it was never begun
		t.attempts = slices.Delete(t.attempts, i, i+1)
	}
}

// Alive waits until every node does an operation, and fails if one does not
// within the limit: a store that is safe because it answers nobody is no store.
func Alive(ctx context.Context, limit time.Duration, nodes ...Node) error {
	deadline := time.Now().Add(limit)
	for i, node := range nodes {
		for {
			attempt, cancel := context.WithTimeout(ctx, time.Second)
			_, err := node.Do(attempt, Op{Kind: Register, Account: first.Add(1), Device: 1, Generation: 1, Registration: 1})
			cancel()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("node %d does nothing %s after the last fault: %w", i, limit, err)
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}
