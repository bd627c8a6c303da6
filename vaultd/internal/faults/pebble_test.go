package faults

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	MainIfChild()
	os.Exit(m.Run())
}

// under runs a load while faults happen, and then asks that all nodes work again
// within the limit.
func under(t *testing.T, l Load, limit time.Duration, schedule func(ctx context.Context) ([]string, error)) *History {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	h := NewHistory()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(ctx, h)
	}()
	told, err := schedule(ctx)
	t.Log(told)
	if err == nil {
		began := time.Now()
		err = Alive(ctx, limit, l.Nodes...)
		t.Logf("all nodes work %s after the last fault", time.Since(began).Round(time.Millisecond))
	}
	cancel()
	<-ended
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestPebbleUnderKillsAndPauses(t *testing.T) {
	for seed := range uint64(2) {
		node := NewChild(filepath.Join(t.TempDir(), "store"), sound)
		if err := node.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { node.Kill() })
		load := Load{Seed: seed, Nodes: []Node{node}, Clients: 6, Accounts: 3, AccountOps: 200, Timeout: 2 * time.Second}
		h := under(t, load, 10*time.Second, func(ctx context.Context) ([]string, error) {
			return Schedule(ctx, seed, 6, func(rng *rand.Rand) Fault {
				if rng.IntN(3) == 0 {
					return Fault{"pause", node.Pause, node.Resume, [2]time.Duration{100 * time.Millisecond, time.Second}}
				}
				return Fault{"kill -9", node.Kill, node.Start, [2]time.Duration{0, 100 * time.Millisecond}}
			})
		})
		mustBeLinearizable(t, h)
	}
}
