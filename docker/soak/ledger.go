//go:build linux

package main

import (
	"errors"
	"fmt"

	"chatvault/client"
)

// ledger is what one person knows of the attempts on a key: each password that
// was typed since the last success, and what the vault said to it. The vault's
// word is held against it; a difference is an attempt that was charged and not
// told, or told and not charged.
type ledger struct {
	// wrong passwords have a verdict. vague ones were typed and never got one:
	// each may have been charged, once.
	wrong, vague int
	// shaky: the attempt under way was interrupted at least once.
	shaky     bool
	destroyed bool
}

// attempts is how many wrong passwords destroy a key.
const attempts = 10

// errLedger says that vault and person do not agree.
var errLedger = errors.New("the vault's count is not the person's")

func disagree(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errLedger, fmt.Sprintf(format, args...))
}

// refused notes the verdict on a wrong password, with the attempts left.
func (l *ledger) refused(left int) error {
	l.wrong++
	l.shaky = false
	if most, least := attempts-l.wrong, max(attempts-l.wrong-l.vague, 0); left > most || left < least {
		return disagree("%d left, after %d wrong passwords and %d without a verdict", left, l.wrong, l.vague)
	}
	return nil
}

// interrupted notes a try that brought no verdict; the same password is to be
// typed again on the same phone.
func (l *ledger) interrupted() { l.shaky = true }

// gaveUp notes a password that never got its verdict.
func (l *ledger) gaveUp() {
	l.shaky = false
	l.vague++
}

// opened notes a success, which gives all attempts back, and what the vault
// says about the attempts before it. When the success was interrupted, an
// earlier one may have been stored whose reply was lost: the count is then
// since that one.
func (l *ledger) opened(failures, left int) error {
	most, least := l.wrong+l.vague, l.wrong
	if l.shaky {
		least = 0
	}
	if failures > most || failures < least || left != attempts {
		return disagree("%d failures before, %d left, after %d wrong passwords and %d without a verdict", failures, left, l.wrong, l.vague)
	}
	*l = ledger{}
	return nil
}

// gone notes that the vault says that the key is destroyed, or locked.
func (l *ledger) gone() error {
	l.destroyed = true
	if l.wrong+l.vague < attempts {
		return disagree("destroyed after %d wrong passwords and %d without a verdict", l.wrong, l.vague)
	}
	return nil
}

// status holds a status against the ledger.
func (l *ledger) status(s client.Status) error {
	if l.destroyed {
		if s.State != client.StateDestroyed && s.AttemptsLeft > 0 {
			return disagree("a destroyed key is %v again, %d attempts left", s.State, s.AttemptsLeft)
		}
		return nil
	}
	if s.State != client.StateLive {
		return disagree("the key is %v, after %d wrong passwords and %d without a verdict", s.State, l.wrong, l.vague)
	}
	used := attempts - s.AttemptsLeft
	if used != s.Failures || used < l.wrong || used > l.wrong+l.vague {
		return disagree("%d failures and %d left, after %d wrong passwords and %d without a verdict", s.Failures, s.AttemptsLeft, l.wrong, l.vague)
	}
	return nil
}
