package archive

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"
	"time"
)

// recorder is a maker that keeps the tree in memory.
type recorder struct {
	entries []entry
	content [][]byte
	names   map[string]entry
	left    []string
}

func (r *recorder) add(e entry) error {
	if _, ok := r.names[e.name]; ok {
		return fmt.Errorf("%q was made twice", e.name)
	}
	if parent := path.Dir(e.name); e.name != "." && r.names[parent].kind != tar.TypeDir {
		return fmt.Errorf("%q was made below something that is no folder", e.name)
	}
	r.names[e.name] = e
	r.entries = append(r.entries, e)
	return nil
}

func (r *recorder) dir(e entry) error   { return r.add(e) }
func (r *recorder) link(e entry) error  { return r.add(e) }
func (r *recorder) leave(e entry) error { r.left = append(r.left, e.name); return nil }
func (r *recorder) file(e entry, content io.Reader) error {
	b, err := io.ReadAll(content)
	r.content = append(r.content, b)
	if err != nil {
		return err
	}
	return r.add(e)
}

// escapes walks a path as a kernel does, through every link, from a real
// folder of the tree.
func (r *recorder) escapes(dir []string, target string, links *int) ([]string, bool) {
	at := append([]string(nil), dir...)
	for _, p := range strings.Split(target, "/") {
		switch p {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return nil, true
			}
			at = at[:len(at)-1]
			continue
		}
		if e, ok := r.names[path.Join(append(append([]string(nil), at...), p)...)]; ok && e.kind == tar.TypeSymlink && *links < 40 { // as ELOOP
			*links++
			next, out := r.escapes(at, e.link, links)
			if out || strings.HasPrefix(e.link, "/") {
				return nil, true
			}
			at = next
			continue
		}
		at = append(at, p)
	}
	return at, false
}

func build(t testing.TB, r *recorder) []byte {
	t.Helper()
	var out bytes.Buffer
	w, files := tar.NewWriter(&out), 0
	for _, e := range r.entries {
		h := &tar.Header{Format: tar.FormatPAX, Typeflag: e.kind, Name: e.name, Linkname: e.link, Size: e.size, Mode: int64(e.mode), ModTime: e.mtime}
		if e.kind == tar.TypeDir {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if e.kind == tar.TypeReg {
			if _, err := w.Write(r.content[files]); err != nil {
				t.Fatal(err)
			}
			files++
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func FuzzScan(f *testing.F) {
	at := time.Unix(1_500_000_000, 123)
	d := func(n string) entry { return entry{name: n, kind: tar.TypeDir, mode: 0o700, mtime: at} }
	r := func(n string) entry { return entry{name: n, kind: tar.TypeReg, mode: 0o600, mtime: at, size: 3} }
	l := func(n, to string) entry { return entry{name: n, kind: tar.TypeSymlink, mtime: at, link: to} }
	for _, entries := range [][]entry{
		{d(".")},
		{d("."), r("a"), d("b"), l("b/l", "../a"), r("b/m"), r("z\xff")},
		{d("."), r("../a")},
		{d("."), l("a", "b"), r("a/b")},
		{d("."), d("x"), d("x/y"), l("x/y/l", "../.."), l("z", "x/y/l/..")},
		{d("."), r(strings.Repeat("long/", 40) + "name")},
	} {
		f.Add(build(f, &recorder{entries: entries, content: [][]byte{[]byte("abc"), []byte("def"), []byte("ghi")}}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rec := &recorder{names: map[string]entry{}}
		stats, err := scan(bytes.NewReader(b), Options{MaxBytes: 1 << 20}, rec)
		for _, e := range rec.entries { // also of a stream that is refused further on
			if e.kind != tar.TypeSymlink {
				continue
			}
			if _, out := rec.escapes(strings.Split(path.Dir(e.name), "/"), e.link, new(int)); out && path.Dir(e.name) != "." {
				t.Errorf("link %q to %q leaves the folder", e.name, e.link)
			}
			if _, out := rec.escapes(nil, e.name, new(int)); out {
				t.Errorf("path %q leaves the folder", e.name)
			}
		}
		if err != nil {
			return
		}
		if int64(len(rec.left)) != stats.Dirs || rec.left[len(rec.left)-1] != "." {
			t.Errorf("folders left %q of %d", rec.left, stats.Dirs)
		}
		again := &recorder{names: map[string]entry{}}
		if _, err := scan(bytes.NewReader(build(t, rec)), Options{}, again); err != nil {
			t.Fatalf("written again: %v", err)
		}
		if fmt.Sprint(again.entries, again.content) != fmt.Sprint(rec.entries, rec.content) {
			t.Errorf("written again:\n%v\nwas\n%v", again.entries, rec.entries)
		}
	})
}
