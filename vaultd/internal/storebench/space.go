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

	"chatvault/docker/goals"
	"chatvault/vaultd/internal/recordstore/pebblestore"
)

// spaceRows measures the directory of an embedded store, and how long it takes to open.
func spaceRows(ctx context.Context, p plan) []*goals.Row {
	count := fmt.Sprintf("pebble, %d records", p.records)
	size := &goals.Row{Name: count + ", bytes on disk", Unit: "x sealed record", Goal: 1.2, Sides: "%.0f bytes, of which sealed %.0f"}
	open := &goals.Row{
		Name: count + ", time to open", Unit: "s", Goal: 1,
		Note: "after charges that only the log has; files in the page cache",
	}
	if err := measureSpace(ctx, p, size, open); err != nil {
		for _, r := range []*goals.Row{size, open} {
			if len(r.Repetitions) == 0 {
				goals.Fail([]*goals.Row{r}, err)
			}
		}
	}
	return []*goals.Row{size, open}
}

func measureSpace(ctx context.Context, p plan, size, open *goals.Row) error {
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
	single := p // it is what it is: a directory needs no repetitions
	single.Repetitions, single.Rounds = 1, 1
	measure(ctx, single, size, func(context.Context, int) (goals.Repetition, error) {
		return goals.Ratio(float64(bytes)/float64(p.records), storedSize), nil
	})
	measure(ctx, p, open, func(ctx context.Context, _ int) (goals.Repetition, error) { return timeOpen(ctx, dir, p.records) })
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
func timeOpen(ctx context.Context, dir string, records int) (goals.Repetition, error) {
	began := time.Now()
	store, err := openPebbleStore(dir, vfs.Default)
	took := time.Since(began).Seconds()
	if err != nil {
		return goals.Repetition{}, err
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
	return goals.Repetition{Ours: took, Value: took}, err
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
