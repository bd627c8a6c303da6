package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"
)

const copyBuffer = 256 << 10 // bytes

// Write archives the folder dir into w. It fails with ErrChanged when a file
// grows, shrinks or is written to while it is read: half of the old and half of
// the new would be no backup, and the stream cannot take back what it said.
// What an archive cannot hold is left out and told in Stats.Skipped.
func Write(w io.Writer, dir string, o Options) (Stats, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Stats{}, fmt.Errorf("open folder: %w", err)
	}
	defer root.Close()
	a := &writer{root: root, tar: tar.NewWriter(w), check: newChecker(o), opts: o, buf: make([]byte, copyBuffer)}
	if err := a.add("."); err != nil {
		return a.stats, err
	}
	if err := a.tar.Close(); err != nil {
		return a.stats, fmt.Errorf("write archive: %w", err)
	}
	return a.stats, nil
}

type writer struct {
	root  *os.Root
	tar   *tar.Writer
	check *checker
	opts  Options
	buf   []byte
	stats Stats
}

// add writes one entry and, for a directory, all that is in it.
func (a *writer) add(name string) error {
	info, err := a.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) && name != "." {
		a.skip(name, ErrVanished)
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %q: %w", name, err)
	}
	h, err := a.header(name, info)
	if err == nil {
		_, _, err = a.check.next(h)
	}
	switch {
	case errors.Is(err, ErrName) || errors.Is(err, ErrLink) || errors.Is(err, ErrType):
		a.skip(name, err)
		return nil
	case err != nil:
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return a.addDir(name, h)
	case tar.TypeSymlink:
		if err := a.writeHeader(h); err != nil {
			return err
		}
		a.stats.Links++
		a.progress()
		return nil
	default:
		return a.addFile(name, info, h)
	}
}

func (a *writer) skip(name string, err error) {
	var e *EntryError
	if errors.As(err, &e) {
		err = e.Err
	}
	a.stats.Skipped = append(a.stats.Skipped, Skipped{name, err})
}

// header says nothing about who made the archive or when.
func (a *writer) header(name string, info fs.FileInfo) (*tar.Header, error) {
	h := &tar.Header{Format: tar.FormatPAX, Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime()}
	if s := h.ModTime.Unix(); s > maxTime || s < -maxTime {
		h.ModTime = time.Unix(0, 0) // a broken clock is no reason to lose a file
	}
	switch info.Mode().Type() {
	case 0:
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case fs.ModeSymlink:
		target, err := a.root.Readlink(name)
		if err != nil {
			return nil, fmt.Errorf("read link %q: %w", name, err)
		}
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, target, 0o777
		h.ModTime = time.Unix(0, 0) // cannot be restored everywhere
	default:
		return nil, fmt.Errorf("%w: %v", ErrType, info.Mode().Type())
	}
	return h, nil
}

func (a *writer) writeHeader(h *tar.Header) error {
	if err := a.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write archive entry %q: %w", h.Name, err)
	}
	return nil
}

func (a *writer) addDir(name string, h *tar.Header) error {
	if err := a.writeHeader(h); err != nil {
		return err
	}
	a.stats.Dirs++
	a.progress()
	f, err := a.root.Open(name)
	if err != nil {
		return fmt.Errorf("open folder %q: %w", name, err)
	}
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return fmt.Errorf("read folder %q: %w", name, err)
	}
	slices.Sort(names)
	for _, n := range names {
		if err := a.add(path.Join(name, n)); err != nil {
			return err
		}
	}
	return nil
}

func (a *writer) addFile(name string, before fs.FileInfo, h *tar.Header) error {
	changed := func() error { return &EntryError{Index: a.check.index - 1, Name: name, Err: ErrChanged} }
	f, err := a.root.Open(name)
	if err != nil {
		return fmt.Errorf("open %q: %w", name, err)
	}
	defer f.Close()
	same := func() (bool, error) {
		info, err := f.Stat()
		if err != nil {
			return false, fmt.Errorf("look at %q: %w", name, err)
		}
		return os.SameFile(before, info) && info.Size() == before.Size() && info.ModTime().Equal(before.ModTime()), nil
	}
	if ok, err := same(); err != nil || !ok {
		return errors.Join(err, changed()) // another file took the name
	}
	if err := a.writeHeader(h); err != nil {
		return err
	}
	from := &io.LimitedReader{R: f, N: h.Size}
	if _, err := io.CopyBuffer(progressWriter{a.tar, &a.stats, a.progress}, struct{ io.Reader }{from}, a.buf); err != nil {
		return fmt.Errorf("archive %q: %w", name, err)
	}
	if from.N > 0 {
		return changed()
	}
	if ok, err := same(); err != nil || !ok {
		return errors.Join(err, changed())
	}
	a.stats.Files++
	a.progress()
	return nil
}

func (a *writer) progress() {
	if a.opts.Progress != nil {
		a.opts.Progress(a.stats)
	}
}

// progressWriter counts content and tells it about once a MiB.
type progressWriter struct {
	w     io.Writer
	stats *Stats
	tell  func()
}

func (p progressWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	before := p.stats.Bytes
	p.stats.Bytes += int64(n)
	if before>>20 != p.stats.Bytes>>20 {
		p.tell()
	}
	return n, err
}
