//go:build unix

package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chatvault/protocol/backupfile/archive"
)

// tree makes a folder of every kind of file that is kept.
func tree(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "chats")
	must(t, os.Mkdir(dir, 0o750))
	long := strings.Repeat("long/", 60) + "name"
	for name, content := range map[string]string{
		"a.txt":                                 "hello",
		"a/b/c.bin":                             strings.Repeat("\x00\x01", 100_000),
		"a/empty":                               "",
		"locked/file":                           "in a folder that is read-only",
		"a-b":                                   "sorts between a and a/",
		"media/\u00fcml\u00e4ut \U0001f600.jpg": "unicode",
		"media/not-utf8-\xff\xfe":               "bytes",
		"media/new\nline \"q\"":                 "odd",
		"media/.hidden":                         "dot",
		"media/..dots..":                        "dots",
		long:                                    "deep",
		strings.Repeat("n", 255):                "long name",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640))
	}
	must(t, os.MkdirAll(filepath.Join(dir, "empty/inner"), 0o700))
	must(t, os.Symlink("../a.txt", filepath.Join(dir, "a/up")))
	must(t, os.Symlink("gone", filepath.Join(dir, "dangling")))
	must(t, os.Symlink("a/b", filepath.Join(dir, "to-folder")))
	must(t, os.Chmod(filepath.Join(dir, "a.txt"), 0o755))
	must(t, os.Chmod(filepath.Join(dir, "a/empty"), 0o400))
	at := time.Date(2019, 7, 1, 12, 30, 15, 123456789, time.UTC)
	must(t, os.Chtimes(filepath.Join(dir, "a.txt"), at, at))
	must(t, os.Chtimes(filepath.Join(dir, "empty"), at, at))
	old := time.Date(1931, 1, 1, 0, 0, 0, 0, time.UTC)
	must(t, os.Chtimes(filepath.Join(dir, "a-b"), old, old))
	must(t, os.Chmod(filepath.Join(dir, "locked"), 0o500))
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "locked"), 0o700) })
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// describe lists all that a restore must bring back.
func describe(t testing.TB, dir string) string {
	t.Helper()
	var out strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&out, "%q %v", name, info.Mode())
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %v %q", info.ModTime().UTC(), b)
		case info.IsDir():
			fmt.Fprintf(&out, " %v", info.ModTime().UTC())
		default:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " -> %q", target)
		}
		out.WriteByte('\n')
		return nil
	}))
	return out.String()
}

func write(t testing.TB, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	stats, err := archive.Write(&out, dir, archive.Options{})
	must(t, err)
	if len(stats.Skipped) > 0 {
		t.Fatalf("skipped %v", stats.Skipped)
	}
	return out.Bytes()
}

func TestRoundTrip(t *testing.T) {
	dir := tree(t)
	stream := write(t, dir)
	if again := write(t, dir); !bytes.Equal(again, stream) {
		t.Error("the same folder gives other bytes")
	}
	target := filepath.Join(t.TempDir(), "back")
	calls := 0
	stats, err := archive.Restore(bytes.NewReader(stream), target, archive.Options{Progress: func(archive.Stats) { calls++ }})
	must(t, err)
	t.Cleanup(func() { os.Chmod(filepath.Join(target, "locked"), 0o700) })
	if got, want := describe(t, target), describe(t, dir); got != want {
		t.Errorf("restored:\n%s\nwant:\n%s", got, want)
	}
	checked, err := archive.Check(bytes.NewReader(stream), archive.Options{})
	if err != nil || fmt.Sprint(checked) != fmt.Sprint(stats) || stats.Files != 12 || stats.Links != 3 || calls < 14 {
		t.Errorf("check says %+v, restore %+v, %d calls, %v", checked, stats, calls, err)
	}
	if again := write(t, target); !bytes.Equal(again, stream) {
		t.Error("the restored folder gives another archive")
	}
}

func TestWhatAnArchiveCannotHoldIsTold(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "ok"), []byte("x"), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, `back\slash`), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, `back\slash`, "inside"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "C:x"), nil, 0o600))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "absolute")))
	must(t, os.Symlink("../x", filepath.Join(dir, "out")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	var out bytes.Buffer
	stats, err := archive.Write(&out, dir, archive.Options{})
	must(t, err)
	want := map[string]error{`back\slash`: archive.ErrName, "C:x": archive.ErrName, "absolute": archive.ErrLink,
		"out": archive.ErrLink, "pipe": archive.ErrType}
	for _, s := range stats.Skipped {
		if !errors.Is(s.Err, want[s.Name]) || want[s.Name] == nil {
			t.Errorf("%q: %v", s.Name, s.Err)
		}
	}
	if len(stats.Skipped) != len(want) || stats.Files != 1 {
		t.Errorf("%+v", stats)
	}
	_, err = archive.Restore(&out, filepath.Join(t.TempDir(), "back"), archive.Options{})
	must(t, err)
}

// touch changes a file while the archive of the folder is being written.
type touch struct {
	io.Writer
	do func()
}

func (w *touch) Write(p []byte) (int, error) {
	if w.do != nil && len(p) > 512 {
		w.do()
		w.do = nil
	}
	return w.Writer.Write(p)
}

func TestFileThatChangesWhileItIsRead(t *testing.T) {
	for name, change := range map[string]func(*testing.T, string){
		"grows":   func(t *testing.T, p string) { appendTo(t, p, "more") },
		"shrinks": func(t *testing.T, p string) { must(t, os.Truncate(p, 300_000)) },
		"is rewritten": func(t *testing.T, p string) {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			must(t, err)
			defer f.Close()
			f.WriteAt([]byte("x"), 0)
			must(t, os.Chtimes(p, time.Now(), time.Now().Add(time.Minute)))
		},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "db")
		must(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
		_, err := archive.Write(&touch{io.Discard, func() { change(t, path) }}, dir, archive.Options{})
		var e *archive.EntryError
		if !errors.Is(err, archive.ErrChanged) || !errors.As(err, &e) || e.Index != 1 || e.Name != "db" {
			t.Errorf("file %s: %v", name, err)
		}
	}
}

func appendTo(t *testing.T, path, text string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteString(text)
	must(t, err)
}

// stream builds an archive by hand.
func stream(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if h.Format == 0 {
			h.Format = tar.FormatPAX
		}
		h.Mode |= 0o700
		must(t, w.WriteHeader(&h))
		_, err := io.CopyN(w, zeros{}, h.Size)
		must(t, err)
	}
	must(t, w.Close())
	return out.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func dir(name string) tar.Header  { return tar.Header{Typeflag: tar.TypeDir, Name: name} }
func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 3} }
func link(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
}
func kind(name string, flag byte, to string) tar.Header {
	return tar.Header{Typeflag: flag, Name: name, Linkname: to}
}

func TestEntriesThatAreRefused(t *testing.T) {
	root := dir("./")
	deep := []tar.Header{root}
	for i := range 256 {
		deep = append(deep, dir(strings.Repeat("d/", i+1)))
	}
	late := file("late")
	late.ModTime = time.Unix(1<<40, 0)
	type headers = []tar.Header
	for _, c := range []struct {
		name    string
		entries headers
		index   int64
		want    error
	}{
		{"no root", headers{file("a")}, 0, archive.ErrOrder},
		{"second root", headers{root, root}, 1, archive.ErrName},
		{"parent", headers{root, file("../a")}, 1, archive.ErrName},
		{"parent inside", headers{root, dir("a/"), file("a/../../b")}, 2, archive.ErrName},
		{"parent at the end", headers{root, dir("a/.."), dir("a/../")}, 1, archive.ErrName},
		{"absolute", headers{root, file("/etc/passwd")}, 1, archive.ErrName},
		{"double slash", headers{root, dir("a/"), file("a//b")}, 2, archive.ErrName},
		{"dot", headers{root, file("./a")}, 1, archive.ErrName},
		{"backslash", headers{root, file(`..\a`)}, 1, archive.ErrName},
		{"drive", headers{root, file("C:a")}, 1, archive.ErrName},
		{"drive, small letter", headers{root, file("c:/a")}, 1, archive.ErrName},
		{"path too long", headers{root, file(strings.Repeat("x", 4097))}, 1, archive.ErrName},
		{"too deep", deep, 256, archive.ErrName},
		{"file twice", headers{root, file("a"), file("a")}, 2, archive.ErrDuplicate},
		{"folder twice", headers{root, dir("a/"), file("a/x"), dir("a/")}, 3, archive.ErrDuplicate},
		{"file over folder", headers{root, dir("a/"), file("a")}, 2, archive.ErrDuplicate},
		{"file over link", headers{root, link("a", "b"), file("a")}, 2, archive.ErrDuplicate},
		{"not sorted", headers{root, file("b"), file("a")}, 2, archive.ErrOrder},
		{"back into a folder", headers{root, dir("a/"), dir("b/"), file("a/x")}, 3, archive.ErrOrder},
		{"no folder", headers{root, file("a/x")}, 1, archive.ErrOrder},
		{"folder is a file", headers{root, file("a"), file("a/x")}, 2, archive.ErrOrder},
		{"folder with no folder above", headers{root, dir("a/b/")}, 1, archive.ErrOrder},
		{"through a link", headers{root, link("a", "b"), file("a/x")}, 2, archive.ErrLink},
		{"through a link, deeper", headers{root, dir("d/"), link("d/a", "."), file("d/a/x")}, 3, archive.ErrLink},
		{"link to absolute", headers{root, link("a", "/etc/passwd")}, 1, archive.ErrLink},
		{"link to parent", headers{root, link("a", "..")}, 1, archive.ErrLink},
		{"link out", headers{root, dir("d/"), link("d/a", "../../x")}, 2, archive.ErrLink},
		{"link out by another link", headers{root, link("a", "b/..")}, 1, archive.ErrLink},
		{"link to drive", headers{root, link("a", "C:x")}, 1, archive.ErrLink},
		{"link with backslash", headers{root, link("a", `..\x`)}, 1, archive.ErrLink},
		{"hard link out", headers{root, kind("a", tar.TypeLink, "../x")}, 1, archive.ErrType},
		{"hard link inside", headers{root, file("a"), kind("b", tar.TypeLink, "a")}, 2, archive.ErrType},
		{"character device", headers{root, kind("a", tar.TypeChar, "")}, 1, archive.ErrType},
		{"block device", headers{root, kind("a", tar.TypeBlock, "")}, 1, archive.ErrType},
		{"pipe", headers{root, kind("a", tar.TypeFifo, "")}, 1, archive.ErrType},
		{"unknown type", headers{root, kind("a", 'Q', "")}, 1, archive.ErrType},
		{"time out of range", headers{root, late}, 1, archive.ErrType},
	} {
		b := stream(t, c.entries...)
		parent := t.TempDir()
		target := filepath.Join(parent, "back")
		_, restored := archive.Restore(bytes.NewReader(b), target, archive.Options{})
		_, checked := archive.Check(bytes.NewReader(b), archive.Options{})
		for _, err := range []error{restored, checked} {
			var e *archive.EntryError
			if !errors.Is(err, c.want) || !errors.As(err, &e) || e.Index != c.index {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if names, _ := os.ReadDir(parent); len(names) > 0 {
			t.Errorf("%s: left %v behind", c.name, names)
		}
	}
}

// archive/tar writes no sparse files, but reads them.
func TestSparseFileIsRefused(t *testing.T) {
	rootOnly := stream(t, dir("./"))
	block := func(name string, flag byte, size int) []byte {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(size), Mode: 0o600, Format: tar.FormatUSTAR}
		b := stream(t, h)[:512]
		b[156] = flag
		copy(b[148:156], "        ")
		sum := 0
		for _, x := range b {
			sum += int(x)
		}
		copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}
	pax := ""
	for _, kv := range []string{"GNU.sparse.numblocks=1", "GNU.sparse.map=0,1", "GNU.sparse.size=1099511627776"} {
		n := len(kv) + 4
		pax += fmt.Sprintf("%d %s\n", n, kv)
	}
	body := make([]byte, 512)
	copy(body, pax)
	b := bytes.Join([][]byte{rootOnly[:len(rootOnly)-1024], block("PaxHeaders/s", 'x', len(pax)), body, block("s", '0', 1), make([]byte, 512+1024)}, nil)
	if _, err := archive.Check(bytes.NewReader(b), archive.Options{}); !errors.Is(err, archive.ErrType) {
		t.Errorf("sparse: %v", err)
	}
}

func TestLinksThatStayInside(t *testing.T) {
	b := stream(t, dir("./"), dir("a/"), dir("a/b/"), link("a/b/l", "../../c//./d"), link("a/m", ".."), link("x", "a/m/a"))
	_, err := archive.Restore(bytes.NewReader(b), filepath.Join(t.TempDir(), "back"), archive.Options{})
	must(t, err)
}

func TestModeBitsThatAreNotRestored(t *testing.T) {
	suid := file("a")
	suid.Mode = 0o7755
	target := filepath.Join(t.TempDir(), "back")
	_, err := archive.Restore(bytes.NewReader(stream(t, dir("./"), suid)), target, archive.Options{})
	must(t, err)
	info, err := os.Lstat(filepath.Join(target, "a"))
	must(t, err)
	if info.Mode() != 0o755 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestLimits(t *testing.T) {
	b := stream(t, dir("./"), file("a"), file("b"))
	for _, c := range []struct {
		o    archive.Options
		want error
	}{
		{archive.Options{MaxEntries: 3, MaxBytes: 6}, nil},
		{archive.Options{MaxEntries: 2}, archive.ErrLimit},
		{archive.Options{MaxBytes: 5}, archive.ErrLimit},
	} {
		if _, err := archive.Check(bytes.NewReader(b), c.o); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}
