//go:build unix

package archive_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"chatvault/protocol/backupfile"
	"chatvault/protocol/backupfile/archive"
)

func empty(t *testing.T, dir string) {
	t.Helper()
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

func TestFailedRestoreLeavesNothing(t *testing.T) {
	stream := write(t, tree(t))
	broken := errors.New("network")
	for n := 0; n < len(stream); n += 1 + len(stream)/97 {
		parent := t.TempDir()
		target := filepath.Join(parent, "back")
		_, err := archive.Restore(bytes.NewReader(stream[:n]), target, archive.Options{})
		if !errors.Is(err, archive.ErrIncomplete) {
			t.Errorf("cut off at %d: %v", n, err)
		}
		_, err = archive.Restore(io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(broken)), target, archive.Options{})
		if !errors.Is(err, broken) {
			t.Errorf("broken at %d: %v", n, err)
		}
		empty(t, parent)
	}
	// The tar is whole, what authenticates it is not.
	parent := t.TempDir()
	_, err := archive.Restore(io.MultiReader(bytes.NewReader(stream), iotest.ErrReader(broken)), filepath.Join(parent, "back"), archive.Options{})
	if !errors.Is(err, broken) {
		t.Errorf("error behind the end: %v", err)
	}
	_, err = archive.Restore(io.MultiReader(bytes.NewReader(stream), strings.NewReader("x")), filepath.Join(parent, "back"), archive.Options{})
	if !errors.Is(err, archive.ErrIncomplete) {
		t.Errorf("something behind the end: %v", err)
	}
	empty(t, parent)
}

func TestTargetIsNeverTouched(t *testing.T) {
	stream := write(t, tree(t))
	parent := t.TempDir()
	full := filepath.Join(parent, "full")
	must(t, os.Mkdir(full, 0o700))
	must(t, os.WriteFile(filepath.Join(full, "mine"), []byte("x"), 0o600))
	regular := filepath.Join(parent, "file")
	must(t, os.WriteFile(regular, []byte("x"), 0o600))
	linked := filepath.Join(parent, "link")
	must(t, os.Symlink("full", linked))
	for _, target := range []string{full, regular, linked, "/"} {
		if _, err := archive.Restore(bytes.NewReader(stream), target, archive.Options{}); !errors.Is(err, archive.ErrTargetExists) {
			t.Errorf("%s: %v", target, err)
		}
	}
	// Something comes up while the restore works.
	late := filepath.Join(parent, "late")
	_, err := archive.Restore(bytes.NewReader(stream), late, archive.Options{Progress: func(archive.Stats) {
		os.WriteFile(late, []byte("mine"), 0o600)
	}})
	if b, _ := os.ReadFile(late); !errors.Is(err, archive.ErrTargetExists) || string(b) != "mine" {
		t.Errorf("late: %q, %v", b, err)
	}
	into := filepath.Join(parent, "empty")
	must(t, os.Mkdir(into, 0o755))
	_, err = archive.Restore(bytes.NewReader(stream), into, archive.Options{})
	must(t, err)
	t.Cleanup(func() { os.Chmod(filepath.Join(into, "locked"), 0o700) })
	if _, err := archive.Restore(bytes.NewReader(stream), filepath.Join(parent, "no/such/parent"), archive.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no parent: %v", err)
	}
}

func backup(t *testing.T, dir string, key backupfile.BackupKey) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := backupfile.NewWriter(&out, key, backupfile.Options{Compression: backupfile.None, PartSize: 50_000})
	must(t, err)
	_, err = archive.Write(w, dir, archive.Options{})
	must(t, err)
	must(t, w.Close())
	return out.Bytes()
}

// The two packages together: a folder comes back, a damaged file brings
// nothing, whichever byte of it is damaged.
func TestThroughTheBackupFile(t *testing.T) {
	source := tree(t)
	key := backupfile.NewBackupKey()
	encrypted := backup(t, source, key)
	parent := t.TempDir()
	target := filepath.Join(parent, "back")
	restore := func(b []byte) error {
		r, err := backupfile.NewReader(bytes.NewReader(b), key, backupfile.ReaderOptions{})
		if err != nil {
			return err
		}
		_, err = archive.Restore(r, target, archive.Options{})
		return err
	}
	for at := 100; at < len(encrypted); at += 7919 {
		bad := bytes.Clone(encrypted)
		bad[at] ^= 0x10
		var c *backupfile.CorruptError
		if err := restore(bad); !errors.As(err, &c) {
			t.Errorf("byte %d flipped: %v", at, err)
		}
		if err := restore(encrypted[:at]); !errors.Is(err, backupfile.ErrTruncated) {
			t.Errorf("cut off at %d: %v", at, err)
		}
	}
	empty(t, parent)
	// The closing part comes behind tar's end mark.
	bad := bytes.Clone(encrypted)
	bad[len(bad)-10] ^= 1
	var c *backupfile.CorruptError
	if err := restore(bad); !errors.As(err, &c) {
		t.Errorf("closing part damaged: %v", err)
	}
	empty(t, parent)
	must(t, restore(encrypted))
	t.Cleanup(func() { os.Chmod(filepath.Join(target, "locked"), 0o700) })
	if got, want := describe(t, target), describe(t, source); got != want {
		t.Errorf("restored:\n%s\nwant:\n%s", got, want)
	}
}

const childEnv = "ARCHIVE_TEST_RESTORE_TO"

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	target := os.Getenv(childEnv)
	if target == "" {
		os.Exit(m.Run())
	}
	_, err := archive.Restore(os.Stdin, target, archive.Options{Progress: func(s archive.Stats) { fmt.Println(s.Dirs + s.Files) }})
	fmt.Println("ended", err)
}

func TestKilledRestoreLeavesNothingUnderTheName(t *testing.T) {
	stream := write(t, tree(t))
	parent := t.TempDir()
	target := filepath.Join(parent, "back")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+target)
	in, err := child.StdinPipe()
	must(t, err)
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	_, err = in.Write(stream[:len(stream)*9/10]) // and no more: the child waits
	must(t, err)
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "6" {
	}
	names, err := os.ReadDir(parent)
	if err != nil || len(names) != 1 || !strings.HasPrefix(names[0].Name(), ".back.restore-") {
		t.Fatalf("in mid-way: %v, %v", names, err)
	}
	// Another restore of the same target leaves the running one alone.
	if _, err := archive.Restore(strings.NewReader(""), target, archive.Options{}); !errors.Is(err, archive.ErrIncomplete) {
		t.Error(err)
	}
	if again, _ := os.ReadDir(parent); len(again) != 1 || again[0].Name() != names[0].Name() {
		t.Errorf("the running restore lost its folder: %v", again)
	}
	must(t, child.Process.Kill())
	child.Wait()
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a killed restore left its target: %v", err)
	}
	// Such a folder may have become unreadable by then.
	must(t, os.Chmod(filepath.Join(parent, names[0].Name()), 0o100))
	for _, other := range []string{".back.restore-mine", ".back2.restore-1"} {
		must(t, os.Mkdir(filepath.Join(parent, other), 0o700))
	}
	_, err = archive.Restore(bytes.NewReader(stream), target, archive.Options{})
	must(t, err)
	t.Cleanup(func() { os.Chmod(filepath.Join(target, "locked"), 0o700) })
	left, err := os.ReadDir(parent)
	if err != nil || len(left) != 3 {
		t.Errorf("afterwards: %v, %v", left, err)
	}
}
