package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// checkTarget lets a restore replace nothing, or an empty folder.
func checkTarget(target string) error {
	if filepath.Dir(target) == target {
		return fmt.Errorf("restore: %q: %w", target, ErrTargetExists)
	}
	info, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if info.IsDir() {
		names, err := os.ReadDir(target)
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		if len(names) == 0 {
			return nil
		}
	}
	return fmt.Errorf("restore: %q: %w", target, ErrTargetExists)
}

// temp is the hidden sibling in which a restore works. The lock on it tells a
// running restore from a killed one.
type temp struct {
	path string
	lock *os.File // nil where the system has none
}

func tempPrefix(target string) string { return "." + filepath.Base(target) + ".restore-" }

func newTemp(target string) (*temp, error) {
	parent := filepath.Dir(target)
	if err := removeLeftovers(parent, tempPrefix(target)); err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(parent, tempPrefix(target)+"*") // mode 0700
	if err != nil {
		return nil, err
	}
	lock, held, err := lockDir(path)
	if err == nil && held {
		err = fmt.Errorf("%q is locked by another restore", path)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return &temp{path, lock}, nil
}

// removeLeftovers removes what killed restores of this target left behind.
func removeLeftovers(parent, prefix string) error {
	names, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, n := range names {
		digits, ok := strings.CutPrefix(n.Name(), prefix)
		if !ok || !n.IsDir() || digits == "" || strings.Trim(digits, "0123456789") != "" {
			continue
		}
		t := &temp{path: filepath.Join(parent, n.Name())}
		var held bool
		t.lock, held, err = lockDir(t.path)
		if errors.Is(err, fs.ErrPermission) { // killed after the folder got its own mode
			if err = os.Chmod(t.path, 0o700); err == nil {
				t.lock, held, err = lockDir(t.path)
			}
		}
		if err != nil {
			return err
		}
		if held {
			continue
		}
		if err := t.remove(); err != nil {
			return err
		}
	}
	return nil
}

// place gives the finished folder its name. Should a folder with content have
// come up there meanwhile, renaming fails.
func (t *temp) place(target string) error {
	if err := checkTarget(target); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) { // the empty folder
		return fmt.Errorf("restore: %w", err)
	}
	if err := os.Rename(t.path, target); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	t.unlock()
	if err := syncDir(filepath.Dir(target)); err != nil {
		return fmt.Errorf("restore: sync: %w", err)
	}
	return nil
}

func (t *temp) unlock() {
	if t.lock != nil {
		t.lock.Close()
		t.lock = nil
	}
}

// remove gives itself access first: restored folders may be read-only.
func (t *temp) remove() error {
	defer t.unlock()
	err := os.RemoveAll(t.path)
	if err == nil {
		return nil
	}
	filepath.WalkDir(t.path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		return err
	})
	if err := os.RemoveAll(t.path); err != nil {
		return fmt.Errorf("remove what is left of a restore: %w", err)
	}
	return nil
}
