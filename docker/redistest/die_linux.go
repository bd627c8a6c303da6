package redistest

import (
	"os/exec"
	"runtime"
	"syscall"
)

// dieWithParent has the kernel kill a child with the test that started it,
// whatever ended the test.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// start starts a command from the one thread that lives as long as the test:
// the kernel kills the child when the thread that forked it ends.
func start(cmd *exec.Cmd) error {
	done := make(chan error)
	starts <- func() { done <- cmd.Start() }
	return <-done
}

var starts = make(chan func())

func init() {
	go func() {
		runtime.LockOSThread()
		for f := range starts {
			f()
		}
	}()
}
