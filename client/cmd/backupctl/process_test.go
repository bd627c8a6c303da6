//go:build unix

package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// process is the program, running.
type process struct {
	*exec.Cmd
	t      *testing.T
	stderr bytes.Buffer
}

// program prepares the program; testscript.Main has put it into PATH.
func program(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := &process{t: t, Cmd: exec.CommandContext(t.Context(), "backupctl", append(args, "--state", filepath.Join(dir, "state"), "--no-input")...)}
	p.Dir, p.Stderr = dir, &p.stderr
	return p
}

// ends waits for the exit code; -1 is a signal.
func (p *process) ends(want int) {
	p.t.Helper()
	err := p.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	if got := p.ProcessState.ExitCode(); got != want {
		p.t.Fatalf("%q: exit code %d, want %d\n%s", p.Args, got, want, p.stderr.String())
	}
}

func (p *process) start() {
	p.t.Helper()
	if err := p.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// halfway starts a backup of standard input and returns when it has read more
// than a pipe holds, so that it is at work.
func halfway(t *testing.T, dir, target string) *process {
	t.Helper()
	p := program(t, dir, "backup", "-", target, "--force")
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.start()
	if _, err := in.Write(make([]byte, 8<<20)); err != nil {
		t.Fatal(err)
	}
	return p
}

func partials(t *testing.T, dir string) int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, ".*.partial-*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestSignalsLeaveNothingBehind(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		dir := t.TempDir()
		p := halfway(t, dir, "x.cvb")
		if err := p.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		p.ends(1)
		if _, err := os.Lstat(filepath.Join(dir, "x.cvb")); err == nil || partials(t, dir) != 0 {
			t.Errorf("%v left a file behind", signal)
		}
		if !strings.Contains(p.stderr.String(), "received "+signal.String()) {
			t.Errorf("%v: %s", signal, p.stderr.String())
		}
	}
}

// What kill -9 leaves has another name, does not verify, and is gone after the
// next backup; the backup from before is still there.
func TestKilledBackup(t *testing.T) {
	dir := t.TempDir()
	before := program(t, dir, "backup", "-", "x.cvb")
	before.Stdin = strings.NewReader("the one before")
	before.start()
	before.ends(0)

	p := halfway(t, dir, "x.cvb")
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.ends(-1)
	if partials(t, dir) != 1 {
		t.Fatalf("%d partial files; the test looks for the wrong name", partials(t, dir))
	}
	names, _ := filepath.Glob(filepath.Join(dir, ".*.partial-*"))
	for name, want := range map[string]int{names[0]: 7, "x.cvb": 0} {
		verify := program(t, dir, "verify", name)
		verify.start()
		verify.ends(want)
	}
	again := program(t, dir, "backup", "-", "x.cvb", "--force")
	again.start()
	again.ends(0)
	if partials(t, dir) != 0 {
		t.Error("the partial file stayed")
	}
}

// A restore that is stopped in mid-way leaves no folder.
func TestStoppedRestore(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "photos")
	if err := os.Mkdir(source, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "large"), make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	backup := program(t, dir, "backup", "photos", "x.cvb", "--no-compress")
	backup.start()
	backup.ends(0)
	file, err := os.ReadFile(filepath.Join(dir, "x.cvb"))
	if err != nil {
		t.Fatal(err)
	}
	p := program(t, dir, "restore", "-", "out")
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.start()
	if _, err := in.Write(file[:len(file)/2]); err != nil {
		t.Fatal(err)
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.ends(1)
	names, err := filepath.Glob(filepath.Join(dir, "*out*"))
	hidden, err2 := filepath.Glob(filepath.Join(dir, ".out*"))
	if err := errors.Join(err, err2); err != nil || len(names)+len(hidden) != 0 {
		t.Errorf("left behind: %q %q, %v", names, hidden, err)
	}
}

// zeros is n bytes of them.
func zeros(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Memory does not grow with the backup: 256 MiB pass through less than 200 MB,
// compressed and not.
func TestMemory(t *testing.T) {
	const size, limit = 256 << 20, 200e6
	for _, args := range [][]string{{}, {"--no-compress"}} {
		dir := t.TempDir()
		backup := program(t, dir, append([]string{"backup", "-", "-"}, args...)...)
		backup.Stdin = zeros(size)
		verify := program(t, dir, "verify", "-", "--json")
		var out bytes.Buffer
		verify.Stdout = &out
		// The key must be there before both start.
		first := program(t, dir, "backup", "-", "first.cvb")
		first.start()
		first.ends(0)
		pipe, err := backup.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		verify.Stdin = pipe
		backup.start()
		verify.start()
		verify.ends(0)
		backup.ends(0)
		if !strings.Contains(out.String(), `"plain_bytes":268435456`) {
			t.Errorf("%q: %s", args, out.String())
		}
		for _, p := range []*process{backup, verify} {
			if used := maxRSS(p); used > limit || used == 0 {
				t.Errorf("%q used %d bytes, more than %g", p.Args, used, float64(limit))
			}
		}
	}
}

// maxRSS is the most memory that the process had, in bytes.
func maxRSS(p *process) int64 {
	used := int64(p.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	if runtime.GOOS == "darwin" {
		return used
	}
	return used << 10
}
