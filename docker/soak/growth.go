//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"chatvault/docker/stack"
)

// state is what a daemon holds at a moment when it should hold nothing.
type state struct {
	pid         int
	sockets     int   // descriptors but those to Redis, whose pool has a bound of its own
	memory      int64 // resident, bytes
	heap        int64 // live after a garbage collection, bytes
	goroutines  int
	sessions    int // vault sessions
	connections int // of clients; 0 of a vault
}

func (s state) String() string {
	return fmt.Sprintf("%d descriptors, %.1f MiB, heap %.2f MiB, %d goroutines, %d sessions, %d connections",
		s.sockets, float64(s.memory)/(1<<20), float64(s.heap)/(1<<20), s.goroutines, s.sessions, s.connections)
}

// What may be there more than at first: caches that fill, a connection that is
// being replaced. A leak of one goroutine or descriptor per operation, session
// or fault is far beyond it.
const (
	moreGoroutines = 6
	moreSockets    = 6
	moreHeap       = 1 << 20
	moreMemory     = 48 << 20
)

// grown says what grew between two settled moments of one process.
func grown(name string, before, after state) (out []error) {
	for _, c := range []struct {
		what         string
		was, is, may int64
	}{
		{"goroutines", int64(before.goroutines), int64(after.goroutines), moreGoroutines},
		{"descriptors", int64(before.sockets), int64(after.sockets), moreSockets},
		{"bytes of live heap", before.heap, after.heap, moreHeap + before.heap/4},
		{"bytes of memory", before.memory, after.memory, moreMemory},
	} {
		if c.is > c.was+c.may {
			out = append(out, fmt.Errorf("%s grew from %d to %d %s", name, c.was, c.is, c.what))
		}
	}
	return out
}

// fromOutside reads what the system knows of a process.
func fromOutside(pid int) (s state, err error) {
	s.pid = pid
	if s.sockets, err = descriptors(s.pid); err != nil {
		return s, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.pid))
	if err != nil {
		return s, err
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return s, fmt.Errorf("/proc/%d/statm: %q", s.pid, b)
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	s.memory = pages * int64(os.Getpagesize())
	return s, err
}

// descriptors counts a process's, but for Unix sockets.
func descriptors(pid int) (int, error) {
	local, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", pid))
	if err != nil {
		return 0, err
	}
	inodes := map[string]bool{}
	for line := range strings.Lines(string(local)) {
		if f := strings.Fields(line); len(f) >= 7 {
			inodes["socket:["+f[6]+"]"] = true
		}
	}
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	n := 0
	for _, fd := range all {
		if to, err := os.Readlink(fd); err == nil && !inodes[to] {
			n++
		}
	}
	return n, err
}

// ask gets a page of a daemon's admin listener, on a connection of its own.
func ask(ctx context.Context, d *stack.Daemon, path string) ([]byte, error) {
	at, err := d.Admin()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+path, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: HTTP status %d", path, resp.StatusCode)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 16<<20))
}

// lookAt reads a daemon's state, after a garbage collection of its own.
func lookAt(ctx context.Context, d *stack.Daemon) (state, error) {
	heap, err := ask(ctx, d, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return state{}, err
	}
	page, err := ask(ctx, d, "/metrics")
	if err != nil {
		return state{}, err
	}
	s, err := fromOutside(d.PID())
	if err != nil {
		return s, err
	}
	s.heap = int64(number(heap, "# HeapAlloc = "))
	s.goroutines = int(number(page, "go_goroutines "))
	if d.Name == "vaultd" {
		s.sessions = int(number(page, "vaultd_sessions "))
	} else {
		s.sessions = int(number(page, "chatd_vault_sessions "))
		s.connections = int(number(page, `chatd_connections{state="active"} `) + number(page, `chatd_connections{state="parked"} `))
	}
	if s.heap < 0 || s.goroutines < 0 || s.sessions < 0 || s.connections < 0 {
		return s, fmt.Errorf("%s does not say what it holds: %v", d.Name, s)
	}
	return s, nil
}

// number is what follows a prefix of a line, -1 when no line has it.
func number(page []byte, prefix string) float64 {
	for lines := bufio.NewScanner(bytes.NewReader(page)); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), prefix); ok {
			if v, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil {
				return v
			}
		}
	}
	return -1
}

// settled waits until nobody is connected and nothing is in flight, for at most
// a while, and returns the states of relays and vaults then.
func (s *site) settled(ctx context.Context) (all [4]state, err error) {
	for deadline := time.Now().Add(6 * sessionIdle); ; pause(ctx, 500*time.Millisecond) {
		if all, err = s.look(ctx); err != nil {
			return all, err
		}
		again, err := s.look(ctx)
		still := true
		for i := range all {
			still = still && err == nil && again[i].sessions == 0 && again[i].connections == 0 &&
				again[i].sockets == all[i].sockets && again[i].goroutines <= all[i].goroutines
		}
		if all = again; still || time.Now().After(deadline) || ctx.Err() != nil {
			return all, err
		}
	}
}

func (s *site) look(ctx context.Context) (all [4]state, err error) {
	for i := range 2 {
		if all[i], err = lookAt(ctx, s.relays[i]); err != nil {
			return all, err
		}
		if all[2+i], err = lookAt(ctx, s.vaults[i]); err != nil {
			return all, err
		}
	}
	return all, nil
}

// names of what settled returns.
var names = [4]string{"chatd-1", "chatd-2", "vaultd-1", "vaultd-2"}
