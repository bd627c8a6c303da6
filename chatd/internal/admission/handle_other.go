//go:build !windows

package admission

// handle is what package syscall knows a socket by.
type handle = int
