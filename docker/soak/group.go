//go:build linux

package main

import (
	"os/exec"
	"runtime"
	"syscall"
)

// startBound starts a command that the kernel kills when this process ends. It
// does so from a thread that lives as long as the command: the signal comes
// when the thread that forked ends. done is closed after the end.
func startBound(c *exec.Cmd) (done <-chan struct{}, err error) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(ended)
		err := c.Start()
		started <- err
		if err == nil {
			_ = c.Wait() // ProcessState says how it ended
		}
	}()
	return ended, <-started
}
