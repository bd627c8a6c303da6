package opaque

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/crypto/argon2"
)

// Argon2id is the KSF of the project: Argon2id of RFC 9106, version 0x13, with
// a salt of 16 zero bytes (the OPRF's output is already unique to record and
// password) and an output of Nh = 32 bytes, as RFC 9807 section 7 does with
// other costs. The costs are chosen at registration, kept with the record and
// the same at each login.
type Argon2id struct {
	MemoryKiB   uint32 // 19 to 256 MiB
	Time        uint32 // passes, 2 to 10
	Parallelism uint8  // lanes, 1 to 4
}

// DefaultArgon2id is 64 MiB, 3 passes, 4 lanes: the second recommendation of
// RFC 9106 section 4. RFC 9807's 2 GiB do not fit into a phone.
var DefaultArgon2id = Argon2id{MemoryKiB: 64 << 10, Time: 3, Parallelism: 4}

// The bounds of Check. Below, a stolen record would be cheap to search; above,
// whoever controls the parameters could stop a phone.
const (
	MinMemoryKiB, MaxMemoryKiB     = 19 << 10, 256 << 10
	MinTime, MaxTime               = 2, 10
	MinParallelism, MaxParallelism = 1, 4
)

// Check returns ErrKSF unless the parameters are within bounds. The server
// names them at a login, so that a client checks before it uses them.
func (a Argon2id) Check() error {
	if a.MemoryKiB < MinMemoryKiB || a.MemoryKiB > MaxMemoryKiB ||
		a.Time < MinTime || a.Time > MaxTime ||
		a.Parallelism < MinParallelism || a.Parallelism > MaxParallelism {
		return fmt.Errorf("%w: Argon2id m=%d KiB t=%d p=%d", ErrKSF, a.MemoryKiB, a.Time, a.Parallelism)
	}
	return nil
}

// KSF returns the function; out of bounds it only returns ErrKSF.
func (a Argon2id) KSF() KSF {
	return func(oprfOutput []byte) ([]byte, error) {
		if err := a.Check(); err != nil {
			return nil, err
		}
		return argon2.IDKey(oprfOutput, make([]byte, 16), a.Time, a.MemoryKiB, a.Parallelism, Nh), nil
	}
}

// Reserve takes and touches as much memory as KSF will need. Call it before
// KE1 is sent, and release just before the KSF runs.
//
// Go cannot report that memory is missing: it, or the system, ends the
// process. Reserve does not change that, but it moves the end to a moment at
// which no attempt has been charged. After release the memory stays with the
// process for a while, as free heap that the KSF's allocation takes again;
// that is how Go's heap behaves, not a guarantee. The error is Check's.
func (a Argon2id) Reserve() (release func(), err error) {
	if err := a.Check(); err != nil {
		return nil, err
	}
	buffer := make([]byte, int(a.MemoryKiB)<<10)
	// The system gives fresh pages only when they are written.
	for i := 0; i < len(buffer); i += os.Getpagesize() {
		buffer[i] = 1
	}
	return func() {
		runtime.KeepAlive(buffer)
		if buffer != nil {
			buffer = nil
			runtime.GC() // else the heap would hold both for a while
		}
	}, nil
}
