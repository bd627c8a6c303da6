package faults

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// unsynced is the real file system, but Pebble's log is never synced: a store that
// acknowledges a swap when it is written.
func unsynced() vfs.FS { return forgetful{vfs.Default} }

type forgetful struct{ vfs.FS }

func (f forgetful) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return unsyncedLog(name, file, err)
}

func (f forgetful) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, to, c)
	return unsyncedLog(to, file, err)
}

func unsyncedLog(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil || !strings.HasSuffix(name, ".log") {
		return f, err
	}
	return neverSynced{f}, nil
}

type neverSynced struct{ vfs.File }

func (neverSynced) Sync() error                { return nil }
func (neverSynced) SyncData() error            { return nil }
func (neverSynced) SyncTo(int64) (bool, error) { return false, nil }
