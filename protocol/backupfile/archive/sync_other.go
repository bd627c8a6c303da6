//go:build !linux || android

package archive

import (
	"os"
	"runtime"
)

func syncFile(f *os.File) error { return f.Sync() }

// syncFolder makes the names in a folder durable, where folders can be synced.
func syncFolder(root *os.Root, name string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// syncAll has nothing to do: each file was synced.
func syncAll(string) error { return nil }
