package main

import (
	"math/rand/v2"
	"syscall"
	"testing"
)

// BenchmarkPebble is the first charge row for a profiler: each side alone. What it
// takes of the processors says more than the clock does on a busy machine.
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
			before := cpuTime()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := side.charge(b.Context(), rand.IntN(accounts)); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime is what this process has taken of the processors, in nanoseconds.
func cpuTime() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
