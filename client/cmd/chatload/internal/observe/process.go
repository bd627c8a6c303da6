package observe

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticksPerSecond is USER_HZ, 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// process reads what /proc says of a process (proc_pid_stat(5)): fields 14 and
// 15 are the CPU, 24 the pages in memory.
func process(pid int) (s sample, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	// The second field is the program's name in brackets, and may hold any.
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	fields := strings.Fields(rest)
	number := func(field int) (n int64) {
		if i := field - 3; i < len(fields) {
			n, err = strconv.ParseInt(fields[i], 10, 64)
		} else {
			err = fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
		}
		return n
	}
	for _, field := range []int{14, 15} {
		s.cpu += float64(number(field)) / ticksPerSecond
		if err != nil {
			return s, err
		}
	}
	s.rss = number(24) * int64(os.Getpagesize())
	if fds, e := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); e == nil { // another user's stay unknown
		s.descriptors = int64(len(fds))
	}
	return s, err
}

// Idle is how much CPU time this machine had and spent idle since it started,
// in seconds, all CPUs together (proc_stat(5)). ok is false where it is not known.
func Idle() (idle, total float64, ok bool) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, false
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, false
	}
	for i, f := range fields[1:9] { // guest time is in user time already
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, 0, false
		}
		total += n / ticksPerSecond
		if i == 3 || i == 4 { // idle, and waiting for a disk
			idle += n / ticksPerSecond
		}
	}
	return idle, total, true
}
