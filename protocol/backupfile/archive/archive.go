// Package archive keeps a folder as one PAX tar stream (POSIX.1-2001) and
// restores it whole or not at all.
//
// The stream is canonical: the folder itself comes first, as "./"; then its
// content in pre-order, each directory before what is in it, names of one
// directory ascending by bytes. Directories end with a slash. There are
// regular files, directories and symbolic links, nothing else. So a stream
// says the same for the same tree, and a name that comes twice, or an entry
// below something that is not a directory, shows without a list of all names.
//
// Kept are content, the nine permission bits, times of modification (not of
// links), links that stay inside, empty directories, and names of any bytes
// except NUL and backslash; PAX stores names that are not UTF-8 as they are.
// Not kept are owners, set-user-id, set-group-id and sticky bits, extended
// attributes and holes; hard links become files of their own.
package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"
)

const (
	maxPath = 4096 // bytes of a name or of a link's target
	// maxDepth of directories below the root.
	maxDepth = 255
	// DefaultMaxEntries unless Options say otherwise.
	DefaultMaxEntries = 10_000_000
	maxTime           = 1 << 33 // seconds from 1970, either way: what a time in nanoseconds holds
)

// What is wrong with an entry; see EntryError.
var (
	// ErrName: empty, absolute, with "..", ".", a backslash, a drive letter or
	// NUL, or longer than 4,096 bytes or 255 levels.
	ErrName = errors.New("name is not safe to restore")
	// ErrLink: a link whose target might leave the folder, or something below
	// a link.
	ErrLink = errors.New("link is not safe to restore")
	// ErrType: neither file nor directory nor symbolic link.
	ErrType = errors.New("kind of file is not supported")
	// ErrDuplicate: the name was there before.
	ErrDuplicate = errors.New("name comes twice")
	// ErrOrder: the entry does not stand where the canonical order has it.
	ErrOrder = errors.New("entry is out of order")
	// ErrLimit: more entries or bytes than Options allow.
	ErrLimit = errors.New("archive is larger than allowed")
	// ErrChanged: the file was written to while it was read.
	ErrChanged = errors.New("file changed while it was read")
	// ErrVanished: the file was deleted before it was read. Only in Skipped.
	ErrVanished = errors.New("file was deleted before it was read")
)

var (
	// ErrTargetExists: a restore never mixes with what is there already.
	ErrTargetExists = errors.New("target exists and is not an empty folder")
	// ErrIncomplete: the stream ends without tar's end mark, or goes on behind it.
	ErrIncomplete = errors.New("archive does not end where it should")
)

// EntryError says which entry of the stream is refused.
type EntryError struct {
	Index int64  // from 0, the folder itself
	Name  string // as it stands there: print it quoted
	Err   error
}

func (e *EntryError) Error() string {
	return fmt.Sprintf("archive entry %d (%q): %v", e.Index, e.Name, e.Err)
}

func (e *EntryError) Unwrap() error { return e.Err }

// Options of Write, Check and Restore. The zero value is good.
type Options struct {
	MaxEntries int64       // 0: DefaultMaxEntries
	MaxBytes   int64       // content of all files together; 0: no limit
	Progress   func(Stats) // called after each entry and about each MiB of content
}

// Stats counts what was done. Skipped is set by Write only.
type Stats struct {
	Files, Dirs, Links int64
	Bytes              int64     // content of files
	Skipped            []Skipped // what the archive cannot hold: show it to the person
}

// Skipped is a file that a backup leaves out: a socket, pipe or device, a link
// that leaves the folder, a name that no restore accepts. A directory is left
// out with all that is in it.
type Skipped struct {
	Name string // relative to the folder
	Err  error  // ErrName, ErrLink, ErrType or ErrVanished
}

// entry is a tar header that passed all checks.
type entry struct {
	name  string // without the slash of a directory; "." is the folder itself
	kind  byte   // tar.TypeReg, TypeDir or TypeSymlink
	mode  fs.FileMode
	mtime time.Time
	size  int64
	link  string
}

// level is a directory that is open in the pre-order.
type level struct {
	entry
	last     string // the name that came last in it
	lastKind byte
}

// checker holds the rules of the stream. Both sides use it, so that whatever
// is written can be restored.
type checker struct {
	opts  Options
	index int64 // of the next entry
	bytes int64
	stack []level
}

func newChecker(o Options) *checker {
	if o.MaxEntries == 0 {
		o.MaxEntries = DefaultMaxEntries
	}
	return &checker{opts: o}
}

// next checks a header. It returns the directories that this entry leaves
// behind, innermost first. After an error the checker is as before.
func (c *checker) next(h *tar.Header) (entry, []level, error) {
	e, err := c.parse(h)
	if err != nil {
		return entry{}, nil, c.entryError(h.Name, err)
	}
	if c.index == 0 {
		c.index, c.stack = 1, []level{{entry: e}}
		return e, nil, nil
	}
	parts := strings.Split(e.name, "/")
	depth, base := len(parts)-1, parts[len(parts)-1]
	if err := c.place(parts[:depth], base); err != nil {
		return entry{}, nil, c.entryError(h.Name, err)
	}
	var left []level
	for len(c.stack) > depth+1 {
		left = append(left, c.stack[len(c.stack)-1])
		c.stack = c.stack[:len(c.stack)-1]
	}
	c.stack[depth].last, c.stack[depth].lastKind = base, e.kind
	if e.kind == tar.TypeDir {
		c.stack = append(c.stack, level{entry: e})
	}
	c.index++
	c.bytes += e.size
	return e, left, nil
}

func (c *checker) entryError(name string, err error) error {
	return &EntryError{Index: c.index, Name: name, Err: err}
}

// place checks that the directories are the open ones, and the order in there.
func (c *checker) place(dirs []string, base string) error {
	for i, dir := range dirs {
		if i+1 < len(c.stack) && c.stack[i].last == dir {
			continue
		}
		if i < len(c.stack) && c.stack[i].last == dir && c.stack[i].lastKind == tar.TypeSymlink {
			return fmt.Errorf("%w: its folder is a link", ErrLink) // writing through it
		}
		return fmt.Errorf("%w: its folder does not stand before it", ErrOrder)
	}
	switch last := c.stack[len(dirs)].last; {
	case base == last:
		return ErrDuplicate
	case base < last:
		return ErrOrder
	}
	return nil
}

func (c *checker) parse(h *tar.Header) (entry, error) {
	e := entry{name: h.Name, kind: h.Typeflag, mode: fs.FileMode(h.Mode) & 0o777, mtime: h.ModTime, link: h.Linkname}
	for record := range h.PAXRecords {
		if strings.HasPrefix(record, "GNU.sparse.") {
			return e, fmt.Errorf("%w: sparse file", ErrType) // a few bytes could become terabytes
		}
	}
	switch e.kind {
	case tar.TypeReg:
		e.size = h.Size
	case tar.TypeSymlink:
	case tar.TypeDir:
		var slash bool
		if e.name, slash = strings.CutSuffix(e.name, "/"); !slash {
			return e, fmt.Errorf("%w: a folder ends with a slash", ErrName)
		}
	default:
		return e, fmt.Errorf("%w: type %q", ErrType, e.kind)
	}
	if s := e.mtime.Unix(); s > maxTime || s < -maxTime {
		return e, fmt.Errorf("%w: time of modification", ErrType)
	}
	if c.index == 0 {
		if e.kind != tar.TypeDir || e.name != "." {
			return e, fmt.Errorf("%w: the folder itself, ./, does not stand first", ErrOrder)
		}
		return e, nil
	}
	if err := checkName(e.name); err != nil {
		return e, err
	}
	if e.kind == tar.TypeSymlink {
		if err := checkLink(e.name, e.link); err != nil {
			return e, err
		}
	}
	if c.index >= c.opts.MaxEntries {
		return e, fmt.Errorf("%w: %d entries", ErrLimit, c.opts.MaxEntries)
	}
	if c.opts.MaxBytes > 0 && e.size > c.opts.MaxBytes-c.bytes {
		return e, fmt.Errorf("%w: %d bytes", ErrLimit, c.opts.MaxBytes)
	}
	return e, nil
}

// checkName refuses what could leave the folder on any system, or mean two
// things on two systems.
func checkName(name string) error {
	if name == "" || len(name) > maxPath || strings.ContainsAny(name, "\x00\\") || hasDrive(name) {
		return ErrName
	}
	parts := strings.Split(name, "/")
	for _, p := range parts {
		if p == "" || p == "." || p == ".." {
			return ErrName
		}
	}
	if len(parts) > maxDepth || !filepath.IsLocal(name) { // IsLocal: reserved names of Windows
		return ErrName
	}
	return nil
}

func hasDrive(name string) bool {
	return len(name) >= 2 && name[1] == ':' && (name[0]|0x20 >= 'a' && name[0]|0x20 <= 'z')
}

// checkLink allows ".." only at the start of a target: there it climbs real
// directories, since nothing stands below a link. Behind another component it
// could climb from wherever a second link leads.
func checkLink(name, target string) error {
	if target == "" || target[0] == '/' || len(target) > maxPath || strings.ContainsAny(target, "\x00\\") || hasDrive(target) {
		return ErrLink
	}
	up, down := strings.Count(name, "/"), false
	for _, p := range strings.Split(target, "/") {
		switch p {
		case "", ".":
		case "..":
			if up--; up < 0 || down {
				return ErrLink
			}
		default:
			down = true
		}
	}
	return nil
}
