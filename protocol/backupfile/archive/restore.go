package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Check reads a whole archive and applies every rule of Restore that does not
// need a disk. It writes nothing.
func Check(r io.Reader, o Options) (Stats, error) {
	return scan(r, o, nothing{})
}

// Restore reads a whole archive into a folder named target, which must not
// exist or be empty; its parent must exist. Everything is made in a hidden
// sibling, .NAME.restore-DIGITS, synced, and renamed when r has returned
// io.EOF: a failed or killed restore leaves nothing under the target's name.
// A reader that authenticates, such as backupfile.Reader, must return io.EOF
// only when all of it is verified. What a killed restore left is removed by
// the next restore of the same target.
func Restore(r io.Reader, target string, o Options) (Stats, error) {
	target, err := filepath.Abs(target)
	if err != nil {
		return Stats{}, fmt.Errorf("restore: %w", err)
	}
	if err := checkTarget(target); err != nil {
		return Stats{}, err
	}
	temp, err := newTemp(target)
	if err != nil {
		return Stats{}, fmt.Errorf("restore: %w", err)
	}
	stats, err := extract(r, temp.path, o)
	if err == nil {
		err = temp.place(target)
	}
	if err != nil {
		return stats, errors.Join(err, temp.remove())
	}
	return stats, nil
}

func extract(r io.Reader, dir string, o Options) (Stats, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Stats{}, fmt.Errorf("restore: %w", err)
	}
	defer root.Close()
	stats, err := scan(r, o, &disk{root: root})
	if err != nil {
		return stats, err
	}
	if err := syncAll(filepath.Dir(dir)); err != nil { // dir itself may be unreadable by now
		return stats, fmt.Errorf("restore: sync: %w", err)
	}
	return stats, nil
}

// maker makes what the entries say. leave is called once for each directory,
// when nothing more comes in it.
type maker interface {
	dir(entry) error
	file(e entry, content io.Reader) error
	link(entry) error
	leave(entry) error
}

// nothing is the maker of Check.
type nothing struct{}

func (nothing) dir(entry) error   { return nil }
func (nothing) link(entry) error  { return nil }
func (nothing) leave(entry) error { return nil }
func (nothing) file(_ entry, content io.Reader) error {
	_, err := io.Copy(io.Discard, content)
	return err
}

// disk is the maker of Restore. os.Root is the second wall behind the rules of
// checker: nothing outside the folder is touched even if a rule is wrong.
type disk struct {
	root *os.Root
	buf  [copyBuffer]byte
}

func (d *disk) dir(e entry) error {
	if e.name == "." {
		return nil
	}
	return exists(d.root.Mkdir(e.name, 0o700)) // its own mode when it is left
}

func (d *disk) file(e entry, content io.Reader) error {
	f, err := d.root.OpenFile(e.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return exists(err)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{content}, d.buf[:])
	if err == nil {
		err = f.Chmod(e.mode)
	}
	if err == nil {
		err = syncFile(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return d.root.Chtimes(e.name, e.mtime, e.mtime)
}

func (d *disk) link(e entry) error { return exists(d.root.Symlink(e.link, e.name)) }

func (d *disk) leave(e entry) error {
	if err := syncFolder(d.root, e.name); err != nil {
		return err
	}
	if err := d.root.Chmod(e.name, e.mode); err != nil {
		return err
	}
	return d.root.Chtimes(e.name, e.mtime, e.mtime)
}

// exists: on a file system that folds case or normalises, two names of the
// archive may be one.
func exists(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w on this file system", ErrDuplicate)
	}
	return err
}

func scan(r io.Reader, o Options, m maker) (Stats, error) {
	s := &scanner{in: &countingReader{r: r}, check: newChecker(o), make: m, opts: o}
	s.tar = tar.NewReader(s.in)
	for {
		before := s.in.n
		h, err := s.tar.Next()
		if err == io.EOF {
			return s.stats, s.finish(before)
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // that one is checker's to refuse
			return s.stats, s.readError(err)
		}
		if err := s.entry(h); err != nil {
			return s.stats, err
		}
	}
}

type scanner struct {
	in    *countingReader
	tar   *tar.Reader
	check *checker
	make  maker
	opts  Options
	stats Stats
}

// readError keeps apart what the reader says and what tar says about it.
func (s *scanner) readError(err error) error {
	if s.in.err != nil && s.in.err != io.EOF {
		err = s.in.err
	} else if errors.Is(err, io.ErrUnexpectedEOF) {
		err = ErrIncomplete
	}
	return fmt.Errorf("read archive at entry %d: %w", s.check.index, err)
}

func (s *scanner) entry(h *tar.Header) error {
	e, left, err := s.check.next(h)
	if err != nil {
		return err
	}
	if err := s.leave(left); err != nil {
		return err
	}
	switch e.kind {
	case tar.TypeDir:
		err = s.make.dir(e)
		s.stats.Dirs++
	case tar.TypeSymlink:
		err = s.make.link(e)
		s.stats.Links++
	default:
		err = s.make.file(e, s.content())
		s.stats.Files++
	}
	if err != nil {
		if (s.in.err != nil && s.in.err != io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return s.readError(err)
		}
		return &EntryError{Index: s.check.index - 1, Name: e.name, Err: err}
	}
	s.progress()
	return nil
}

func (s *scanner) content() io.Reader {
	return io.TeeReader(s.tar, progressWriter{io.Discard, &s.stats, s.progress})
}

func (s *scanner) progress() {
	if s.opts.Progress != nil {
		s.opts.Progress(s.stats)
	}
}

func (s *scanner) leave(dirs []level) error {
	for _, d := range dirs {
		if err := s.make.leave(d.entry); err != nil {
			return fmt.Errorf("restore folder %q: %w", d.name, err)
		}
	}
	return nil
}

// finish insists on tar's end mark, two blocks of zeros, which tar.Reader does
// without, and reads on to io.EOF: only then has the reader below verified
// everything. Zeros may follow, since some writers pad.
func (s *scanner) finish(before int64) error {
	const block = 512
	content := (before + block - 1) / block * block // with its padding
	if s.in.n < content+2*block || s.check.index == 0 {
		if s.in.err != nil && s.in.err != io.EOF {
			return s.readError(s.in.err)
		}
		return ErrIncomplete
	}
	var buf, zeros [4096]byte
	for {
		n, err := s.in.Read(buf[:])
		if !bytes.Equal(buf[:n], zeros[:n]) {
			return ErrIncomplete
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return s.readError(err)
		}
	}
	for i := len(s.check.stack) - 1; i >= 0; i-- {
		if err := s.leave(s.check.stack[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// countingReader hides Seek, by which tar.Reader would skip unread bytes, and
// remembers the error.
type countingReader struct {
	r   io.Reader
	n   int64
	err error
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}
