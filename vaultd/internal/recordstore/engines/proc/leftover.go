package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// running is every process of this package that has not ended.
var running = table{processes: make(map[*Process]struct{})}

type table struct {
	mu        sync.Mutex // guards processes
	processes map[*Process]struct{}
}

func (t *table) add(p *Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.processes[p] = struct{}{}
}

func (t *table) remove(p *Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.processes, p)
}

// KillAll tells what every running process and its threads do, and kills it: for a
// watchdog. It waits for none.
func KillAll(w io.Writer) {
	running.mu.Lock()
	defer running.mu.Unlock()
	for p := range running.processes {
		fmt.Fprintf(w, "%s, process %d:\n", p.name, p.PID())
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.PID()))
		for _, task := range tasks {
			var told []string
			for _, file := range []string{"stat", "wchan", "syscall", "stack"} {
				b, _ := os.ReadFile(filepath.Join(task, file)) // a thread may be gone, or not ours to look into
				told = append(told, strings.TrimSpace(string(b)))
			}
			fmt.Fprintf(w, "\t%s\n", strings.Join(told, " | "))
		}
		fmt.Fprintf(w, "\tit said: %s\n", p.Log())
		p.Signal(syscall.SIGKILL)
	}
}

// tempPrefix begins the names of the directories of TempDir.
const tempPrefix = "vaultd-"

var tempName = regexp.MustCompile(`^` + tempPrefix + `[a-z]+-([0-9]+)-`)

// TempDir makes a directory for an engine. It bears the id of this process, so that
// a later one can tell whether it is still in use.
func TempDir(engine string) (string, error) {
	return os.MkdirTemp("", fmt.Sprintf("%s%s-%d-", tempPrefix, engine, os.Getpid()))
}

// RemoveLeftovers removes the directories of TempDir whose process is dead, and kills
// what still works in one of them.
func RemoveLeftovers() error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*"))
	if err != nil {
		return err
	}
	var failed []error
	for _, dir := range dirs {
		m := tempName.FindStringSubmatch(filepath.Base(dir))
		if m == nil {
			continue
		}
		if pid, err := strconv.Atoi(m[1]); err != nil || Alive(pid) {
			continue
		}
		failed = append(failed, killIn(dir), os.RemoveAll(dir))
	}
	return errors.Join(failed...)
}

// Alive says whether there is a process of that id.
func Alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// killIn kills every process whose working directory is in dir: PostgreSQL's
// sessions, which outlive their server when they are stopped.
func killIn(dir string) error {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return err
	}
	for _, link := range links {
		cwd, err := os.Readlink(link)
		if err != nil || cwd != dir && !strings.HasPrefix(cwd, dir+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}
