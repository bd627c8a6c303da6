package pebblestore

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pebbleFormat is fixed: another one would be a migration that no older vaultd
// reads. This one checks its log against what was synced, and its tables' footers.
const pebbleFormat = pebble.FormatTableFormatV6

func pebbleOptions(o Options, logger pebble.Logger, background func(error)) *pebble.Options {
	fs := o.FS
	if fs == nil {
		fs = vfs.Default
	}
	po := &pebble.Options{
		FS:                 privateFS{fs},
		Logger:             logger,
		CacheSize:          o.CacheSize,
		FormatMajorVersion: pebbleFormat,
		ErrorIfNotExists:   !o.Create,
		MaxOpenFiles:       256,
		MemTableSize:       8 << 20,
		// A flush that fails, as on a full disk, Pebble does again at once and for
		// ever, while every swap waits for it.
		EventListener: &pebble.EventListener{BackgroundError: background},
	}
	if po.CacheSize == 0 {
		po.CacheSize = defaultCacheSize
	}
	// Records are ciphertext: compressing them costs time and saves nothing.
	po.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	return po
}

// openPebble opens the database. Its files stay open when Pebble panics.
func openPebble(dir string, po *pebble.Options) (db *pebble.DB, err error) {
	defer func() { err = orPanic(err, recover()) }()
	return pebble.Open(dir, po)
}

// orPanic makes an error of a panic, deferred: Pebble panics when it cannot write
// its log or its marker files.
func orPanic(err error, panicked any) error {
	if panicked != nil {
		return fmt.Errorf("pebble gave up: %v", panicked)
	}
	return err
}

// privateFS makes directories that only their owner may enter; Pebble would make
// them 0755.
type privateFS struct{ vfs.FS }

func (p privateFS) MkdirAll(dir string, _ os.FileMode) error { return p.FS.MkdirAll(dir, 0o700) }

func (p privateFS) Unwrap() vfs.FS { return p.FS }

// logger is what Pebble talks to. What it calls fatal makes the store fail.
type logger struct {
	log  *slog.Logger
	fail func(error)
}

// Infof implements pebble.Logger.
func (l logger) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("pebble: " + fmt.Sprintf(format, args...))
	}
}

// Errorf implements pebble.Logger.
func (l logger) Errorf(format string, args ...any) {
	l.log.Error("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf implements pebble.Logger. It returns if the store's Fatal does; Pebble
// then goes on as if nothing were wrong.
func (l logger) Fatalf(format string, args ...any) { l.fail(fmt.Errorf(format, args...)) }
