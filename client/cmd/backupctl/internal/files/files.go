// Package files writes files whole or not at all, and locks what two processes
// must not use at once.
package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

var (
	// ErrExists: the target is there, and replacing it was not asked for.
	ErrExists = errors.New("file exists")
	// ErrNotRegular: a device, pipe, folder or link stands under the target's
	// name. Renaming over it would replace it: /dev/null by a backup.
	ErrNotRegular = errors.New("not a regular file")
	// ErrBusy: another process holds the lock.
	ErrBusy = errors.New("in use by another process")
)

// File is written beside its target, as .NAME.partial-DIGITS, and takes the
// target's name with Commit. Until then nothing stands under that name, or
// what stood there before.
type File struct {
	*os.File
	target  string
	replace bool
}

// Create begins a file of mode 0600. What a killed process left of the same
// target is removed, where the system can tell it from one that is still
// being written.
func Create(target string, replace bool) (*File, error) {
	if err := CheckTarget(target, replace); err != nil {
		return nil, err
	}
	dir, prefix := filepath.Dir(target), "."+filepath.Base(target)+".partial-"
	if err := removeLeftovers(dir, prefix); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, prefix+"*")
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	return &File{File: f, target: target, replace: replace}, nil
}

// Commit makes the content durable, then gives it the target's name, then
// makes the name durable. When it fails, nothing is left behind.
func (f *File) Commit() error {
	err := f.Sync()
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := place(f.Name(), f.target, f.replace); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(f.target))
}

// Discard removes what was written.
func (f *File) Discard() error {
	f.Close()
	return os.Remove(f.Name())
}

// Write is Create, one write, and Commit.
func Write(target string, content []byte, replace bool) error {
	f, err := Create(target, replace)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return errors.Join(err, f.Discard())
	}
	return f.Commit()
}

// place renames. Without replace it links first: a link never replaces what
// came up under the name meanwhile, as a rename would.
func place(from, to string, replace bool) error {
	if err := CheckTarget(to, replace); err != nil {
		return err
	}
	if !replace {
		err := os.Link(from, to)
		if err == nil {
			return os.Remove(from)
		}
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s: %w", to, ErrExists)
		}
		// The file system has no hard links.
	}
	return os.Rename(from, to)
}

// CheckTarget says whether Create would accept the target now: ErrExists,
// ErrNotRegular, fs.ErrNotExist for a missing folder, or nil.
func CheckTarget(target string, replace bool) error {
	info, err := os.Lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, err := os.Stat(filepath.Dir(target))
		return err
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: %w", target, ErrNotRegular)
	case !replace:
		return fmt.Errorf("%s: %w", target, ErrExists)
	}
	return nil
}

func removeLeftovers(dir, prefix string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		digits, ok := strings.CutPrefix(n.Name(), prefix)
		if !ok || digits == "" || strings.Trim(digits, "0123456789") != "" || !n.Type().IsRegular() {
			continue
		}
		if err := removeIfFree(filepath.Join(dir, n.Name())); err != nil {
			return err
		}
	}
	return nil
}
