//go:build fault

package faults

import (
	"fmt"
	"testing"
	"time"
)

// convictLimit is how long the checker may take for one account of something broken;
// others are as guilty.
const convictLimit = 2 * time.Second

// caughtWithin is how long it may take to catch something broken.
const caughtWithin = 90 * time.Second

// convict runs a trial of something broken, which has to be caught: by the checker,
// or (mayDie) because it never works again.
func (x *trial) convict(t *testing.T, mayDie bool) {
	t.Helper()
	began := time.Now()
	dead := x.run(t)
	if dead != nil && !mayDie {
		x.report(t, "FAILED")
		t.Fatal(dead)
	}
	x.guilty, _ = x.h.check(convictLimit)
	if x.guilty == 0 && dead == nil {
		x.report(t, "NOT CAUGHT")
		t.Fatalf("not caught in %s", x.h)
	}
	if took := time.Since(began); took > caughtWithin {
		t.Errorf("caught after %s, %s is the limit", took, caughtWithin)
	}
	verdict := fmt.Sprintf("broken, caught on %d accounts within %s", x.guilty, time.Since(began).Round(time.Second/10))
	if dead != nil {
		verdict += ", and does not serve any more"
	}
	x.report(t, verdict)
}
