package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"chatvault/vaultd/internal/recordstore/pebblestore"
)

// fsyncDelay is what slow disks take longer for each fsync.
const fsyncDelay = time.Millisecond

var quiet = slog.New(slog.DiscardHandler)

func openPebbleStore(dir string, fs vfs.FS) (*pebblestore.Store, error) {
	return pebblestore.Open(dir, pebblestore.Options{Create: true, Log: quiet, FS: fs})
}

// startPebble opens a store and a plain database, in two directories.
func startPebble(ctx context.Context, slow bool, accounts int) (*sides, error) {
	dir, err := os.MkdirTemp("", "storebench-pebble-")
	if err != nil {
		return nil, err
	}
	s := &sides{}
	s.onClose(func() error { return os.RemoveAll(dir) })
	fs := vfs.Default
	if slow {
		fs = slowFS{fs}
	}
	store, err := openPebbleStore(filepath.Join(dir, "ours"), fs)
	if err != nil {
		return s, err
	}
	s.onClose(store.Close)
	floor, err := openPlainPebble(filepath.Join(dir, "floor"), fs, accounts)
	if err != nil {
		return s, err
	}
	s.onClose(floor.db.Close)
	return s, s.fill(ctx, store, floor, accounts)
}

// plainPebble is Pebble without our layer: a Get, and a Set with Sync. Pebble has no
// compare-and-swap; each account's own mutex makes one of the two.
type plainPebble struct {
	db    *pebble.DB
	locks []sync.Mutex // one for each account
}

// openPlainPebble opens a database with the options of ours, which make it faster
// than Pebble's defaults do.
func openPlainPebble(dir string, fs vfs.FS, accounts int) (*plainPebble, error) {
	o := &pebble.Options{
		FS: fs, Logger: silent{}, CacheSize: 32 << 20, MaxOpenFiles: 256, MemTableSize: 8 << 20,
		FormatMajorVersion: pebble.FormatTableFormatV6,
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	db, err := pebble.Open(dir, o)
	return &plainPebble{db: db, locks: make([]sync.Mutex, accounts)}, err
}

func (p *plainPebble) register(_ context.Context, account int) error {
	id := accountID(account)
	return p.db.Set(id[:], plainRecord(), pebble.Sync)
}

func (p *plainPebble) charge(_ context.Context, account int) error {
	p.locks[account].Lock()
	defer p.locks[account].Unlock()
	id := accountID(account)
	value, closer, err := p.db.Get(id[:])
	if err != nil {
		return err
	}
	data := bytes.Clone(value)
	if err := errors.Join(closer.Close(), touch(data)); err != nil {
		return err
	}
	return p.db.Set(id[:], data, pebble.Sync)
}

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(f string, a ...any) {
	slog.Error("pebble gave up: " + f)
	os.Exit(1)
}

// slowFS makes every fsync take longer.
type slowFS struct{ vfs.FS }

func slowed(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return slowFile{f}, nil
}

func (s slowFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return slowed(s.FS.Create(name, c))
}

func (s slowFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return slowed(s.FS.OpenReadWrite(name, c, o...))
}

func (s slowFS) ReuseForWrite(oldName, newName string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return slowed(s.FS.ReuseForWrite(oldName, newName, c))
}

func (s slowFS) OpenDir(name string) (vfs.File, error) { return slowed(s.FS.OpenDir(name)) }

func (s slowFS) Unwrap() vfs.FS { return s.FS }

type slowFile struct{ vfs.File }

func (f slowFile) Sync() error {
	time.Sleep(fsyncDelay)
	return f.File.Sync()
}

func (f slowFile) SyncData() error {
	time.Sleep(fsyncDelay)
	return f.File.SyncData()
}
