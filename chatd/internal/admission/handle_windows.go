package admission

import "syscall"

// handle is what package syscall knows a socket by.
type handle = syscall.Handle
