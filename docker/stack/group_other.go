//go:build !linux

package stack

import (
	"os"
	"syscall"
)

// ownGroup does nothing: there is no parent-death signal here, and a stack
// whose owner is killed has to be ended by hand.
func ownGroup() *syscall.SysProcAttr { return nil }

func killGroup(p *os.Process) { _ = p.Kill() }
