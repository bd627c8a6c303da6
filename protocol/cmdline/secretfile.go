package cmdline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"chatvault/protocol/secret"
)

// MaxSecret is the size of the largest secret file, in bytes.
const MaxSecret = 4 << 10

// ErrSecretFile is wrapped by every refusal of ReadSecretFile that is not the
// operating system's.
var ErrSecretFile = errors.New("not usable as a secret file")

// ReadSecretFile reads a PIN or password from a file of at most [MaxSecret]
// bytes and cuts one line end (LF or CRLF) off its end. It accepts regular
// files and named pipes, so that a shell's <(command) works; "-" is a file of
// that name, not standard input.
//
// A file that its group or others may read, write or execute is refused,
// whoever owns it: there is no exception for root's 0440, because then the
// rule could not be stated in one line. Windows has no such mode bits; there
// the check is left out.
func ReadSecretFile(path string) (secret.Bytes, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// The open file is asked, not the path: that could have been exchanged.
	if err := checkSecretMode(path, info.Mode()); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxSecret+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxSecret {
		clear(b)
		return nil, fmt.Errorf("%s: %w: larger than %d bytes", path, ErrSecretFile, MaxSecret)
	}
	if line, ok := bytes.CutSuffix(b, []byte("\n")); ok {
		b, _ = bytes.CutSuffix(line, []byte("\r"))
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("%s: %w: empty", path, ErrSecretFile)
	}
	return b, nil
}

func checkSecretMode(path string, mode fs.FileMode) error {
	if !mode.IsRegular() && mode.Type() != fs.ModeNamedPipe {
		return fmt.Errorf("%s: %w: neither a regular file nor a pipe", path, ErrSecretFile)
	}
	if runtime.GOOS != "windows" && mode.Perm()&0o077 != 0 {
		return fmt.Errorf("%s: %w: mode %04o lets others in; run: chmod 600 %s", path, ErrSecretFile, mode.Perm(), path)
	}
	return nil
}
