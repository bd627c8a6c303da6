//go:build linux

package main

import (
	"errors"
	"testing"

	"chatvault/client"
)

// told is a ledger after wrong passwords, some of them without a verdict.
func told(t *testing.T, wrong, vague int) *ledger {
	t.Helper()
	l := &ledger{}
	for range wrong {
		if err := l.refused(attempts - l.wrong - 1); err != nil {
			t.Fatal(err)
		}
	}
	for range vague {
		l.interrupted()
		l.gaveUp()
	}
	return l
}

func live(used int) client.Status {
	return client.Status{State: client.StateLive, AttemptsLeft: attempts - used, Failures: used}
}

// The soak is worth what its ledger finds: an attempt too many, one too few, a
// key that went too early or that came back.
func TestLedger(t *testing.T) {
	for _, c := range []struct {
		name         string
		wrong, vague int
		then         func(l *ledger) error
		good         bool
	}{
		{"as told", 3, 0, func(l *ledger) error { return l.status(live(3)) }, true},
		{"a charge that nobody was told of", 3, 0, func(l *ledger) error { return l.status(live(4)) }, false},
		{"a charge that was given back", 3, 0, func(l *ledger) error { return l.status(live(2)) }, false},
		{"no verdict, charged", 3, 1, func(l *ledger) error { return l.status(live(4)) }, true},
		{"no verdict, not charged", 3, 1, func(l *ledger) error { return l.status(live(3)) }, true},
		{"no verdict, charged twice", 3, 1, func(l *ledger) error { return l.status(live(5)) }, false},
		{"the next verdict is one too low", 3, 0, func(l *ledger) error { return l.refused(5) }, false},
		{"the next verdict did not count", 3, 0, func(l *ledger) error { return l.refused(7) }, false},
		{"the next verdict", 3, 0, func(l *ledger) error { return l.refused(6) }, true},
		{"an interrupted one is charged twice", 3, 0, func(l *ledger) error { l.interrupted(); return l.refused(5) }, false},
		{"opened", 3, 0, func(l *ledger) error { return l.opened(3, 10) }, true},
		{"opened, with a failure of somebody else", 3, 0, func(l *ledger) error { return l.opened(4, 10) }, false},
		{"opened, and nothing given back", 3, 0, func(l *ledger) error { return l.opened(3, 7) }, false},
		{"opened, and forgotten", 3, 0, func(l *ledger) error { return l.opened(0, 10) }, false},
		{"opened twice, the first reply lost", 3, 0, func(l *ledger) error { l.interrupted(); return l.opened(0, 10) }, true},
		{"opened, charged for the interruption", 3, 0, func(l *ledger) error { l.interrupted(); return l.opened(4, 10) }, false},
		{"destroyed by ten", 10, 0, func(l *ledger) error { return l.gone() }, true},
		{"destroyed by nine", 9, 0, func(l *ledger) error { return l.gone() }, false},
		{"destroyed, perhaps by ten", 9, 1, func(l *ledger) error { return l.gone() }, true},
		{"gone without a word", 3, 0, func(l *ledger) error { return l.status(client.Status{State: client.StateDestroyed}) }, false},
		{"never there", 0, 0, func(l *ledger) error { return l.status(client.Status{State: client.StateNone}) }, false},
		{"back from the dead", 10, 0, func(l *ledger) error { l.destroyed = true; return l.status(live(0)) }, false},
	} {
		err := c.then(told(t, c.wrong, c.vague))
		if (err == nil) != c.good || err != nil && !errors.Is(err, errLedger) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A success begins a new count.
func TestLedgerBeginsAnew(t *testing.T) {
	l := told(t, 4, 1)
	if err := l.opened(5, attempts); err != nil {
		t.Fatal(err)
	}
	if err := l.refused(attempts - 1); err != nil {
		t.Error(err)
	}
	if err := l.status(live(5)); !errors.Is(err, errLedger) {
		t.Errorf("the old count again: %v", err)
	}
}
