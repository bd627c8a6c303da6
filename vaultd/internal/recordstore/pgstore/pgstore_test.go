package pgstore_test

import (
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/postgres"
	"chatvault/vaultd/internal/recordstore/pgstore"
	"chatvault/vaultd/internal/recordstore/storetest"
)

var schemas atomic.Int64

// The server of all tests that leave it in peace.
var (
	sharedOnce   sync.Once
	sharedServer *postgres.Server
	errShared    error
)

func TestMain(m *testing.M) {
	code := m.Run()
	if sharedServer != nil {
		sharedServer.Close()
	}
	os.Exit(code)
}

func shared(t *testing.T) *postgres.Server {
	t.Helper()
	sharedOnce.Do(func() { sharedServer, errShared = postgres.New(postgres.Options{}) })
	if errShared != nil {
		t.Fatal(errShared)
	}
	return sharedServer
}

// fresh are the options of a store of its own on the server.
func fresh(s *postgres.Server) pgstore.Options {
	return pgstore.Options{
		Spec: pgstore.Spec{
			User: postgres.Role, Endpoints: []string{s.Endpoint()}, Database: postgres.Database,
			Schema: "t" + strconv.FormatInt(schemas.Add(1), 10),
		},
		PasswordFile: s.PasswordFile,
		Create:       true,
		Log:          slog.New(slog.DiscardHandler),
	}
}

func open(t *testing.T, o pgstore.Options) *pgstore.Store {
	t.Helper()
	s, err := pgstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStore(t *testing.T) {
	server := shared(t)
	storetest.Run(t, storetest.Lasting(func(t *testing.T) func(*testing.T, bool) recordstore.Store {
		o := fresh(server)
		o.Timeout = patience // a busy machine is not this suite's matter
		return func(t *testing.T, create bool) recordstore.Store {
			o.Create = create
			return open(t, o)
		}
	}))
}
