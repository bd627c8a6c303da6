package stack

import (
	"os"
	"syscall"
)

// ownGroup starts a process in a group of its own: a Ctrl-C at the terminal
// reaches whoever runs the stack, which then ends it in order. Should that one
// die, the kernel kills the process.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup kills a process started with ownGroup, and its children. That it
// has ended already is no error.
func killGroup(p *os.Process) { _ = syscall.Kill(-p.Pid, syscall.SIGKILL) }
