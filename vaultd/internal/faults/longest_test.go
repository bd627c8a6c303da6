package faults

import (
	"os"
	"time"
)

// night makes runs of many seeds, which take longer than anybody waits for.
var night = os.Getenv("CHATVAULT_FAULTS") == "night"

// longest is how long all tests of this package may take together.
var longest = map[bool]time.Duration{false: 9*time.Minute + 30*time.Second, true: time.Hour}[night]

// seedsOf is how many seeds a schedule is run with.
func seedsOf(usual, atNight uint64) uint64 {
	if night {
		return atNight
	}
	return usual
}
