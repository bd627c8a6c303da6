//go:build fault

package cutfs

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// lab is a disk that is mounted.
type lab struct {
	t       *testing.T
	disk    *Disk
	dir     string
	unmount func() error
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, disk: New(), dir: t.TempDir()}
	l.mount()
	t.Cleanup(func() { l.unmount() })
	return l
}

func (l *lab) mount() {
	l.t.Helper()
	var err error
	if l.unmount, err = l.disk.Mount(l.dir); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) cut(torn *rand.Rand) {
	l.t.Helper()
	l.disk.Cut()
	l.must(l.unmount())
	l.disk.Restore(torn)
	l.mount()
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// write writes a file, syncs it if told to, and its directory too.
func (l *lab) write(name string, data []byte, sync, syncDir bool) {
	l.t.Helper()
	f, err := os.OpenFile(filepath.Join(l.dir, name), os.O_CREATE|os.O_RDWR, 0o600)
	l.must(err)
	_, err = f.WriteAt(data, 0)
	l.must(err)
	if sync {
		l.must(f.Sync())
	}
	l.must(f.Close())
	if syncDir {
		d, err := os.Open(filepath.Dir(f.Name()))
		l.must(err)
		l.must(d.Sync())
		l.must(d.Close())
	}
}

func (l *lab) want(name string, data []byte) {
	l.t.Helper()
	got, err := os.ReadFile(filepath.Join(l.dir, name))
	if data == nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.t.Errorf("%s: %d bytes, %v; it should be gone", name, len(got), err)
		}
		return
	}
	if err != nil || !bytes.Equal(got, data) {
		l.t.Errorf("%s: %q, %v; want %q", name, got, err, data)
	}
}

func TestOnlyWhatWasSyncedSurvives(t *testing.T) {
	l := newLab(t)
	l.write("synced", []byte("one"), true, true)
	l.write("bytes not synced", []byte("two"), false, true)
	l.write("name not synced", []byte("three"), true, false)
	l.write("synced", []byte("ONE and more"), false, false)
	l.want("synced", []byte("ONE and more"))
	l.cut(nil)
	l.want("synced", []byte("one"))
	l.want("bytes not synced", []byte{})
	l.want("name not synced", nil)
}

func TestJournalKeepsNames(t *testing.T) {
	l := newLab(t)
	l.disk.Journal = true
	l.must(os.Mkdir(filepath.Join(l.dir, "d"), 0o700))
	l.write("d/not synced", []byte("x"), false, false)
	l.write("synced", []byte("y"), true, false)
	l.write("later", []byte("z"), false, false)
	l.cut(nil)
	l.want("d/not synced", []byte{})
	l.want("synced", []byte("y"))
	l.want("later", nil)
}

func TestRenameAndRemoveAreNames(t *testing.T) {
	l := newLab(t)
	l.must(os.Mkdir(filepath.Join(l.dir, "d"), 0o700))
	l.write("d/old", []byte("x"), true, true)
	l.write("stays", []byte("y"), true, true)
	l.must(os.Rename(filepath.Join(l.dir, "d/old"), filepath.Join(l.dir, "d/new")))
	l.must(os.Remove(filepath.Join(l.dir, "stays")))
	l.want("d/new", []byte("x"))
	l.want("stays", nil)
	l.cut(nil)
	l.want("d/old", []byte("x"))
	l.want("d/new", nil)
	l.want("stays", []byte("y"))
}

func TestTruncationIsNotDurableEither(t *testing.T) {
	l := newLab(t)
	long := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	l.write("f", long, true, true)
	l.must(os.Truncate(filepath.Join(l.dir, "f"), 10))
	l.want("f", long[:10])
	l.cut(nil)
	l.want("f", long)
}

func TestTornSectors(t *testing.T) {
	l := newLab(t)
	before, after := bytes.Repeat([]byte{'a'}, 64*sectorSize), bytes.Repeat([]byte{'b'}, 64*sectorSize)
	l.write("f", before, true, true)
	l.write("f", after, false, false)
	l.cut(rand.New(rand.NewPCG(1, 1)))
	got, err := os.ReadFile(filepath.Join(l.dir, "f"))
	l.must(err)
	old, changed := 0, 0
	for at := 0; at < len(got); at += sectorSize {
		switch sector := got[at : at+sectorSize]; {
		case bytes.Equal(sector, before[:sectorSize]):
			old++
		case bytes.Equal(sector, after[:sectorSize]):
			changed++
		default:
			t.Errorf("sector %d is neither the old one nor the new one", at/sectorSize)
		}
	}
	if old == 0 || changed == 0 || old+changed != 64 {
		t.Errorf("%d old and %d new sectors: not torn", old, changed)
	}
}

func TestSyncsFailOnDemand(t *testing.T) {
	l := newLab(t)
	l.write("f", []byte("old"), true, true)
	l.disk.OnSync(func() error { return errors.New("broken") })
	f, err := os.OpenFile(filepath.Join(l.dir, "f"), os.O_RDWR, 0)
	l.must(err)
	_, err = f.WriteAt([]byte("new"), 0)
	l.must(err)
	if f.Sync() == nil {
		t.Error("the sync did not fail")
	}
	l.must(f.Close())
	l.cut(nil)
	l.want("f", []byte("old"))
}

func TestNothingWorksWithoutPower(t *testing.T) {
	l := newLab(t)
	f, err := os.Create(filepath.Join(l.dir, "f"))
	l.must(err)
	l.disk.Cut()
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("write did not fail")
	}
	if f.Sync() == nil {
		t.Error("sync did not fail")
	}
	f.Close()
	l.must(l.unmount())
	l.disk.Restore(nil)
	l.mount()
	l.want("f", nil)
}
