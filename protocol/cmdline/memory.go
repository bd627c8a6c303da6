package cmdline

import (
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// LimitMemory sets the soft limit at which Go's runtime begins to collect
// harder, and logs what holds: GOMEMLIMIT, if that is set; else want; else,
// when want is 0, nine tenths of what the cgroup of this process allows. The
// tenth is for what Go does not count: the stacks of C, a PKCS#11 module.
func LimitMemory(want Size, log *slog.Logger) {
	limit, from := memoryLimit(want, os.Getenv("GOMEMLIMIT"), os.DirFS("/"))
	if limit > 0 {
		debug.SetMemoryLimit(limit)
	}
	effective := debug.SetMemoryLimit(-1) // asks
	if effective == math.MaxInt64 {
		log.Info("memory limit", "bytes", "none", "from", from)
		return
	}
	log.Info("memory limit", "bytes", effective, "from", from)
}

// memoryLimit is what to set, 0: nothing.
func memoryLimit(want Size, env string, root fs.FS) (limit int64, from string) {
	switch {
	case env != "":
		return 0, "GOMEMLIMIT"
	case want > 0:
		return int64(want), "memory-limit"
	}
	if allowed := cgroupMemory(root); allowed > 0 {
		return allowed / 10 * 9, "cgroup"
	}
	return 0, "nothing sets one"
}

// cgroupMemory is the least limit of this process' cgroup and of those around
// it, in bytes; 0 when there is none. Lines of /proc/self/cgroup are
// id:controllers:path, with no controllers for version 2.
func cgroupMemory(root fs.FS) int64 {
	lines, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	least := int64(0)
	for line := range strings.Lines(string(lines)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		if parts[1] != "" {
			if parts[1] != "memory" {
				continue
			}
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		for dir := path.Clean("/" + parts[2]); ; dir = path.Dir(dir) {
			if n := readBytes(root, path.Join(mount, dir, file)); n > 0 && (least == 0 || n < least) {
				least = n
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}

// unlimited: version 1 says "no limit" with a number near 2^63.
const unlimited = 1 << 60

func readBytes(root fs.FS, name string) int64 {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n >= unlimited { // version 2 says "max"
		return 0
	}
	return n
}
