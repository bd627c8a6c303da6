// Command demo tells the whole story of chatvault on real parts and real files,
// or, with -dev, keeps the same stack running to play with.
//
// It needs chatd, vaultd and backupctl beside it, as "make build" puts them.
// Everything that it makes is in one temporary folder, which it removes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"chatvault/docker/stack"
)

func main() {
	dev := flag.Bool("dev", false, "keep the stack running until Ctrl-C, with a ticket and commands to try")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, *dev); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
}

// run does it all in a folder that it removes, whatever happens.
func run(ctx context.Context, dev bool) error {
	began := time.Now()
	dir, err := os.MkdirTemp("", "chatvault-demo-")
	if err != nil {
		return err
	}
	pids, err := runIn(ctx, dir, dev)
	if err := errors.Join(err, removeAll(dir)); err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d is still there: %v", pid, err)
		}
	}
	if dev {
		fmt.Printf("\nEverything has ended, %s is removed.\n", dir)
		return nil
	}
	fmt.Printf("\nEvery step did what it says, in %.0f seconds. Nothing is left running, %s is removed.\n",
		time.Since(began).Seconds(), dir)
	return nil
}

// runIn starts the stack in dir, tells the story or plays, and ends the stack.
// It returns the processes that must be gone now.
func runIn(ctx context.Context, dir string, dev bool) (pids []int, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	servers := filepath.Join(dir, "servers")
	if err := os.Mkdir(servers, 0o700); err != nil {
		return nil, err
	}
	fmt.Printf("Starting vaultd on a new SoftHSM token and chatd, in %s\n", dir)
	s, err := stack.Start(ctx, stack.Options{Dir: servers, BinDir: filepath.Dir(self)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	fmt.Printf("  vaultd  %s  SoftHSM, Pebble; process %d\n  chatd   %s  embedded Redis; process %d\n",
		s.VaultAddr(), s.Vault.PID(), s.ChatdAddr(), s.Chatd.PID())
	w := &world{dir: dir, stack: s, out: os.Stdout}
	if dev {
		err = play(ctx, w)
	} else {
		err = tell(ctx, w)
	}
	if err != nil {
		return nil, err
	}
	pids = []int{s.Vault.PID(), s.Chatd.PID()}
	if err := s.Stop(context.WithoutCancel(ctx)); err != nil {
		return nil, fmt.Errorf("ending the stack: %w", err)
	}
	return pids, nil
}

// removeAll removes a tree in which folders may not be writable.
func removeAll(dir string) error {
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
