package main

import (
	"math/rand/v2"
	"testing"
)

// BenchmarkPebble is the first charge row for a profiler: each side alone.
func BenchmarkPebble(b *testing.B) {
	const accounts = 4096
	s, err := startPebble(b.Context(), false, accounts)
	if s != nil {
		defer s.close()
	}
	if err != nil {
		b.Fatal(err)
	}
	for name, side := range map[string]charges{"ours": s.ours, "floor": s.floor} {
		b.Run(name, func(b *testing.B) {
			b.SetParallelism(clients / 2)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := side.charge(b.Context(), rand.IntN(accounts)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
