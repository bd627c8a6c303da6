package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"chatvault/vaultd/internal/recordstore/pebblestore"
)

// spaceRows measures the directory of an embedded store, and how long it takes to open.
func spaceRows(ctx context.Context, p plan) []*row {
	count := fmt.Sprintf("pebble, %d records", p.records)
	size := &row{Name: count + ", bytes on disk", Unit: "x sealed record", Goal: 1.2}
	open := &row{Name: count + ", time to open", Unit: "s", Goal: 1}
	if err := measureSpace(ctx, p, size, open); err != nil {
		for _, r := range []*row{size, open} {
			if len(r.Repetitions) == 0 {
				r.Error = err.Error()
			}
		}
	}
	return []*row{size, open}
}

func measureSpace(ctx context.Context, p plan, size, open *row) error {
	dir, err := os.MkdirTemp("", "storebench-space-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store, err := openPebbleStore(dir, vfs.Default)
	if err != nil {
		return err
	}
	if err := fillRecords(ctx, store, p.records); err != nil {
		store.Close()
		return fmt.Errorf("making records: %w", err)
	}
	if err := store.Close(); err != nil {
		return err
	}
	bytes, err := allocated(dir)
	if err != nil {
		return err
	}
	// It is what it is: a directory needs no repetitions.
	perRecord := float64(bytes) / float64(p.records)
	size.Repetitions = []repetition{{Ours: perRecord, Value: perRecord / storedSize}}
	size.judge()
	size.Detail = fmt.Sprintf("%.0f bytes, of which sealed %d", perRecord, storedSize)

	open.repeat(ctx, p, func(ctx context.Context, _ int) (repetition, error) { return timeOpen(ctx, dir, p.records) })
	open.Detail = "after charges that only the log has; files in the page cache"
	return nil
}

func fillRecords(ctx context.Context, store *pebblestore.Store, n int) error {
	return each(ctx, n, func(ctx context.Context, i int) error {
		_, err := store.Swap(ctx, accountID(i), 0, plainRecord())
		return err
	})
}

// timeOpen times one opening of a store, and leaves it with a log to be read at
// the next one: some thousand records charged.
func timeOpen(ctx context.Context, dir string, records int) (repetition, error) {
	began := time.Now()
	store, err := openPebbleStore(dir, vfs.Default)
	took := time.Since(began).Seconds()
	if err != nil {
		return repetition{}, err
	}
	const charged = 4000 // a bit less than what Pebble holds in memory
	err = each(ctx, charged, func(ctx context.Context, i int) error {
		id := accountID(i * (records / charged))
		data, version, err := store.Load(ctx, id)
		if err == nil {
			_, err = store.Swap(ctx, id, version, data)
		}
		return err
	})
	if cerr := store.Close(); err == nil {
		err = cerr
	}
	return repetition{Ours: took, Value: took}, err
}

// allocated is what the files of a directory take on the disk, in bytes: their
// blocks, for Pebble allocates more than it writes.
func allocated(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		const block = 512 // the unit of st_blocks, whatever the file system's own
		total += info.Sys().(*syscall.Stat_t).Blocks * block
		return nil
	})
	return total, err
}
