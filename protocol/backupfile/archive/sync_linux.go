//go:build !android

package archive

import (
	"os"

	"golang.org/x/sys/unix"
)

// On Linux one call syncs the file system, instead of one for each of many
// small files. (Android's sandbox may kill a process for it.)

func syncFile(*os.File) error           { return nil }
func syncFolder(*os.Root, string) error { return nil }

// syncAll makes all that was written to the file system of dir durable.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
