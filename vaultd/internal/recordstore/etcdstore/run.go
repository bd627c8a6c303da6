package etcdstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pause stands between two rounds through the members, and between two probes of
// one that failed.
const (
	pause      = 20 * time.Millisecond
	probePause = 500 * time.Millisecond
)

// run runs one transaction within the store's timeout, at the members in the order
// of trust. It goes on to the next while no member can have begun it, or, when it
// only reads, after any failure. maybe = it was sent, and what became of it is
// not known.
func (s *Store) run(ctx context.Context, t txn) (resp *clientv3.TxnResponse, maybe bool, err error) {
	began := time.Now()
	deadline := began.Add(s.timeout)
	for {
		for _, m := range s.byTrust() {
			// A swap that was refused so far stays so, rather than be sent when
			// there is hardly time for an answer.
			if t.writes && err != nil && time.Since(began) > 2*s.timeout/3 {
				return nil, false, err
			}
			var sent bool
			resp, sent, err = m.try(ctx, deadline, t)
			if err == nil {
				return resp, false, nil
			}
			maybe := t.writes && sent && !refused(err)
			over := maybe || hopeless(err) || ctx.Err() != nil || !time.Now().Before(deadline)
			if ctx.Err() == nil && faulty(err) {
				s.distrust(m)
			}
			if over {
				return nil, maybe, err
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, false, err
		}
	}
}

// read runs a transaction that only reads.
func (s *Store) read(ctx context.Context, what string, t txn) (*clientv3.TxnResponse, error) {
	resp, _, err := s.run(ctx, t)
	if err != nil {
		return nil, s.explain(ctx, what, err)
	}
	return resp, nil
}

// explain makes an error for callers of one that is certain.
func (s *Store) explain(ctx context.Context, what string, err error) error {
	switch {
	case hopeless(err):
		return fmt.Errorf("%s: %w", what, err)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	// Not %w: the timeout that ended is ours, not the caller's.
	return fmt.Errorf("%s: %w: %v", what, ErrUnavailable, err)
}

// byTrust is the members that work, nearest first, then the others.
func (s *Store) byTrust() []*member {
	if !slices.ContainsFunc(s.members, func(m *member) bool { return m.suspect.Load() }) {
		return s.members
	}
	order := slices.Clone(s.members)
	slices.SortStableFunc(order, func(a, b *member) int {
		return btoi(a.suspect.Load()) - btoi(b.suspect.Load())
	})
	return order
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// faulty says whether a failure tells against the member: not if any other would
// have answered the same.
func faulty(err error) bool {
	return !hopeless(err) && !isAny(err, []error{
		rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision, rpctypes.ErrUserEmpty, rpctypes.ErrNoSpace,
	})
}

// distrust puts a member behind the others until it answers a read again, one that
// needs a majority.
func (s *Store) distrust(m *member) {
	if len(s.members) == 1 || !m.suspect.CompareAndSwap(false, true) {
		return
	}
	s.background.Go(func() {
		t := txn{then: []clientv3.Op{clientv3.OpGet(s.keys.meta, clientv3.WithKeysOnly())}}
		for {
			select {
			case <-time.After(probePause):
			case <-s.ctx.Done():
				return
			}
			if _, _, err := m.try(s.ctx, time.Now().Add(s.timeout), t); err == nil {
				m.suspect.Store(false)
				return
			}
		}
	})
}
