//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// startBound starts a command on the given CPUs, or on those of this process;
// the kernel kills it when this process ends. It does so from a thread that
// lives as long as the command: its CPUs are inherited, and the signal comes when
// the thread that forked ends. done is closed after the end.
func startBound(c *exec.Cmd, cpus ...int) (done <-chan struct{}, err error) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		defer close(ended)
		var err error
		if len(cpus) > 0 {
			err = unix.SchedSetaffinity(0, set(cpus))
		}
		if err == nil {
			err = c.Start()
		}
		started <- err
		if err == nil {
			_ = c.Wait() // ProcessState says how it ended
		}
	}()
	return ended, <-started
}

func set(cpus []int) *unix.CPUSet {
	var s unix.CPUSet
	for _, n := range cpus {
		s.Set(n)
	}
	return &s
}

// affinity lists the CPUs that this process may use.
func affinity() (cpus []int, err error) {
	var s unix.CPUSet
	if err := unix.SchedGetaffinity(0, &s); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	for n := range 1024 {
		if s.IsSet(n) {
			cpus = append(cpus, n)
		}
	}
	return cpus, nil
}

// bind binds all threads of a process to CPUs; those that it starts later
// inherit them.
func bind(pid int, cpus ...int) error {
	for range 2 { // a thread that was started meanwhile is met the second time
		all, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		for _, t := range all {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(tid, set(cpus)); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("sched_setaffinity: %w", err)
			}
		}
	}
	return nil
}
