// Package report says how a command ended: the exit code, the one JSON object,
// and what a person should do next.
package report

import (
	"strings"
	"time"
)

// Exit codes of backupctl.
const (
	OK            = 0
	Failed        = 1
	Usage         = 2
	NotAuthorised = 3
	WrongPassword = 4
	Destroyed     = 5
	RateLimited   = 6 // also paced
	Corrupt       = 7
	Unreachable   = 8
	WrongKey      = 9
	NotRegistered = 10
	Pending       = 11
)

// Outcome is what --json prints of every command; a command's own fields stand
// beside these. It never holds a secret.
type Outcome struct {
	// Code is the word of the wire's table (protocol/frame), or one of this
	// program's.
	Code string `json:"code"`
	// Exit is the exit code.
	Exit int `json:"exit"`
	// AttemptCharged: the vault charged an attempt and has not given it back.
	AttemptCharged bool `json:"attempt_charged"`
	// AttemptsLeft is the vault's number, null when it said none.
	AttemptsLeft *int `json:"attempts_left"`
	// RetryAfterMS is how long to wait, 0 when nobody said.
	RetryAfterMS int64 `json:"retry_after_ms"`
	// PendingUntil is when a pending or slowed down operation may be tried
	// again; null when that is not the outcome.
	PendingUntil *time.Time `json:"pending_until"`

	// Error and Next are for people: what went wrong, and what to do.
	Error string `json:"error,omitempty"`
	Next  string `json:"next,omitempty"`
	// Warnings were shown too.
	Warnings []string `json:"warnings,omitempty"`

	// Offset and Part say where a backup is corrupt: byte of the file, from 0.
	Offset *int64  `json:"offset,omitempty"`
	Part   *uint32 `json:"part,omitempty"`
	// Entry is the number of the archive entry that is not safe to restore.
	Entry *int64 `json:"entry,omitempty"`
	// Limit is the relay's name of the limit that was hit.
	Limit string `json:"limit,omitempty"`
	// Story is what does not fit, as --accept takes it.
	Story string `json:"story,omitempty"`
}

// Base returns the outcome itself: results embed it.
func (o *Outcome) Base() *Outcome { return o }

// Text is the message for standard error: what, then what next.
func (o *Outcome) Text() string {
	if o.Next == "" {
		return o.Error
	}
	return o.Error + "\n  " + strings.ReplaceAll(o.Next, "\n", "\n  ")
}

// Failure is an error of this program's own.
type Failure struct {
	Exit int
	Code string
	Err  error
	Next string // what to do; may be empty
}

func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }
