package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"chatvault/vaultd/internal/recordstore/engines/proc"
)

// User is whom servers run as: the owner of a directory for Options.Dir.
func User() (uid, gid uint32, err error) {
	cred, err := serverUser()
	if err != nil {
		return 0, 0, err
	}
	if cred == nil {
		return uint32(os.Getuid()), uint32(os.Getgid()), nil
	}
	return cred.Uid, cred.Gid, nil
}

// Reach lets everybody pass through a temporary directory's parents, up to the
// system's own.
func Reach(dir string) error {
	for dir != os.TempDir() && dir != filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			return err
		}
		dir = filepath.Dir(dir)
	}
	return nil
}

// fenceLimit is how long the sessions of a server may take to die of signal 9.
const fenceLimit = 10 * time.Second

// Copy fills the empty data directory of a server that does not run with a copy of
// another, which it follows once it is started. The copy is not synced.
func (s *Server) Copy(from *Server) error {
	return s.tool("pg_basebackup", "-D", s.data, "-R", "-X", "stream", "-c", "fast", "--no-sync",
		"-h", from.dir, "-p", strconv.Itoa(from.port), "-U", "postgres")
}

// Follow has a running standby follow another primary from now on.
func (s *Server) Follow(ctx context.Context, primary *Server) error {
	return s.Set(ctx, "primary_conninfo", fmt.Sprintf("user=postgres host=%s port=%d", primary.dir, primary.port))
}

// Received is how much of its primary's log a standby has on its disk, in bytes
// since the beginning: what decides who may be promoted.
func (s *Server) Received(ctx context.Context) (bytes int64, err error) {
	// After a restart the position received is not known until the primary is back,
	// but all that is there was replayed.
	err = s.Ask(ctx, "SELECT (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::bigint", &bytes)
	return bytes, err
}

// Fence kills the server and all its sessions with signal 9 and returns when none is
// left: nobody is told any more that something was committed.
func (s *Server) Fence() error {
	// Stopped, it starts no more of them.
	if err := s.proc.Signal(syscall.SIGSTOP); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	children, err := s.children()
	if err != nil {
		return err
	}
	for _, pid := range children {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	if err := s.Kill(); err != nil {
		return err
	}
	deadline := time.Now().Add(fenceLimit)
	for _, pid := range children {
		for !dead(pid) {
			if time.Now().After(deadline) {
				return fmt.Errorf("process %d of PostgreSQL does not die", pid)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}

// dead says whether a process does nothing more; who should reap it may be slow.
func dead(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !proc.Alive(pid)
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(state, "Z")
}
