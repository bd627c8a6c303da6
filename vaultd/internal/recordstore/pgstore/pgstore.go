// Package pgstore is the record store in a database that speaks PostgreSQL's
// protocol. It is proven on PostgreSQL only (15, by this package's tests), and meant for
// CockroachDB, YugabyteDB and Spanner's PostgreSQL interface once the same tests
// have run there.
//
// # How the contract is kept
//
// A swap is one statement, and its own transaction: INSERT … ON CONFLICT DO NOTHING
// for version 0, else UPDATE … WHERE id AND version … RETURNING. Of two that expect
// the same version the second waits for the first's row lock, looks again, and finds
// no row. The counter in the record is sealed, so SQL cannot lower it, and a stale
// read only loses its swap.
//
// Load is a plain SELECT on the primary. PostgreSQL makes a transaction visible
// after it was flushed, and after the wait for its synchronous standbys. Two ways
// lead around that wait, and both are closed:
//
//   - After a crash the primary shows what it had flushed before standbys confirmed it.
//     So every new connection first commits a write of its own (a barrier), which
//     waits for the standbys, and with it for all that stands before it in the log.
//   - A cancel request ends the wait: the commit is then visible here and on no
//     standby. The client is told with a mere WARNING, which here is ErrUnknown.
//     And no timeout of this package sends a cancel request. pgx would send one for
//     every call whose context ends; connections here refuse to dial for it. The
//     server goes on waiting, and the change stays invisible, as it should.
//     Administrators can still cancel (pg_cancel_backend) or terminate.
//
// Position is the sequence from which each done swap takes a number. Its value is
// logged before the commit of the swap that took it, it never goes back, a crash
// makes it jump ahead by up to 32, and dumps carry it. (pg_current_wal_lsn would do
// on one server, but it starts anew in a database that was dumped and restored, or
// is ahead of the old one. It also counts what standbys do not have yet: after a failover
// in which no swap is lost it could fall.) Reading it commits a barrier too.
//
// # What is checked
//
// On each connection: the server is a primary; synchronous_commit is on or
// remote_apply, and then fixed for the session; fsync is on; the database is the one
// that was opened. The session's isolation, warnings and timeouts are set by vaultd,
// whatever the role's defaults are. The tables must not be UNLOGGED. Otherwise: ErrUnsafe.
//
// # For operators: where PostgreSQL cannot keep the promise
//
// PostgreSQL has no consensus. One primary with its disk is as safe as that disk.
// With standbys the promise holds only if
//
//   - replication is synchronous: synchronous_standby_names = 'ANY 1 (a, b)'. An
//     asynchronous standby that is promoted has lost the newest charges: everybody
//     whose charge is gone gets it back as a new guess;
//   - the standby that is promoted has all that was acknowledged. With ANY 1 (a, b)
//     that is one of the two, not each: promoting the other by hand lost 2,034 of
//     2,312 acknowledged charges in a test. Let Patroni do it, with
//     synchronous_mode_strict, or compare pg_last_wal_receive_lsn and take the
//     highest of all, the old primary being off for good;
//   - the old primary never serves again: two primaries are two counters;
//   - synchronous_standby_names is not emptied "for the moment" when standbys fail;
//   - nobody cancels or terminates vaultd's sessions while they wait for standbys.
//     A superuser can undo charges in any case: he is an insider.
//
// A connection pooler in between must not share a server session between clients
// during it (PgBouncer's transaction mode): settings and warnings would get lost.
package pgstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/remote"
)

// Options of Open.
type Options struct {
	// Spec says where.
	Spec

	// Create makes the schema, the tables (see DDL) and the store's row when they
	// are missing. Without it that is ErrNoStore.
	Create bool

	// TLS to the servers. Without a CA only servers on this machine are accepted,
	// unless TLS.Plaintext is set.
	TLS remote.TLS

	// PasswordFile (see cmdline.ReadSecretFile), read anew for each connection.
	// Empty: none is sent.
	PasswordFile string

	// Timeout bounds every call. 0: 5 s.
	Timeout time.Duration

	// Conns is how many connections are opened at most. 0: 32. The server's
	// max_connections must have room for all vaultds together.
	Conns int

	// Log gets warnings. Nil: slog.Default().
	Log *slog.Logger
}

const (
	defaultTimeout = 5 * time.Second
	defaultConns   = 32
)

// Store implements recordstore.Store.
type Store struct {
	// static after construction
	pool    *pgxpool.Pool
	sql     statements
	timeout time.Duration
	log     *slog.Logger

	id atomic.Pointer[recordstore.StoreID] // nil while Open is at work

	closing sync.RWMutex // held for reading during every call
	closed  bool         // guarded by closing
}

var _ recordstore.Store = (*Store)(nil)

// Open finds the store in the database, or makes it. ctx bounds Open only.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{sql: makeStatements(o.Schema), timeout: o.Timeout, log: o.Log}
	if s.timeout <= 0 {
		s.timeout = defaultTimeout
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	config, err := s.poolConfig(o)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	// Not ctx: the pool outlives it.
	if s.pool, err = pgxpool.NewWithConfig(context.Background(), config); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if err := s.describe(ctx, o.Create); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", o.Spec, err), s.Close())
	}
	return s, nil
}

// describe learns the store's id, or makes the store.
func (s *Store) describe(ctx context.Context, create bool) error {
	id, err := s.readID(ctx)
	if errors.Is(err, ErrNoStore) && create {
		if err := s.create(ctx); err != nil {
			return fmt.Errorf("making it: %w", err)
		}
		id, err = s.readID(ctx)
	}
	if err != nil {
		return err
	}
	logged := 0
	err = s.read(ctx, "looking at its tables", func(ctx context.Context, c *pgxpool.Conn) error {
		return c.QueryRow(ctx, s.sql.persistence).Scan(&logged)
	})
	if err == nil && logged != 3 {
		err = fmt.Errorf("%w: its tables are not all of the ordinary, logged kind", ErrUnsafe)
	}
	if err != nil {
		return err
	}
	s.id.Store(&id)
	return nil
}

func (s *Store) readID(ctx context.Context) (id recordstore.StoreID, err error) {
	err = s.read(ctx, "looking for its description", func(ctx context.Context, c *pgxpool.Conn) error {
		var exists, records bool
		if err := c.QueryRow(ctx, s.sql.exists).Scan(&exists); err != nil {
			return err
		}
		if !exists {
			return ErrNoStore
		}
		var f int
		var b []byte
		err := c.QueryRow(ctx, s.sql.describe).Scan(&f, &b)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			if err := c.QueryRow(ctx, s.sql.hasRecords).Scan(&records); err != nil {
				return err
			}
			if records {
				return fmt.Errorf("%w: records without a description", ErrFormat)
			}
			return ErrNoStore
		case err != nil:
			return err
		case f != format || len(b) != len(id):
			return fmt.Errorf("%w: its description is of version %d", ErrFormat, f)
		}
		id = recordstore.StoreID(b)
		return nil
	})
	return id, err
}

// createLock is the number of an advisory lock ("chatvaul"): CREATE … IF NOT EXISTS
// fails when two do it at once.
const createLock = 0x6368617476_61756c

// create makes tables and description. Whether it or another vaultd did is read
// afterwards.
func (s *Store) create(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	conn, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	state := stateOf(conn)
	state.expectNothing()
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(createLock)); err != nil {
			return err
		}
		var exists bool
		if err := tx.QueryRow(ctx, s.sql.exists).Scan(&exists); err != nil {
			return err
		}
		if !exists {
			if _, err := tx.Exec(ctx, s.sql.create); err != nil {
				return err
			}
		}
		var id recordstore.StoreID
		rand.Read(id[:]) // never fails: crypto/rand ends the process instead
		_, err := tx.Exec(ctx, s.sql.initialise, format, id[:])
		return err
	})
	if err == nil {
		err = state.warned()
	}
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

// Load implements recordstore.Store.
func (s *Store) Load(ctx context.Context, id recordstore.ID) (data []byte, v recordstore.Version, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	var version int64
	err = s.read(ctx, "loading record", func(ctx context.Context, c *pgxpool.Conn) error {
		version, data = 0, nil
		err := c.QueryRow(ctx, s.sql.load, id[:]).Scan(&version, &data)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		return nil, 0, err
	case version == 0 && data == nil:
		return nil, 0, nil
	case version < 1 || len(data) == 0 || len(data) > recordstore.MaxData:
		return nil, 0, fmt.Errorf("%w: record of version %d and %d bytes", ErrFormat, version, len(data))
	}
	return data, recordstore.Version(version), nil
}

// LoadStale implements recordstore.Store. It is Load: this package speaks to the
// primary alone, where a read waits for nobody.
func (s *Store) LoadStale(ctx context.Context, id recordstore.ID) ([]byte, recordstore.Version, error) {
	return s.Load(ctx, id)
}

// Swap implements recordstore.Store.
func (s *Store) Swap(ctx context.Context, id recordstore.ID, expect recordstore.Version, data []byte) (recordstore.Version, error) {
	recordstore.CheckSwap(id, data)
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	if expect >= math.MaxInt64 {
		return 0, recordstore.ErrConflict // no row has such a version
	}
	sql, args := s.sql.update, []any{id[:], int64(expect), data}
	if expect == 0 {
		sql, args = s.sql.insert, []any{id[:], data}
	}
	var version, number int64
	maybe, err := s.write(ctx, sql, args, &version, &number)
	switch {
	case maybe:
		// Not %w: a context's error means that nothing was stored.
		return 0, fmt.Errorf("%w: %v", recordstore.ErrUnknown, err)
	case errors.Is(err, pgx.ErrNoRows):
		return 0, recordstore.ErrConflict
	case err != nil:
		return 0, s.explain(ctx, "swapping record", err)
	case uint64(version) != uint64(expect)+1:
		return 0, fmt.Errorf("%w: %w: version %d after %d", recordstore.ErrUnknown, ErrFormat, version, expect)
	}
	return expect + 1, nil
}

// Scan implements recordstore.Store.
func (s *Store) Scan(ctx context.Context, after recordstore.ID, n int) ([]recordstore.ID, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	ids := []recordstore.ID{}
	err := s.read(ctx, "scanning records", func(ctx context.Context, c *pgxpool.Conn) error {
		ids = ids[:0]
		rows, err := c.Query(ctx, s.sql.scan, after[:], recordstore.PageSize(n))
		if err != nil {
			return err
		}
		var b []byte
		_, err = pgx.ForEachRow(rows, []any{&b}, func() error {
			if len(b) != recordstore.IDSize {
				return fmt.Errorf("%w: id of %d bytes", ErrFormat, len(b))
			}
			ids = append(ids, recordstore.ID(b))
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// Position implements recordstore.Store.
func (s *Store) Position(ctx context.Context) (uint64, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	var p int64
	if _, err := s.write(ctx, s.sql.position, nil, &p); errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("reading the position: %w", ErrOtherStore)
	} else if err != nil {
		return 0, s.explain(ctx, "reading the position", err)
	}
	return uint64(p), nil
}

// StoreID implements recordstore.Store.
func (s *Store) StoreID() recordstore.StoreID { return *s.id.Load() }

// Close implements recordstore.Store. It waits for calls under way, at most their
// timeout, and up to 15 s for connections on which a call has timed out. A second
// Close does nothing.
func (s *Store) Close() error {
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.pool.Close()
	return nil
}

// connectionLost says whether an error tells of the connection rather than of what
// was asked on it.
func connectionLost(err error) bool {
	var e *pgconn.PgError
	return !errors.As(err, &e) || e.SeverityUnlocalized != "ERROR"
}
