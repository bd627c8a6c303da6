// Package cmdline is what the command lines of the project's programs share:
// running a kong grammar, the YAML file behind --config, version, secrets from
// files, signals, sizes in bytes.
//
// Settings come from flags, then from the file that --config names, then from
// defaults: never from environment variables, which every child process
// inherits.
package cmdline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"
)

// Exit codes of every program. A program may have more of its own, through
// [ExitError].
const (
	ExitOK     = 0
	ExitFailed = 1 // the work failed, or a check found something
	ExitUsage  = 2 // wrong flags or configuration; nothing was done
)

// ExitError is an error with the exit code that it asks for. With a nil Err,
// nothing is printed.
type ExitError struct {
	Code int
	Err  error
}

func (e ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap gives errors.Is and errors.As the error inside.
func (e ExitError) Unwrap() error { return e.Err }

// Usagef is an error of usage or configuration that a command finds only when
// it runs: exit code 2.
func Usagef(format string, args ...any) error {
	return ExitError{Code: ExitUsage, Err: fmt.Errorf(format, args...)}
}

// IO is where a program reads and writes.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// App is a program. The zero IO means the standard streams.
type App struct {
	Name        string
	Description string // shown above the commands by --help; may have paragraphs
	IO          IO
}

// Run parses args into cli, a pointer to a kong grammar, runs the command
// that they name and returns the exit code. A command's Run method may take a
// context.Context, an [IO], the [App], and whatever is in bind.
//
// Fields of the grammar are reset to their defaults before anything is parsed
// into them, except those that kong does not know (`kong:"-"`).
func (a App) Run(ctx context.Context, cli any, args []string, bind ...any) (code int) {
	a.IO = a.IO.OrStandard()
	defer recoverExit(&code)
	kctx, err := a.parse(cli, args)
	if err != nil {
		fmt.Fprintf(a.IO.Err, "%s: %v\n", a.Name, err)
		fmt.Fprintf(a.IO.Err, "Try: %s --help\n", commandOf(a.Name, err))
		return ExitUsage
	}
	kctx.BindTo(ctx, (*context.Context)(nil))
	kctx.Bind(a.IO, a)
	kctx.Bind(bind...)
	return a.exitCode(kctx.Run())
}

// Parse does all that Run does before it runs the command: for tests, such as
// one over every configuration file that the project ships.
func (a App) Parse(cli any, args []string) (err error) {
	a.IO = a.IO.OrStandard()
	code := -1
	defer func() {
		if code >= 0 && err == nil {
			err = errors.New("the arguments ask for help, not for a command")
		}
	}()
	defer recoverExit(&code)
	_, err = a.parse(cli, args)
	return err
}

func (a App) parse(cli any, args []string) (*kong.Context, error) {
	parser, err := kong.New(cli,
		kong.Name(a.Name), kong.Description(a.Description),
		kong.Writers(a.IO.Out, a.IO.Err),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.WithBeforeApply(applyConfig),
	)
	if err != nil {
		panic(fmt.Sprintf("cmdline: the grammar of %s: %v", a.Name, err))
	}
	return parser.Parse(args)
}

func (a App) exitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	var exit ExitError
	isExit := errors.As(err, &exit)
	if !isExit || exit.Err != nil {
		fmt.Fprintf(a.IO.Err, "%s: %v\n", a.Name, err)
	}
	if isExit {
		return exit.Code
	}
	return ExitFailed
}

// exited carries the exit code out of kong, which would end the process after
// --help.
type exited int

func recoverExit(code *int) {
	switch p := recover().(type) {
	case nil:
	case exited:
		*code = int(p)
	default:
		panic(p)
	}
}

// commandOf is the command line up to where parsing failed.
func commandOf(name string, err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			return node.FullPath()
		}
	}
	return name
}

// OrStandard has the process's own standard files where s has none.
func (s IO) OrStandard() IO {
	if s.In == nil {
		s.In = os.Stdin
	}
	if s.Out == nil {
		s.Out = os.Stdout
	}
	if s.Err == nil {
		s.Err = os.Stderr
	}
	return s
}
