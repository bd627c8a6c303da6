package opaque

import (
	"errors"
	"runtime"
	"runtime/debug"
	"testing"

	"chatvault/protocol/vectors"
)

func TestArgon2idBounds(t *testing.T) {
	for name, c := range map[string]struct {
		a  Argon2id
		ok bool
	}{
		"default":        {DefaultArgon2id, true},
		"least":          {Argon2id{19 << 10, 2, 1}, true},
		"most":           {Argon2id{256 << 10, 10, 4}, true},
		"zero":           {Argon2id{}, false},
		"too little":     {Argon2id{19<<10 - 1, 2, 1}, false},
		"too much":       {Argon2id{256<<10 + 1, 3, 4}, false},
		"one pass":       {Argon2id{64 << 10, 1, 4}, false},
		"eleven passes":  {Argon2id{64 << 10, 11, 4}, false},
		"no lane":        {Argon2id{64 << 10, 3, 0}, false},
		"five lanes":     {Argon2id{64 << 10, 3, 5}, false},
		"largest values": {Argon2id{1<<32 - 1, 1<<32 - 1, 255}, false},
	} {
		err := c.a.Check()
		if c.ok && err != nil || !c.ok && !errors.Is(err, ErrKSF) {
			t.Errorf("%s: Check: %v", name, err)
		}
		if c.ok {
			continue
		}
		if _, err := c.a.KSF()([]byte("x")); !errors.Is(err, ErrKSF) {
			t.Errorf("%s: KSF: %v", name, err)
		}
		if _, err := c.a.Reserve(); !errors.Is(err, ErrKSF) {
			t.Errorf("%s: Reserve: %v", name, err)
		}
	}
}

func TestArgon2idVectors(t *testing.T) {
	for _, v := range vectors.Argon2id() {
		a := Argon2id{MemoryKiB: v.MemoryKiB, Time: v.Time, Parallelism: v.Parallelism}
		got, err := a.KSF()(v.Input)
		must(t, err)
		same(t, v.Name, got, v.Output)
	}
}

// Reserve promises that release leaves the memory as free heap that the KSF
// takes again. If it did not, the peak would be twice the KSF's memory.
func TestReservedMemoryIsUsedAgain(t *testing.T) {
	debug.FreeOSMemory() // else what other tests left would be used again
	a := Argon2id{MemoryKiB: 64 << 10, Time: 2, Parallelism: 1}
	before := heldHeap()
	release, err := a.Reserve()
	must(t, err)
	reserved := heldHeap()
	if reserved-before < int64(a.MemoryKiB)<<10/2 {
		t.Errorf("Reserve took only %d bytes", reserved-before)
	}
	release()
	release() // harmless
	if _, err := a.KSF()(make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	if grown := heldHeap() - reserved; grown > int64(a.MemoryKiB)<<10/2 {
		t.Errorf("the heap grew by %d bytes after release", grown)
	}
}

// heldHeap is the heap that the process holds from the system, in use or free.
func heldHeap() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapSys - m.HeapReleased)
}
