package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pause stands before a new attempt to reach the server.
const pause = 50 * time.Millisecond

// acquire gets a connection, within the context's time. It tries again while the
// server cannot be reached: a new primary may be on its way up.
func (s *Store) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	for {
		conn, err := s.pool.Acquire(ctx)
		if err == nil || hopeless(err) || ctx.Err() != nil {
			return conn, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// read runs f on a connection, within the store's timeout, and again on others while
// connections break.
func (s *Store) read(ctx context.Context, what string, f func(context.Context, *pgxpool.Conn) error) error {
	own, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for {
		err := s.readOnce(own, f)
		switch {
		case err == nil, errors.Is(err, ErrNoStore):
			return err
		case own.Err() != nil, hopeless(err), !connectionLost(err):
			return s.explain(ctx, what, err)
		}
		s.pool.Reset() // a broken connection is rarely alone
	}
}

func (s *Store) readOnce(ctx context.Context, f func(context.Context, *pgxpool.Conn) error) error {
	conn, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return f(ctx, conn)
}

// write runs one statement that is its own transaction and scans the row that it
// returns, within the store's timeout. It is sent once. maybe = it was sent, and
// what became of it is not known. pgx.ErrNoRows: it did nothing.
func (s *Store) write(ctx context.Context, sql string, args []any, row ...any) (maybe bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for {
		conn, err := s.acquire(ctx)
		if err != nil {
			return false, err
		}
		maybe, unsent, err := writeOn(ctx, conn, sql, args, row)
		if !unsent || ctx.Err() != nil {
			return maybe, err
		}
		s.pool.Reset()
	}
}

func writeOn(ctx context.Context, conn *pgxpool.Conn, sql string, args, row []any) (maybe, unsent bool, err error) {
	defer conn.Release()
	state := stateOf(conn)
	state.expectNothing()
	err = conn.QueryRow(ctx, sql, args...).Scan(row...)
	if warning := state.warned(); warning != nil {
		// Above all: the wait for the standbys was cancelled (01000).
		return true, false, warning
	}
	switch {
	case err == nil, errors.Is(err, pgx.ErrNoRows), refused(err):
		return false, false, err
	case pgconn.SafeToRetry(err):
		return false, true, err
	}
	return true, false, err
}

// explain makes an error for callers of one that is certain.
func (s *Store) explain(ctx context.Context, what string, err error) error {
	switch {
	case hasState(err, stateNoSpace):
		return fmt.Errorf("%s: %w: %w", what, ErrNoSpace, err)
	case hopeless(err), refused(err):
		return fmt.Errorf("%s: %w", what, err)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	// Not %w: the timeout that ended is ours, not the caller's.
	return fmt.Errorf("%s: %w: %v", what, ErrUnavailable, err)
}
