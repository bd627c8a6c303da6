package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
)

func TestPebbleUnderKillsAndPauses(t *testing.T) {
	for seed := range seedsOf(2, 8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			node := NewChild(filepath.Join(t.TempDir(), "store"), sound)
			t.Cleanup(func() { node.Kill() })
			if err := node.Start(); err != nil {
				t.Fatal(err)
			}
			x := trial{
				store: "Pebble", members: 1, limit: 30 * time.Second,
				load: Load{Seed: seed, Nodes: []Node{node}, Clock: NewClock(), Clients: 6, Accounts: 3, AccountOps: 200, Timeout: 2 * time.Second},
				faults: func(ctx context.Context) ([]string, error) {
					return Schedule(ctx, seed, 6, func(rng *rand.Rand) Fault {
						if rng.IntN(3) == 0 {
							return Fault{"SIGSTOP", node.Pause, node.Resume, [2]time.Duration{100 * time.Millisecond, time.Second}}
						}
						return Fault{"kill -9", node.Kill, node.Start, [2]time.Duration{0, 100 * time.Millisecond}}
					})
				},
			}
			x.prove(t)
		})
	}
}
