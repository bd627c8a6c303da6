package pgstore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/postgres"
	"chatvault/vaultd/internal/recordstore/engines/proc"
	"chatvault/vaultd/internal/recordstore/pgstore"
	"chatvault/vaultd/internal/recordstore/remote"
	"chatvault/vaultd/internal/recordstore/storetest"
)

func id(n int) (id recordstore.ID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n)+1)
	return id
}

// Several writers, and the server is killed under them. Every record is then at the
// version that was acknowledged last, or at the one whose swap ended in doubt.
func TestKilledServerKeepsWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	const writers, rounds = 8, 3
	server := postgres.Start(t, postgres.Options{})
	o := fresh(server)
	o.Timeout = time.Second
	s := open(t, o)
	for round := range rounds {
		var wg sync.WaitGroup
		var acked [writers]recordstore.Version
		enough := make(chan struct{}, writers)
		for w := range writers {
			wg.Go(func() { acked[w] = swapUntilError(t, s, id(w), enough) })
		}
		for range writers {
			<-enough
		}
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		for w := range writers {
			data, v, err := s.Load(t.Context(), id(w))
			if err != nil || (v != acked[w] && v != acked[w]+1) || binary.BigEndian.Uint64(data) != uint64(v) {
				t.Errorf("round %d, writer %d: Load = %x, %d, %v; acknowledged: %d", round, w, data, v, err, acked[w])
			}
		}
	}
}

// swapUntilError swaps a record from its present version on, says when it has done 50,
// and returns the last version that was acknowledged.
func swapUntilError(t *testing.T, s recordstore.Store, id recordstore.ID, enough chan<- struct{}) recordstore.Version {
	_, v, err := s.Load(t.Context(), id)
	if err != nil {
		t.Error(err)
	}
	for n := 1; ; n++ {
		if _, err := s.Swap(t.Context(), id, v, binary.BigEndian.AppendUint64(nil, uint64(v)+1)); err != nil {
			if n <= 50 {
				t.Errorf("swap %d: %v", n, err)
				enough <- struct{}{}
			}
			return v
		}
		v++
		if n == 50 {
			enough <- struct{}{}
		}
	}
}

// locked holds the row of a record until the test ends it.
func locked(t *testing.T, server *postgres.Server, schema string, id recordstore.ID) (unlock func()) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), server.Superuser()+" dbname="+postgres.Database)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := c.Begin(t.Context())
	if err == nil {
		_, err = tx.Exec(t.Context(), fmt.Sprintf(`SELECT FROM %q.records WHERE id = $1 FOR UPDATE`, schema), id[:])
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { c.Close(context.Background()) }
}

// A statement that the server gave up before its commit was certainly not stored;
// a session that ended meanwhile says nothing.
func TestEndBeforeTheCommit(t *testing.T) {
	server := shared(t)
	o := fresh(server)
	s := open(t, o)
	if _, err := s.Swap(t.Context(), one, 0, []byte("x")); err != nil {
		t.Fatal(err)
	}
	for end, unknown := range map[string]bool{"pg_cancel_backend": false, "pg_terminate_backend": true} {
		unlock := locked(t, server, o.Schema, one)
		done := startSwap(s, one, 1)
		pid := waiting(t, server, "transactionid")
		exec(t, server, fmt.Sprintf("SELECT %s(%d)", end, pid))
		r := <-done
		unlock()
		if r.err == nil || errors.Is(r.err, recordstore.ErrConflict) || errors.Is(r.err, recordstore.ErrUnknown) != unknown {
			t.Errorf("%s: %v; unknown should be %t", end, r.err, unknown)
		}
		wantVersion(t, s, one, 1)
	}
}

// The server gives up a lock that it does not get, and nothing lands late.
func TestSwapTimesOutOnTheServer(t *testing.T) {
	server := shared(t)
	o := fresh(server)
	s := open(t, o)
	if _, err := s.Swap(t.Context(), one, 0, []byte("x")); err != nil {
		t.Fatal(err)
	}
	o.Timeout = 2 * time.Second
	hasty := open(t, o)
	unlock := locked(t, server, o.Schema, one)
	defer unlock()
	began := time.Now()
	if _, err := hasty.Swap(t.Context(), one, 1, []byte("y")); err == nil || errors.Is(err, recordstore.ErrConflict) {
		t.Errorf("swap of a locked row: %v", err)
	}
	if took := time.Since(began); took > 4500*time.Millisecond { // 5 s is the default
		t.Errorf("took %s", took)
	}
	wantVersion(t, s, one, 1)
}

// The server hangs: its sockets take everything, nothing answers.
func TestPausedServer(t *testing.T) {
	t.Parallel()
	server := postgres.Start(t, postgres.Options{})
	o := fresh(server)
	o.Timeout = 2 * time.Second
	s := open(t, o)
	wantVersion(t, s, one, 0)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err := s.Swap(t.Context(), one, 0, []byte("x"))
	if !errors.Is(err, recordstore.ErrUnknown) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Swap: %v; want ErrUnknown, and no context's error", err)
	}
	if _, v, err := s.Load(t.Context(), one); !errors.Is(err, pgstore.ErrUnavailable) {
		t.Errorf("Load = %d, %v; want ErrUnavailable", v, err)
	}
	if took := time.Since(began); took > 9*time.Second { // two by the default take 10 s
		t.Errorf("took %s", took)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := proc.Until(patience, server.Process(), func() error {
		_, v, err := s.Load(t.Context(), one)
		if err == nil && v > 1 {
			t.Fatalf("version %d after one swap", v)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestServerDown(t *testing.T) {
	t.Parallel()
	server := postgres.Start(t, postgres.Options{})
	o := fresh(server)
	o.Timeout = 2 * time.Second
	s := open(t, o)
	wantVersion(t, s, one, 0)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	// The swap may be the first to notice that its connection is dead.
	if _, _, err := s.Load(t.Context(), one); !errors.Is(err, pgstore.ErrUnavailable) {
		t.Errorf("Load: %v; want ErrUnavailable", err)
	}
	began := time.Now()
	if _, err := s.Swap(t.Context(), one, 0, []byte("x")); !errors.Is(err, pgstore.ErrUnavailable) || errors.Is(err, recordstore.ErrUnknown) {
		t.Errorf("Swap: %v; want ErrUnavailable, for certain", err)
	}
	if _, err := s.Position(t.Context()); !errors.Is(err, pgstore.ErrUnavailable) {
		t.Errorf("Position: %v; want ErrUnavailable", err)
	}
	if took := time.Since(began); took > 9*time.Second { // two by the default take 10 s
		t.Errorf("took %s", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Swap(ctx, one, 0, []byte("x")); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, recordstore.ErrUnknown) {
		t.Errorf("Swap whose caller's time ends first: %v", err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if err := proc.Until(patience, server.Process(), func() error {
		_, _, err := s.Load(t.Context(), one)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	wantVersion(t, s, one, 0)
	if _, err := s.Swap(t.Context(), one, 0, []byte("x")); err != nil {
		t.Error(err)
	}
}

func TestUnsafeServerIsRefused(t *testing.T) {
	t.Parallel()
	server := postgres.Start(t, postgres.Options{})
	o := fresh(server)
	open(t, o)
	refuse := func(what string) {
		t.Helper()
		if _, err := pgstore.Open(t.Context(), o); !errors.Is(err, pgstore.ErrUnsafe) {
			t.Errorf("%s: %v; want ErrUnsafe", what, err)
		}
	}
	for _, value := range []string{"off", "local", "remote_write"} {
		exec(t, server, "ALTER ROLE vaultd SET synchronous_commit = '"+value+"'")
		refuse("synchronous_commit=" + value)
	}
	exec(t, server, "ALTER ROLE vaultd SET synchronous_commit = 'remote_apply'")
	open(t, o)
	set(t, server, "fsync", "off")
	refuse("fsync=off")
	set(t, server, "fsync", "on")
	inDatabase(t, server, fmt.Sprintf(`ALTER TABLE %q.records SET UNLOGGED`, o.Schema))
	refuse("unlogged table")
}

func inDatabase(t *testing.T, server *postgres.Server, sql string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), server.Superuser()+" dbname="+postgres.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// A session keeps the durability that it was proven with.
func TestReloadDoesNotWeakenSessions(t *testing.T) {
	t.Parallel()
	server := postgres.Start(t, postgres.Options{})
	o := fresh(server)
	o.Conns = 1
	s := open(t, o)
	wantVersion(t, s, one, 0)
	set(t, server, "synchronous_commit", "off")
	set(t, server, "synchronous_standby_names", "nobody")
	done := startSwap(s, one, 0)
	waiting(t, server, "SyncRep")
	set(t, server, "synchronous_standby_names", "")
	if r := <-done; r.err != nil {
		t.Error(r.err)
	}
}

func TestNoStoreAndOtherStore(t *testing.T) {
	server := shared(t)
	o := fresh(server)
	o.Create = false
	if _, err := pgstore.Open(t.Context(), o); !errors.Is(err, pgstore.ErrNoStore) {
		t.Errorf("nothing there: %v; want ErrNoStore", err)
	}
	o.Create = true
	s := open(t, o)
	if _, err := s.Swap(t.Context(), one, 0, []byte("x")); err != nil {
		t.Fatal(err)
	}
	inDatabase(t, server, fmt.Sprintf(`UPDATE %q.store SET store_id = decode(repeat('ab', 16), 'hex')`, o.Schema))
	// Sessions that stand are not asked again; new ones are.
	exec(t, server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vaultd'")
	if _, _, err := s.Load(t.Context(), one); !errors.Is(err, pgstore.ErrOtherStore) {
		t.Errorf("Load from another store: %v; want ErrOtherStore", err)
	}
	inDatabase(t, server, fmt.Sprintf(`DELETE FROM %q.store`, o.Schema))
	if _, err := pgstore.Open(t.Context(), o); !errors.Is(err, pgstore.ErrFormat) {
		t.Errorf("records without a description: %v; want ErrFormat", err)
	}
	inDatabase(t, server, fmt.Sprintf(`INSERT INTO %q.store (format, store_id) VALUES (2, decode(repeat('ab', 16), 'hex'))`, o.Schema))
	if _, err := pgstore.Open(t.Context(), o); !errors.Is(err, pgstore.ErrFormat) {
		t.Errorf("a later format: %v; want ErrFormat", err)
	}
}

func TestManyMakeOneStore(t *testing.T) {
	o := fresh(shared(t))
	storetest.ManyMakeOne(t, func() (recordstore.Store, error) { return pgstore.Open(t.Context(), o) })
}

// An administrator made the tables; vaultd's role may do no more than it needs.
func TestTablesByTheAdministrator(t *testing.T) {
	server := shared(t)
	o := fresh(server)
	o.User = "narrow"
	inDatabase(t, server, pgstore.DDL(o.Schema))
	inDatabase(t, server, fmt.Sprintf(`CREATE ROLE narrow LOGIN PASSWORD 'not a secret';
		GRANT USAGE ON SCHEMA %[1]q TO narrow;
		GRANT USAGE, SELECT ON SEQUENCE %[1]q.swaps TO narrow;
		GRANT SELECT, INSERT, UPDATE ON %[1]q.records, %[1]q.store TO narrow`, o.Schema))
	s := open(t, o)
	for v := range recordstore.Version(3) {
		if _, err := s.Swap(t.Context(), one, v, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	wantVersion(t, s, one, 3)
	if p, err := s.Position(t.Context()); err != nil || p < 3 {
		t.Errorf("Position = %d, %v", p, err)
	}
	o = fresh(server)
	o.User = "narrow"
	if _, err := pgstore.Open(t.Context(), o); err == nil {
		t.Error("a role without rights made a store")
	}
}

func TestWhoMayNotConnect(t *testing.T) {
	server := shared(t)
	o := fresh(server)
	o.PasswordFile = ""
	if _, err := pgstore.Open(t.Context(), o); err == nil {
		t.Error("no password: opened")
	}
	o = fresh(server)
	o.Endpoints = []string{"db.example.com:5432"}
	if _, err := pgstore.Open(t.Context(), o); !errors.Is(err, remote.ErrPlaintext) {
		t.Errorf("plaintext to another machine: %v; want ErrPlaintext", err)
	}
}
