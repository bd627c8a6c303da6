package pgstore

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestRefused(t *testing.T) {
	tests := []struct {
		severity, code string
		want           bool
	}{
		{"ERROR", "40001", true},
		{"ERROR", "53100", true},
		{"ERROR", "25006", true},
		{"ERROR", "57014", true},
		{"ERROR", "23514", true},
		{"ERROR", "42501", true},
		{"ERROR", "40003", false}, // completion unknown
		{"ERROR", "XX000", false},
		{"ERROR", "58030", false},
		{"ERROR", "", false},
		{"FATAL", "57P01", false},
		{"FATAL", "53100", false},
		{"PANIC", "53100", false},
		{"", "40001", false},
	}
	for _, c := range tests {
		err := fmt.Errorf("step: %w", &pgconn.PgError{SeverityUnlocalized: c.severity, Code: c.code})
		if got := refused(err); got != c.want {
			t.Errorf("refused(%s %s) = %t", c.severity, c.code, got)
		}
	}
	for _, err := range []error{nil, io.ErrUnexpectedEOF, errors.New("x")} {
		if refused(err) {
			t.Errorf("refused(%v)", err)
		}
	}
}

func TestNoticesOfAnyKindButTheHarmlessAreKept(t *testing.T) {
	for severity, kept := range map[string]bool{
		"NOTICE": false, "INFO": false, "LOG": false, "DEBUG": false,
		"WARNING": true, "ERROR": true, "": true, "AVERTISSEMENT": true,
	} {
		var c connState
		c.notice(nil, &pgconn.Notice{SeverityUnlocalized: severity, Code: "01000", Message: "canceling wait"})
		if got := c.warned() != nil; got != kept {
			t.Errorf("%q kept: %t", severity, got)
		}
		c.expectNothing()
		if c.warned() != nil {
			t.Errorf("%q: not forgotten", severity)
		}
	}
}
