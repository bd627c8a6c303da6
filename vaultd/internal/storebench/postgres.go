package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"chatvault/vaultd/internal/recordstore/engines/postgres"
	"chatvault/vaultd/internal/recordstore/pgstore"
)

// pgConns is how many connections each side has: the store's default.
const pgConns = 32

func startPostgres(ctx context.Context, slow bool, accounts int) (*sides, error) {
	var o postgres.Options
	if slow {
		if err := checkSlowly(ctx); err != nil {
			return nil, err
		}
		o.Wrap = slowly
	}
	server, err := postgres.New(o)
	if err != nil {
		return nil, err
	}
	s := &sides{}
	s.onClose(func() error { server.Close(); return nil })
	if err := server.Ask(ctx, "SHOW server_version", &s.server); err != nil {
		return s, err
	}
	store, err := pgstore.Open(ctx, pgstore.Options{
		Spec: pgstore.Spec{
			User: postgres.Role, Endpoints: []string{server.Endpoint()}, Database: postgres.Database, Schema: pgstore.DefaultSchema,
		},
		Create: true, PasswordFile: server.PasswordFile, Conns: pgConns, Log: quiet,
	})
	if err != nil {
		return s, err
	}
	s.onClose(store.Close)
	pool, err := plainPool(ctx, server)
	if err != nil {
		return s, err
	}
	s.onClose(func() error { pool.Close(); return nil })
	return s, s.fill(ctx, store, plainPostgres{pool}, accounts)
}

// plainPool connects as our store does, and makes a table with the same storage.
func plainPool(ctx context.Context, server *postgres.Server) (*pgxpool.Pool, error) {
	password, err := os.ReadFile(server.PasswordFile)
	if err != nil {
		return nil, err
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(postgres.Role, strings.TrimSpace(string(password))),
		Host: server.Endpoint(), Path: postgres.Database,
		RawQuery: fmt.Sprintf("sslmode=disable&pool_max_conns=%d", pgConns),
	}
	pool, err := pgxpool.New(ctx, u.String())
	if err != nil {
		return nil, err
	}
	_, err = pool.Exec(ctx, `CREATE TABLE floor (id bytea PRIMARY KEY, version bigint NOT NULL, data bytea NOT NULL) WITH (fillfactor = 50)`)
	if err == nil {
		_, err = pool.Exec(ctx, `ALTER TABLE floor ALTER COLUMN data SET STORAGE EXTERNAL`)
	}
	if err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// plainPostgres is pgx without our layer: a SELECT, and an UPDATE if nobody was
// faster.
type plainPostgres struct{ pool *pgxpool.Pool }

func (p plainPostgres) register(ctx context.Context, account int) error {
	id := accountID(account)
	_, err := p.pool.Exec(ctx, `INSERT INTO floor (id, version, data) VALUES ($1, 1, $2)`, id[:], plainRecord())
	return err
}

func (p plainPostgres) charge(ctx context.Context, account int) error {
	id := accountID(account)
	for {
		var version int64
		var data []byte
		if err := p.pool.QueryRow(ctx, `SELECT version, data FROM floor WHERE id = $1`, id[:]).Scan(&version, &data); err != nil {
			return err
		}
		if err := touch(data); err != nil {
			return err
		}
		err := p.pool.QueryRow(ctx, `UPDATE floor SET version = version + 1, data = $3 WHERE id = $1 AND version = $2 RETURNING version`,
			id[:], version, data).Scan(&version)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
	}
}
