package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"chatvault/client/cmd/backupctl/internal/report"
	"chatvault/protocol/cmdline"
)

// result is what a command brings back: fields for --json, text for people.
type result interface {
	Base() *report.Outcome
	// text writes what a person asked for, to standard output.
	text(w io.Writer)
}

// done prints how a command ended, once, and turns it into the exit code.
func (s *session) done(r result, err error) error {
	s.reported = true
	if err == nil {
		return s.succeeded(r)
	}
	o := report.Explain(err)
	o.Warnings = s.warnings
	if s.JSON {
		s.print(o)
	}
	return cmdline.ExitError{Code: o.Exit, Err: errors.New(o.Text())}
}

func (s *session) succeeded(r result) error {
	base := r.Base()
	ok := report.Explain(nil)
	base.Code, base.Warnings = ok.Code, s.warnings
	if s.JSON {
		return s.print(r)
	}
	r.text(s.io.Out)
	return nil
}

// print writes the one JSON object.
func (s *session) print(v any) error {
	enc := json.NewEncoder(s.io.Out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// warn tells the person something that is no failure.
func (s *session) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.warnings = append(s.warnings, text)
	fmt.Fprintf(s.io.Err, "%s: warning: %s\n", name, text)
}

// remark tells what comes next; --quiet and --json leave it out.
func (s *session) remark(format string, args ...any) {
	if !s.Quiet && !s.JSON {
		fmt.Fprintf(s.io.Err, format+"\n", args...)
	}
}

// isTerminal says whether a person looks at the stream.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// stopped is the context's end as an error of the command.
func stopped(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("stopped: %w: %w", context.Canceled, context.Cause(ctx))
}

// failure is an error of this program, with its code and advice.
func failure(exit int, code, next, format string, args ...any) error {
	return &report.Failure{Exit: exit, Code: code, Next: next, Err: fmt.Errorf(format, args...)}
}
