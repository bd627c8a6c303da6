//go:build unix

package admission

import "syscall"

// descriptors is how many files this process may have open; the Go runtime has
// raised the soft limit to the hard one. 0: unknown.
func descriptors() int64 {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return 0
	}
	return int64(min(uint64(r.Cur), 1<<40))
}
