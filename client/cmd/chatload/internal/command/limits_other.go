//go:build !unix

package command

// ownCPU is not known here.
func ownCPU() float64 { return 0 }

// descriptors: without a limit that is known.
func descriptors() int { return 0 }
