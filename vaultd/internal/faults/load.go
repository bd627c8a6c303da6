package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/recordstore"
)

// Load is what clients do to nodes.
type Load struct {
	Seed    uint64
	Nodes   []Node
	Clock   *Clock
	Clients int
	// Accounts is how many are in use at a time. Each is given up after
	// AccountOps operations or a few that are in doubt, and a fresh one takes its
	// place: short histories are checked soon.
	Accounts, AccountOps int
	// Ops ends a client's part; 0: the context does.
	Ops int
	// Timeout bounds each operation.
	Timeout time.Duration
}

// leapEvery is after how many operations, more or less, the clock jumps.
const leapEvery = 120

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
		r.targets[i] = newTarget()
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
		if rng.IntN(leapEvery) == 0 {
			r.Clock.Jump(leaps[rng.IntN(len(leaps))])
		}
		t := r.pick(rng)
		node := rng.IntN(len(r.Nodes))
		op := t.next(rng, &r.number)
		result, err := r.whole(ctx, c, node, t, op)
		switch {
		case errors.Is(err, errNothing), errors.Is(err, recordstore.ErrUnknown):
		case err != nil:
			// Nothing answers: a client waits a little before it asks elsewhere.
			wait(ctx, 10*time.Millisecond)
		case op.Kind == RegisterStart && result.Status == frame.OK:
			r.finish(ctx, c, node, t, op, rng)
		}
		t.release()
	}
}

// whole does an operation; where it needs a session that there is not, one is
// opened, and the operation is tried once more.
func (r *run) whole(ctx context.Context, c, node int, t *target, op *Op) (Result, error) {
	result, err := r.do(ctx, c, node, op)
	if errors.Is(err, errNoSession) {
		opening := &Op{Kind: Status, Account: op.Account, Device: op.Device}
		if result, err = r.do(ctx, c, node, opening); err != nil {
			return result, err
		}
		t.learn(opening, result)
		result, err = r.do(ctx, c, node, op)
	}
	switch {
	case err == nil:
		t.learn(op, result)
	case errors.Is(err, recordstore.ErrUnknown):
		t.doubt()
	}
	return result, err
}

// finish stores a registration that was started. Now and then it does so twice, as
// after a lost receipt.
func (r *run) finish(ctx context.Context, c, node int, t *target, start *Op, rng *rand.Rand) {
	for range 1 + rng.IntN(2) {
		op := *start
		op.Kind = RegisterFinish
		r.whole(ctx, c, node, t, &op)
	}
}

// do does one operation and notes it. An error that is not ErrUnknown is no part
// of the history: nothing was done.
func (r *run) do(ctx context.Context, client, node int, op *Op) (Result, error) {
	// The end of the run must not put operations in doubt.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Timeout)
	defer cancel()
	now, release := r.Clock.hold()
	defer release()
	op.Now = now
	call := r.history.now()
	result, err := r.Nodes[node].Do(ctx, op)
	switch {
	case err == nil:
		r.history.add(client, *op, call, &result)
	case errors.Is(err, recordstore.ErrUnknown):
		r.history.add(client, *op, call, nil)
	case !errors.Is(err, errNothing):
		r.history.refuse()
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
			_, err := r.do(ctx, r.Clients, (i+n)%len(r.Nodes), &Op{Kind: Status, Account: id, Device: 1})
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
	for range r.targets {
		if r.targets[i].spent(r.AccountOps) {
			r.targets[i] = newTarget()
		}
		if r.targets[i].take() {
			return r.targets[i]
		}
		i = (i + 1) % len(r.targets)
	}
	r.targets[i] = newTarget()
	r.targets[i].take()
	return r.targets[i]
}

// Alive waits until every node does an operation, and fails if one does not
// within the limit: a store that is safe because it answers nobody is no store.
func Alive(ctx context.Context, limit time.Duration, l Load) error {
	deadline := time.Now().Add(limit)
	for i, node := range l.Nodes {
		for {
			attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
			now, release := l.Clock.hold()
			op := &Op{Kind: Status, Account: first.Add(1), Device: 1, Now: now}
			_, err := node.Do(attempt, op)
			if err == nil { // a read; and a swap, over nothing
				op.Kind, op.Purpose, op.Generation, op.Registration = RegisterStart, vaultmsg.PurposeRegister, 1, 1
				_, err = node.Do(attempt, op)
			}
			if err == nil {
				op.Kind = RegisterFinish
				_, err = node.Do(attempt, op)
			}
			release()
			cancel()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("node %d does nothing %s after the last fault: %w", i, limit, err)
			}
			wait(ctx, 10*time.Millisecond)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}
