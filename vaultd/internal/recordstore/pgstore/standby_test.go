package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/postgres"
	"chatvault/vaultd/internal/recordstore/engines/proc"
	"chatvault/vaultd/internal/recordstore/pgstore"
)

const patience = time.Minute

var one = recordstore.ID{15: 1}

// swapping is a swap that is under way.
type swapping struct {
	v   recordstore.Version
	err error
}

func startSwap(s recordstore.Store, id recordstore.ID, expect recordstore.Version) <-chan swapping {
	done := make(chan swapping, 1)
	go func() {
		v, err := s.Swap(context.Background(), id, expect, fmt.Appendf(nil, "version %d", expect+1))
		done <- swapping{v, err}
	}()
	return done
}

// waiting waits until one of vaultd's sessions waits for an event, and returns its
// process id.
func waiting(t *testing.T, server *postgres.Server, event string) (pid int) {
	t.Helper()
	err := proc.Until(patience, server.Process(), func() error {
		return server.Ask(t.Context(), "SELECT pid FROM pg_stat_activity WHERE application_name = 'vaultd' AND wait_event = '"+event+"' LIMIT 1", &pid)
	})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// set changes a setting of the server for this test.
func set(t *testing.T, server *postgres.Server, name, value string) {
	t.Helper()
	if err := server.Set(t.Context(), name, value); err != nil {
		t.Fatal(err)
	}
}

// stall makes every commit wait for a standby that there is not.
func stall(t *testing.T, server *postgres.Server) {
	set(t, server, "synchronous_standby_names", "nobody")
}
func unstall(t *testing.T, server *postgres.Server) { set(t, server, "synchronous_standby_names", "") }

func wantVersion(t *testing.T, s recordstore.Store, id recordstore.ID, want recordstore.Version) {
	t.Helper()
	if _, v, err := s.Load(t.Context(), id); err != nil || v != want {
		t.Fatalf("Load = %d, %v; want version %d", v, err, want)
	}
}

func exec(t *testing.T, server *postgres.Server, sql string) {
	t.Helper()
	if err := server.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// The server answers a swap whose wait was cancelled with success and a WARNING;
// the swap is on no standby. A role that hides warnings must not help it.
func TestCancelledWaitForStandbyIsUnknown(t *testing.T) {
	t.Parallel()
	server := postgres.Start(t, postgres.Options{})
	exec(t, server, "ALTER ROLE vaultd SET client_min_messages = 'error'")
	s := open(t, fresh(server))
	stall(t, server)
	for expect, end := range []string{"pg_cancel_backend", "pg_terminate_backend"} {
		done := startSwap(s, one, recordstore.Version(expect))
		pid := waiting(t, server, "SyncRep")
		exec(t, server, fmt.Sprintf("SELECT %s(%d)", end, pid))
		if r := <-done; !errors.Is(r.err, recordstore.ErrUnknown) || r.v != 0 {
			t.Fatalf("%s during the wait for the standby: %d, %v; want ErrUnknown", end, r.v, r.err)
		}
		// The connection that is open, or else a new one whose barrier would wait.
		if end == "pg_cancel_backend" {
			wantVersion(t, s, one, 1) // maybe meant: stored
		}
	}
	unstall(t, server)
	wantVersion(t, s, one, 2)
}

// A swap that times out during the wait is not cancelled on the server: else it
// would become visible without its standby.
func TestTimeoutDoesNotEndTheWaitForStandby(t *testing.T) {
	t.Parallel()
	server := postgres.Start(t, postgres.Options{})
	o := fresh(server)
	reader := open(t, o)
	wantVersion(t, reader, one, 0) // it has a connection now
	o.Timeout = 2 * time.Second
	s := open(t, o)
	wantVersion(t, s, one, 0) // so has this one
	stall(t, server)
	began := time.Now()
	if _, err := s.Swap(t.Context(), one, 0, []byte("x")); !errors.Is(err, recordstore.ErrUnknown) {
		t.Fatalf("swap without its standby: %v; want ErrUnknown", err)
	}
	if took := time.Since(began); took > 4500*time.Millisecond { // 5 s is the default
		t.Errorf("took %s, with a timeout of %s", took, o.Timeout)
	}
	// pgx sends its cancel requests at once, if it does.
	settled := time.Now().Add(500 * time.Millisecond)
	for time.Now().Before(settled) {
		wantVersion(t, reader, one, 0)
	}
	waiting(t, server, "SyncRep") // it still waits
	unstall(t, server)
	if err := proc.Until(patience, server.Process(), func() error {
		if _, v, err := reader.Load(t.Context(), one); err != nil || v != 1 {
			return fmt.Errorf("Load = %d, %v; want 1", v, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// After a crash a primary shows what no standby has. Nobody may see it until they do.
func TestCrashedPrimaryShowsNothingBeforeItsStandbyHasIt(t *testing.T) {
	t.Parallel()
	server := postgres.Start(t, postgres.Options{})
	o := fresh(server)
	o.Timeout = 2 * time.Second
	s := open(t, o)
	wantVersion(t, s, one, 0)
	stall(t, server)
	done := startSwap(s, one, 0)
	waiting(t, server, "SyncRep")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if r := <-done; !errors.Is(r.err, recordstore.ErrUnknown) {
		t.Fatalf("swap under which the server was killed: %v; want ErrUnknown", r.err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	var shown int
	sql := fmt.Sprintf("SELECT count(*) FROM pg_database WHERE datname = '%s'", postgres.Database)
	if err := server.Ask(t.Context(), sql, &shown); err != nil || shown != 1 {
		t.Fatalf("the server is not back: %d, %v", shown, err)
	}
	if _, v, err := s.Load(t.Context(), one); !errors.Is(err, pgstore.ErrUnavailable) {
		t.Fatalf("Load = %d, %v, of what no standby has; want ErrUnavailable", v, err)
	}
	if _, err := s.Swap(t.Context(), one, 0, []byte("x")); err == nil || errors.Is(err, recordstore.ErrUnknown) {
		t.Errorf("swap while no connection can be proven: %v; want a certain refusal", err)
	}
	unstall(t, server)
	wantVersion(t, s, one, 1)
}

// What was acknowledged is on the standby that is promoted, and the position too.
func TestFailoverToSynchronousStandby(t *testing.T) {
	t.Parallel()
	primary := postgres.Start(t, postgres.Options{})
	standby, err := primary.Standby("s1", postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standby.Close)
	set(t, primary, "synchronous_standby_names", "ANY 1 (s1)")
	o := fresh(primary)
	o.Endpoints = append(o.Endpoints, standby.Endpoint())
	o.Timeout = 2 * time.Second
	s := open(t, o)
	for v := range recordstore.Version(5) {
		if _, err := s.Swap(t.Context(), one, v, []byte{byte(v)}); err != nil {
			t.Fatal(err)
		}
	}
	before, err := s.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	// The standby hangs: nothing is acknowledged, and within the time.
	receiver := pausedReceiver(t, standby)
	if _, err := s.Swap(t.Context(), one, 5, []byte("maybe")); !errors.Is(err, recordstore.ErrUnknown) {
		t.Fatalf("swap while the standby hangs: %v; want ErrUnknown", err)
	}
	if err := syscall.Kill(receiver, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}

	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	var v recordstore.Version
	if err := proc.Until(patience, standby.Process(), func() error {
		_, v, err = s.Load(t.Context(), one)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if v != 5 && v != 6 {
		t.Errorf("version %d after the failover; 5 were acknowledged, 6 maybe", v)
	}
	if after, err := s.Position(t.Context()); err != nil || after < before {
		t.Errorf("Position = %d, %v, after the failover; it was %d", after, err, before)
	}
	if _, err := s.Swap(t.Context(), one, v, []byte("on")); err != nil {
		t.Errorf("swap on the new primary: %v", err)
	}
}

// pausedReceiver stops the process of a standby that receives the log.
func pausedReceiver(t *testing.T, standby *postgres.Server) (pid int) {
	t.Helper()
	if err := standby.Ask(t.Context(), "SELECT pid FROM pg_stat_wal_receiver", &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return pid
}
