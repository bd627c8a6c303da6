// Package ask asks the person at the terminal. It talks to the controlling
// terminal, not to standard input and output, which may be a backup.
package ask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"chatvault/protocol/secret"
)

// ErrNoTerminal: nobody can be asked, or --no-input forbids it.
var ErrNoTerminal = errors.New("there is no terminal to ask at")

// maxLine is the longest line that a person may type, in bytes.
const maxLine = 4096

// Asker asks. The zero value may.
type Asker struct {
	NoInput bool // every question fails with ErrNoTerminal
}

// Hidden asks for a line that is not shown. An empty one is returned as such.
func (a Asker) Hidden(ctx context.Context, prompt string) (secret.Bytes, error) {
	return a.ask(ctx, prompt, func(in *os.File, out io.Writer) (secret.Bytes, error) {
		line, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(out)
		return line, err
	})
}

// Shown asks for a line that is shown while it is typed.
func (a Asker) Shown(ctx context.Context, prompt string) (secret.Bytes, error) {
	return a.ask(ctx, prompt, func(in *os.File, _ io.Writer) (secret.Bytes, error) {
		return readLine(in)
	})
}

// Can says whether anybody could be asked.
func (a Asker) Can() bool {
	if a.NoInput {
		return false
	}
	in, _, closeAll, err := openTerminal()
	if err != nil {
		return false
	}
	defer closeAll()
	return term.IsTerminal(int(in.Fd()))
}

func (a Asker) ask(ctx context.Context, prompt string, read func(*os.File, io.Writer) (secret.Bytes, error)) (secret.Bytes, error) {
	if a.NoInput {
		return nil, ErrNoTerminal
	}
	in, out, closeAll, err := openTerminal()
	if err != nil {
		return nil, ErrNoTerminal
	}
	fd := int(in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		closeAll()
		return nil, ErrNoTerminal
	}
	type answer struct {
		line secret.Bytes
		err  error
	}
	answered := make(chan answer, 1)
	if _, err := io.WriteString(out, prompt); err != nil {
		closeAll()
		return nil, ErrNoTerminal
	}
	go func() {
		line, err := read(in, out)
		answered <- answer{line, err}
	}()
	select {
	case a := <-answered:
		closeAll()
		if a.err != nil {
			return nil, fmt.Errorf("reading from the terminal: %w", a.err)
		}
		return a.line, nil
	case <-ctx.Done():
		// The read cannot be called back: the process is about to end, and the
		// terminal must echo again.
		term.Restore(fd, before)
		fmt.Fprintln(out)
		return nil, fmt.Errorf("stopped: %w: %w", ctx.Err(), context.Cause(ctx))
	}
}

// readLine reads byte by byte, so that what is typed ahead stays for the next
// question.
func readLine(r io.Reader) (secret.Bytes, error) {
	line := make(secret.Bytes, 0, maxLine)
	var one [1]byte
	for {
		n, err := r.Read(one[:])
		if n == 1 {
			switch {
			case one[0] == '\n':
				return line, nil
			case one[0] == '\r':
			case len(line) == maxLine:
				return nil, fmt.Errorf("line is longer than %d bytes", maxLine)
			default:
				line = append(line, one[0])
			}
		}
		if err == io.EOF && len(line) > 0 {
			return line, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
