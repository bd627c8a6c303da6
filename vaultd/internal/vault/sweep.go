package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/rules"
)

const (
	// sweepShards is into how many shards the records are divided, by the first
	// byte of their ids, which are keyed hashes: evenly.
	sweepShards = 256
	// sweepPage is how many ids a sweep asks the store for.
	sweepPage = 1000

	// SweepsPerPeriod is how often a node should call SweepDue in a period, for
	// the period to be kept whichever nodes die: see there.
	SweepsPerPeriod = 16
	sweepDue        = 2 // a shard is due after a half of the period,
	sweepLease      = 8 // and a node that is at it has an eighth
)

// Sweep settles every record once: what is used up and has no open attempt left
// becomes a tombstone, without anybody touching it. It returns how many did. The
// error names one record of those that failed, and how many there were.
func (v *Vault) Sweep(ctx context.Context) (destroyed int, err error) {
	return v.sweep(func(shard byte, t *tally) { v.sweepShard(ctx, shard, t) })
}

// SweepDue is this node's part of the fleet's sweep: of the shards of the records,
// it sweeps those that nobody has swept for half a period and that no other node is
// at. When each node calls it SweepsPerPeriod times in a period, every shard is
// swept at least once in a period, as long as one node lives and sweeps what is due
// within a quarter of the period. A node that dies at a shard holds it up by an eighth.
//
// A sealed record in each shard that has any says when it was swept and who is at it. Nodes
// whose clocks differ, or a time to come that a wrong clock has left there, make a
// shard be swept too often, never too seldom.
func (v *Vault) SweepDue(ctx context.Context, period time.Duration) (destroyed int, err error) {
	return v.sweep(func(shard byte, t *tally) { v.sweepIfDue(ctx, shard, period, t) })
}

// sweep calls one for each shard, some at a time. Each node begins somewhere else.
func (v *Vault) sweep(one func(shard byte, t *tally)) (destroyed int, err error) {
	var t tally
	var next atomic.Int64
	from := rand.IntN(sweepShards)
	var wg sync.WaitGroup
	for range v.cfg.Sweepers {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < sweepShards; n = next.Add(1) - 1 {
				one(byte(from+int(n)), &t)
			}
		})
	}
	wg.Wait()
	if t.first != nil {
		// Not all of them: while the HSM is down every record of millions fails.
		err = fmt.Errorf("%d %s, the first of them %w", t.failed, t.what, t.first)
	}
	return t.destroyed, err
}

// tally is what a sweep has come to.
type tally struct {
	mu        sync.Mutex // guards all below
	destroyed int
	failed    int
	what      string // failed
	first     error
}

func (t *tally) fail(what string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed++; t.first == nil {
		t.what, t.first = what, err
	}
}

func (t *tally) destroy() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.destroyed++
}

// sweepIfDue sweeps a shard, if it is due and this node is the one to say so.
func (v *Vault) sweepIfDue(ctx context.Context, shard byte, period time.Duration, t *tally) {
	if ctx.Err() != nil || v.dueAt.before(shard, v.cfg.Now(), period) {
		return
	}
	fail := func(err error) { t.fail("shards", fmt.Errorf("shard %d: %w", shard, err)) }
	if empty, err := v.shardEmpty(ctx, shard); err != nil {
		fail(err)
		return
	} else if empty {
		v.dueAt.set(shard, v.cfg.Now().Add(period/sweepDue))
		return
	}
	id, err := v.records.id(ctx, "chatvault/1 sweep", []byte{shard})
	if err != nil {
		fail(err)
		return
	}
	id[0] = shard // where it makes no empty shard one that has records
	r, version, err := v.records.load(ctx, id)
	if err == nil && r != nil && r.State != record.Swept {
		err = fmt.Errorf("%w: a record of state %d stands there", errCorrupt, r.State)
	}
	if errors.Is(err, errCorrupt) || errors.Is(err, record.ErrMalformed) {
		// It must not keep the keys of its shard alive: each node sweeps for itself.
		fail(err)
		v.sweepShard(ctx, shard, t)
		v.dueAt.set(shard, v.cfg.Now().Add(period/sweepDue))
		return
	}
	if err != nil {
		fail(err)
		return
	}
	if r == nil {
		r = &record.Record{State: record.Swept}
	}
	began := v.cfg.Now()
	if at := shardDue(r, began, period); began.Before(at) {
		v.dueAt.set(shard, at)
		return
	}
	r.NotBefore = uint64(began.Add(max(period/sweepLease, time.Second)).Unix())
	if err := v.records.swap(ctx, id, version, r); errors.Is(err, recordstore.ErrConflict) {
		return // another node is at it
	} else if err != nil {
		fail(err)
		return
	}
	if !v.sweepShard(ctx, shard, t) {
		return // somebody comes again when the lease is over
	}
	r.RegisteredAt, r.NotBefore = uint64(began.Unix()), 0
	// A conflict: we took longer than our lease, and another node is at it too.
	if err := v.records.swap(ctx, id, version+1, r); err != nil && !errors.Is(err, recordstore.ErrConflict) {
		fail(err)
	}
}

// shardDue says when a shard is to be swept: now, or a time to come. What lies further
// in the future than this node would put it is not believed.
func shardDue(r *record.Record, now time.Time, period time.Duration) time.Time {
	due := now
	if swept := time.Unix(int64(r.RegisteredAt), 0); !swept.After(now) && swept.Add(period/sweepDue).After(due) {
		due = swept.Add(period / sweepDue)
	}
	if until := time.Unix(int64(r.NotBefore), 0); until.After(due) && !until.After(now.Add(max(period/sweepLease, time.Second))) {
		due = until
	}
	return due
}

// dueTimes is when shards are due as far as this node has seen: it need not look
// before, since others can only put that off.
type dueTimes struct {
	mu sync.Mutex // guards at
	at [sweepShards]time.Time
}

// before says whether a shard is not due yet. No time is believed that is further
// off than a period: this node's clock was set back.
func (d *dueTimes) before(shard byte, now time.Time, period time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return now.Before(d.at[shard]) && !d.at[shard].After(now.Add(period))
}

func (d *dueTimes) set(shard byte, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at[shard] = at
}

// beforeShard is the id after which a shard begins.
func beforeShard(shard byte) (id recordstore.ID) {
	if shard > 0 {
		copy(id[:], bytes.Repeat([]byte{0xff}, len(id)))
		id[0] = shard - 1
	}
	return id
}

// shardEmpty says whether a shard has no records. A store of few accounts is not
// to be filled with the times at which nothing was swept.
func (v *Vault) shardEmpty(ctx context.Context, shard byte) (bool, error) {
	ids, err := v.cfg.Store.Scan(ctx, beforeShard(shard), 1)
	if err != nil {
		return false, fmt.Errorf("scan: %w", err)
	}
	return len(ids) == 0 || ids[0][0] != shard, nil
}

// sweepShard settles the records of a shard, and says whether it could.
func (v *Vault) sweepShard(ctx context.Context, shard byte, t *tally) (all bool) {
	after := beforeShard(shard)
	all = true
	for {
		ids, err := v.cfg.Store.Scan(ctx, after, sweepPage)
		if err != nil {
			t.fail("shards", fmt.Errorf("shard %d: scan: %w", shard, err))
			return false
		}
		for _, id := range ids {
			if id[0] != shard {
				return all
			}
			// One record that does not open must not keep the others alive.
			changed, err := v.settle(ctx, id)
			if err != nil {
				t.fail("records", fmt.Errorf("record %s: %w", id, err))
				all = false
			}
			if changed {
				t.destroy()
			}
		}
		if len(ids) == 0 {
			return all
		}
		after = ids[len(ids)-1]
	}
}

// settle tries once: a collision means that somebody else touches the record,
// and settles it. It begins with a read that may be stale, since it answers nobody:
// what was locked is swapped on, and what was alive a moment ago is not due yet, or
// will be at the next sweep.
func (v *Vault) settle(ctx context.Context, id recordstore.ID) (changed bool, err error) {
	r, version, err := v.records.loadStale(ctx, id)
	if errors.Is(err, errCorrupt) {
		r, version, err = v.records.load(ctx, id)
	}
	before := stateOf(r)
	if err != nil || r == nil || !rules.Settle(r, v.cfg.Now(), v.params()) {
		return false, err
	}
	err = v.records.swap(ctx, id, version, r)
	v.stored(err, before, r)
	if errors.Is(err, recordstore.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}
