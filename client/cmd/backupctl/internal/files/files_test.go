package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// names lists what is in a folder.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestNothingStandsThereBeforeCommit(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "x")
	f, err := Create(target, false)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("half")
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before Commit: %v", err)
	}
	f.WriteString(" and half")
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, target); got != "half and half" {
		t.Errorf("content %q", got)
	}
	info, err := os.Stat(target)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %q", got)
	}
}

func TestDiscardLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "x"), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Discard(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left behind: %q", got)
	}
}

func TestReplacingMustBeAskedFor(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "x")
	if err := Write(target, []byte("old"), false); err != nil {
		t.Fatal(err)
	}
	if err := Write(target, []byte("new"), false); !errors.Is(err, ErrExists) {
		t.Errorf("replacing: %v", err)
	}
	// It comes up while the file is being written.
	late := filepath.Join(dir, "late")
	f, err := Create(late, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(late, []byte("somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); !errors.Is(err, ErrExists) || content(t, late) != "somebody's" {
		t.Errorf("came up meanwhile: %v, content %q", err, content(t, late))
	}
	if err := Write(target, []byte("new"), true); err != nil || content(t, target) != "new" {
		t.Errorf("with replace: %v", err)
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("left behind: %q", got)
	}
}

func TestOnlyRegularFilesAreReplaced(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("elsewhere", link); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{dir, link} {
		if err := Write(target, nil, true); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s: %v", target, err)
		}
	}
	if _, err := Create(filepath.Join(dir, "missing", "x"), true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
}

func TestLeftoversOfTheKilledGoAndOthersStay(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // no lock there, so leftovers stay
	}
	dir := t.TempDir()
	for _, name := range []string{".x.partial-123", ".x.partial-", ".x.partial-12a", ".y.partial-123"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	alive, err := Create(filepath.Join(dir, "x"), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "x"), []byte("second"), true); err != nil {
		t.Fatal(err)
	}
	if err := alive.Commit(); err != nil {
		t.Errorf("the one still being written was removed: %v", err)
	}
	want := []string{".x.partial-", ".x.partial-12a", ".y.partial-123", "x"}
	if got := names(t, dir); len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("there is %q, want %q", got, want)
	}
}
