//go:build fault

package faults

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/recordstore/engines/postgres"
	"chatvault/vaultd/internal/recordstore/pgstore"
)

// pgNodes are three nodes, each of which knows all the servers.
func pgNodes(t *testing.T, clock *Clock, vaults bool, servers ...*postgres.Server) []Node {
	t.Helper()
	spec := pgstore.Spec{User: postgres.Role, Database: postgres.Database, Schema: pgstore.DefaultSchema}
	for _, s := range servers {
		spec.Endpoints = append(spec.Endpoints, s.Endpoint())
	}
	var stores []recordstore.Store
	for i := range 3 {
		store, err := pgstore.Open(t.Context(), pgstore.Options{
			Spec: spec, PasswordFile: servers[0].PasswordFile, Create: i == 0, Timeout: callLimit, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		stores = append(stores, store)
	}
	return nodesOver(t, clock, vaults, stores...)
}

func TestPostgresUnderKillsAndPauses(t *testing.T) {
	for seed := range seedsOf(1, 6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			server, clock := postgres.Start(t, postgres.Options{}), NewClock()
			nodes := pgNodes(t, clock, seed%2 == 1, server)
			kill := func(*rand.Rand) Fault {
				return Fault{"kill -9", server.Kill, server.Start, [2]time.Duration{0, 300 * time.Millisecond}}
			}
			pause := func(*rand.Rand) Fault {
				return Fault{"SIGSTOP", server.Pause, server.Resume, [2]time.Duration{300 * time.Millisecond, 2 * time.Second}}
			}
			x := trial{store: storeName("PostgreSQL", nodes), members: 1, load: clients(seed, clock, nodes), limit: recovery,
				faults: atRandom(seed, 5, kill, pause)}
			x.prove(t)
		})
	}
}
