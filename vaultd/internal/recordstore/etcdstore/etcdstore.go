// Package etcdstore is the record store for many machines: any number of vaultd on
// one etcd v3 cluster of 3 or 5 members. It keeps recordstore's contract as long as
// a majority of the members lives and keeps its disks.
//
// Keys and values, under a prefix (integers are big-endian):
//
//	PREFIX "/store"              → format name ‖ store id 16
//	PREFIX "/r/" ‖ record id 16  → version u64 ‖ data
//
// # How the contract is kept
//
// A record's version is etcd's own count of puts of its key: 1 for the first, one
// more with each put, 0 where there is none; it starts anew only when a key is
// deleted, and no record ever is. So Swap is one transaction: if the key's version
// is the expected one, put. Comparing ModRevision would do as well, but the caller
// knows versions only, so each swap would have to read first. The version stands in
// the value too, and Load compares the two.
//
// Load is a linearizable read (a ReadIndex by a majority), and etcd shows what a
// majority has on its disks, no earlier. No transaction here has an empty Then: etcd takes one
// that only compares for "serializable", and any member, however stale, answers it.
// LoadStale is the one read that asks for just that.
//
// Every transaction also compares the store's description. A cluster that was
// emptied under a running vaultd, or another one behind the same address, would
// else answer "no record", and let everybody be registered anew.
//
// Position is the cluster's revision: one more with each transaction that puts.
//
// # Attempts
//
// A swap is sent once. It goes on to another member only when it surely was not
// begun: not sent (gRPC's own event of the request's header tells), or refused by a
// check that stands before it is applied. clientv3 itself would repeat a
// transaction when a member answers that the request was cancelled or late; the repetition then
// meets the version that the first one made, and a swap that was done would be
// reported as a conflict. So its retries are off. What was sent and not answered is ErrUnknown.
// Reads are repeated, at other members, within the time that a call has.
//
// # For operators
//
//   - Name the nearest member first: calls go to the first one that works.
//   - etcd keeps every version of a record until it is compacted: set
//     --auto-compaction-mode=periodic and --auto-compaction-retention=1h, and
//     defragment. Destroyed records are still in its history until then, and in
//     its snapshots for longer.
//   - Plan one cluster for 5 million accounts at most. From 80 % of the
//     quota on vaultd warns; see Options.OnUsage.
//   - Restoring members from a snapshot puts counters back. Position falls (unless
//     etcdutl is told to bump revisions), and whoever noted a later one can tell.
//   - Never delete or put keys under the prefix by hand.
package etcdstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/remote"
)

// Options of Open.
type Options struct {
	// Spec says which members, nearest first, and which prefix. The first member
	// that works gets all calls; a nearer one that works again gets them back.
	Spec

	// Create makes the store under the prefix when there is none. Without it that
	// is ErrNoStore.
	Create bool

	// TLS to the members. Without a CA only members on this machine are accepted,
	// unless TLS.Plaintext is set.
	TLS remote.TLS

	// User and PasswordFile (see cmdline.ReadSecretFile) log in; both or neither.
	// With a client certificate etcd can take the user from its common name.
	User, PasswordFile string

	// Timeout bounds every call. 0: 5 s. A read spends at most a third of it at
	// one member before it asks another.
	Timeout time.Duration

	// OnUsage is told how full the members are, every UsageInterval (0: 1 minute);
	// for a gauge. It must return soon. A warning is logged from 80 % on, whether
	// it is set or not.
	OnUsage       func(Usage)
	UsageInterval time.Duration

	// Log gets warnings. Nil: slog.Default().
	Log *slog.Logger
}

const defaultTimeout = 5 * time.Second

// Store implements recordstore.Store.
type Store struct {
	// static after construction
	id      recordstore.StoreID
	keys    keys
	guard   clientv3.Cmp // the store's description is still there
	members []*member    // nearest first
	timeout time.Duration
	log     *slog.Logger
	usage   usageWatch

	full atomic.Bool // the cluster has said that its quota is used up

	ctx        context.Context // ends with Close; for what runs in the background
	cancel     context.CancelFunc
	background sync.WaitGroup

	closing sync.RWMutex // held for reading during every call
	closed  bool         // guarded by closing
}

var _ recordstore.Store = (*Store)(nil)

// Open finds the store in the cluster, or makes it. It needs a majority of the
// members, but not each of them. ctx bounds Open only.
func Open(ctx context.Context, o Options) (*Store, error) {
	if (o.User == "") != (o.PasswordFile == "") {
		return nil, errors.New("etcd: a user needs a password file, and the file a user")
	}
	if err := o.TLS.Check(o.Endpoints); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	s := &Store{keys: makeKeys(o.Prefix), timeout: o.Timeout, log: o.Log}
	if s.timeout <= 0 {
		s.timeout = defaultTimeout
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, e := range o.Endpoints {
		s.members = append(s.members, newMember(s.ctx, e, o, s.timeout))
	}
	if err := s.describe(ctx, o.Create); err != nil {
		return nil, errors.Join(fmt.Errorf("opening etcd store %s: %w", o.Spec, err), s.Close())
	}
	s.usage.init(o)
	s.background.Go(s.watchUsage)
	return s, nil
}

// describe learns the store's id, or makes the store. An attempt to make it may
// end in doubt, and so what counts is what is read afterwards.
func (s *Store) describe(ctx context.Context, create bool) error {
	const attempts = 3
	var failed error
	for n := 0; ; n++ {
		resp, err := s.read(ctx, "looking for its description", txn{then: []clientv3.Op{
			clientv3.OpGet(s.keys.meta),
			clientv3.OpGet(s.keys.records, clientv3.WithRange(s.keys.recordsEnd), clientv3.WithKeysOnly(), clientv3.WithLimit(1)),
		}})
		if err != nil {
			return err
		}
		meta, records := resp.Responses[0].GetResponseRange(), resp.Responses[1].GetResponseRange()
		switch {
		case len(meta.Kvs) > 0:
			if s.id, err = parseMeta(meta.Kvs[0].Value); err != nil {
				return err
			}
			s.guard = clientv3.Compare(clientv3.Value(s.keys.meta), "=", metaValue(s.id))
			return nil
		case len(records.Kvs) > 0:
			return fmt.Errorf("%w: records without a description", ErrFormat)
		case !create:
			return ErrNoStore
		case n == attempts:
			return fmt.Errorf("making it: %w", failed)
		}
		failed = s.create(ctx)
	}
}

// create puts a description if there is none.
func (s *Store) create(ctx context.Context) error {
	var id recordstore.StoreID
	rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	_, _, err := s.run(ctx, txn{
		writes: true,
		cmps: []clientv3.Cmp{
			clientv3.Compare(clientv3.CreateRevision(s.keys.meta), "=", 0),
			clientv3.Compare(clientv3.CreateRevision(s.keys.records), "=", 0).WithRange(s.keys.recordsEnd),
		},
		then:  []clientv3.Op{clientv3.OpPut(s.keys.meta, metaValue(id))},
		other: []clientv3.Op{clientv3.OpGet(s.keys.meta)},
	})
	return err
}

// enter begins a call; a nil error must be followed by leave.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.closing.RLock()
	if s.closed {
		s.closing.RUnlock()
		return recordstore.ErrClosed
	}
	return nil
}

func (s *Store) leave() { s.closing.RUnlock() }

// guarded reads, if the cluster still holds this store.
func (s *Store) guarded(ctx context.Context, what string, op clientv3.Op) (*clientv3.TxnResponse, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	resp, err := s.read(ctx, what, txn{cmps: []clientv3.Cmp{s.guard}, then: []clientv3.Op{op}})
	if err != nil {
		return nil, err
	}
	if !resp.Succeeded {
		return nil, fmt.Errorf("%s: %w", what, ErrOtherStore)
	}
	return resp, nil
}

// Load implements recordstore.Store.
func (s *Store) Load(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	resp, err := s.guarded(ctx, "loading record", clientv3.OpGet(s.keys.record(id)))
	if err != nil {
		return nil, 0, err
	}
	return found(resp)
}

// found is the record that the first operation of a transaction has read.
func found(resp *clientv3.TxnResponse) ([]byte, recordstore.Version, error) {
	kvs := resp.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return nil, 0, nil
	}
	return parseRecord(kvs[0])
}

// LoadStale implements recordstore.Store: what the nearest member has. It does not
// look for the store's description: the swap that follows does.
func (s *Store) LoadStale(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	resp, err := s.read(ctx, "loading record", txn{then: []clientv3.Op{clientv3.OpGet(s.keys.record(id), clientv3.WithSerializable())}})
	if err != nil {
		return nil, 0, err
	}
	return found(resp)
}

// Swap implements recordstore.Store.
func (s *Store) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	recordstore.CheckSwap(id, data)
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	if s.full.Load() {
		return 0, ErrNoSpace
	}
	if expect > maxVersion {
		return 0, recordstore.ErrConflict // no key was ever put so often
	}
	key := s.keys.record(id)
	resp, maybe, err := s.run(ctx, txn{
		writes: true,
		cmps:   []clientv3.Cmp{s.guard, clientv3.Compare(clientv3.Version(key), "=", int64(expect))},
		then:   []clientv3.Op{clientv3.OpPut(key, string(appendRecord(nil, expect+1, data)))},
		other:  []clientv3.Op{clientv3.OpGet(s.keys.meta), clientv3.OpGet(key, clientv3.WithKeysOnly())},
	})
	switch {
	case maybe:
		s.usage.askNow(err)
		// Not %w: a context's error means that nothing was stored.
		return 0, fmt.Errorf("%w: %v", recordstore.ErrUnknown, err)
	case err != nil:
		return 0, s.explain(ctx, "swapping record", err)
	case !resp.Succeeded:
		return 0, s.conflict(resp, expect)
	}
	return expect + 1, nil
}

// conflict tells why the comparisons of a swap failed.
func (s *Store) conflict(resp *clientv3.TxnResponse, expect recordstore.Version) error {
	meta := resp.Responses[0].GetResponseRange().Kvs
	if len(meta) == 0 || string(meta[0].Value) != metaValue(s.id) {
		return fmt.Errorf("swapping record: %w", ErrOtherStore)
	}
	var is int64
	if kvs := resp.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 {
		is = kvs[0].Version
	}
	return fmt.Errorf("%w: %d, not %d", recordstore.ErrConflict, is, expect)
}

// Scan implements recordstore.Store.
func (s *Store) Scan(ctx context.Context, after recordstore.ID, n int) ([]recordstore.ID, error) {
	n = recordstore.PageSize(n)
	// To etcd a limit of 0 is none.
	resp, err := s.guarded(ctx, "scanning records", clientv3.OpGet(s.keys.after(after),
		clientv3.WithRange(s.keys.recordsEnd), clientv3.WithKeysOnly(), clientv3.WithLimit(int64(max(n, 1)))))
	if err != nil {
		return nil, err
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	kvs = kvs[:min(len(kvs), n)]
	ids := make([]recordstore.ID, len(kvs))
	for i, kv := range kvs {
		if ids[i], err = s.keys.parseID(kv.Key); err != nil {
			return nil, fmt.Errorf("scanning records: %w", err)
		}
	}
	return ids, nil
}

// Position implements recordstore.Store.
func (s *Store) Position(ctx context.Context) (uint64, error) {
	resp, err := s.guarded(ctx, "reading the position", clientv3.OpGet(s.keys.meta, clientv3.WithKeysOnly()))
	if err != nil {
		return 0, err
	}
	return uint64(resp.Header.Revision), nil
}

// StoreID implements recordstore.Store.
func (s *Store) StoreID() recordstore.StoreID { return s.id }

// Close implements recordstore.Store. It waits for calls under way, at most their
// timeout. A second Close does nothing.
func (s *Store) Close() error {
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.cancel()
	s.background.Wait()
	for _, m := range s.members {
		m.close()
	}
	return nil
}
