//go:build night

package e2e

import "testing"

// TestTwoGigabytesInLittleMemory takes 6 GB of disk.
func TestTwoGigabytesInLittleMemory(t *testing.T) { backUpAndRestore(t, 2<<30) }
