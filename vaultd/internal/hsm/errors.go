package hsm

import (
	"errors"
	"fmt"
	"strings"
)

// What callers branch on. Everything that a Module returns is one of these,
// wrapped with the step that failed, or the error of the caller's context.
var (
	// ErrIntegrity: a wrapped key or sealed text is not what the module made,
	// stands under other associated data or another public key, or the module
	// computed wrongly. Trying again does not help.
	ErrIntegrity = errors.New("hsm: integrity check failed")

	// ErrPoint: the peer's point is not a P-256 point in the encoding that the
	// operation takes. The caller's input is bad; the module is well.
	ErrPoint = errors.New("hsm: not a valid point")

	// ErrUnavailable: the module cannot be reached now and recovering it
	// failed, or it was closed. A later call may succeed.
	ErrUnavailable = errors.New("hsm: unavailable")

	// ErrPIN: the token refused the PIN. It is not tried again by itself,
	// because tokens lock after a few wrong PINs.
	ErrPIN = errors.New("hsm: PIN refused")

	// ErrNoKey: the token lacks the key, or the key is not for this use.
	ErrNoKey = errors.New("hsm: no such key")

	// ErrUnfit: the module lacks something the vault cannot do without, or
	// does not protect keys as asked.
	ErrUnfit = errors.New("hsm: module unfit")

	// ErrExists: keys are to be created, but the token already holds some.
	ErrExists = errors.New("hsm: keys exist")
)

// ErrConfig: the module is named wrongly, cannot be loaded, or its PIN cannot
// be read.
var ErrConfig = errors.New("hsm: bad configuration")

// ExistsError is the ErrExists that says which keys the token holds.
type ExistsError struct {
	Present, Missing []Key
}

// Partial says that the token holds some keys of the hierarchy but not all.
func (e *ExistsError) Partial() bool { return len(e.Missing) > 0 }

// Error says what is there and what to do about it.
func (e *ExistsError) Error() string {
	if !e.Partial() {
		return fmt.Sprintf("%v: the token holds all %d keys already; serve with it, or name another token",
			ErrExists, len(e.Present))
	}
	return fmt.Sprintf("%v: the token holds some keys but not all (present: %s; missing: %s); "+
		"an earlier init stopped half-way, or another program uses these labels; "+
		"if no vault ever served with this token, initialise it again or destroy the keys present, "+
		"then create them; otherwise restore the missing ones from a copy of the token",
		ErrExists, join(e.Present), join(e.Missing))
}

// Unwrap makes errors.Is(err, ErrExists) true.
func (e *ExistsError) Unwrap() error { return ErrExists }

func join(keys []Key) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = string(k)
	}
	return strings.Join(names, " ")
}
