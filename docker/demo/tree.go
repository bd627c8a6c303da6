package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// tree says what is in a folder.
type tree struct {
	files, dirs, links int
	bytes              int64
	// sum is SHA-256 over every entry in the order of fs.WalkDir: path, kind,
	// permission bits, time of modification (not of links), link target, size
	// and content.
	sum [sha256.Size]byte
}

func (t tree) String() string {
	return fmt.Sprintf("%d files in %d folders, %d links, %.1f MB", t.files, t.dirs, t.links, float64(t.bytes)/1e6)
}

// look reads a whole folder.
func look(root string) (tree, error) {
	var t tree
	h := sha256.New()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %v ", name, info.Mode())
		if info.Mode()&fs.ModeSymlink != 0 {
			t.links++
			target, err := os.Readlink(path)
			fmt.Fprintf(h, "-> %q\n", target)
			return err
		}
		fmt.Fprintf(h, "%d ", info.ModTime().UnixNano())
		if d.IsDir() {
			t.dirs++
			fmt.Fprintln(h)
			return nil
		}
		t.files++
		t.bytes += info.Size()
		fmt.Fprintln(h, info.Size())
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(h, f)
		return err
	})
	h.Sum(t.sum[:0])
	return t, err
}

// born is the time of modification of what plant makes, minus some minutes.
var born = time.Date(2026, 3, 14, 15, 9, 26, 535_897_932, time.UTC)

// gardener makes a folder of many kinds of files; the same in each run.
type gardener struct {
	root  string
	noise *rand.ChaCha8
	err   error // the first one; everything after it does nothing
}

// plant makes the files that the demo loses and gets back, more than 50 MB.
func plant(root string) error {
	g := &gardener{root: root, noise: rand.NewChaCha8([32]byte{'d', 'e', 'm', 'o'})}
	g.dir("")
	g.file("photos/holiday.raw", 0o644, g.random(24<<20))
	for i := range 8 {
		g.file(fmt.Sprintf("photos/2026/%02d/IMG_%04d.jpg", i+1, i*37), 0o640, g.random(1<<20))
	}
	g.file("chats/all.txt", 0o600, g.text(12<<20))
	for i := range 600 {
		g.file(fmt.Sprintf("chats/by day/%03d.json", i), 0o600, g.text(200+i*7))
	}
	g.sparse("video/hole.bin", 16<<20)
	g.file(strings.Repeat("deep/", 60)+"down here.txt", 0o644, []byte("sixty folders down\n"))
	g.file(strings.Repeat("long-", 40)+"name.txt", 0o644, []byte("a name of 208 bytes\n"))
	for _, name := range []string{"日本語/ファイル.txt", "Ελληνικά.txt", "emoji 🎈.txt", "cafe\u0301.txt", " spaces and 'quotes'\"", "new\nline"} {
		g.file("names/"+name, 0o644, []byte(name))
	}
	g.file("empty.file", 0o644, nil)
	g.file("run.sh", 0o755, []byte("#!/bin/sh\necho hello\n"))
	g.file("read only.txt", 0o444, []byte("not to be changed\n"))
	g.dir("empty folder/also empty")
	g.link("latest photo", "photos/2026/08/IMG_0259.jpg")
	g.link("photos/up", "../chats")
	g.link("dangling", "nowhere")
	g.date()
	return g.err
}

func (g *gardener) do(f func() error) {
	if g.err == nil {
		g.err = f()
	}
}

func (g *gardener) dir(name string) {
	g.do(func() error { return os.MkdirAll(filepath.Join(g.root, name), 0o755) })
}

func (g *gardener) file(name string, mode fs.FileMode, content []byte) {
	g.dir(filepath.Dir(name))
	path := filepath.Join(g.root, name)
	g.do(func() error { return os.WriteFile(path, content, 0o600) })
	g.do(func() error { return os.Chmod(path, mode) }) // whatever the umask
}

// sparse makes a file of zeros that takes no room on most disks.
func (g *gardener) sparse(name string, size int64) {
	g.file(name, 0o644, nil)
	g.do(func() error { return os.Truncate(filepath.Join(g.root, name), size) })
}

func (g *gardener) link(name, target string) {
	g.do(func() error { return os.Symlink(target, filepath.Join(g.root, name)) })
}

// random is content that cannot be compressed.
func (g *gardener) random(size int) []byte {
	b := make([]byte, size)
	g.noise.Read(b)
	return b
}

var words = strings.Fields("the phone fell into the lake and all the messages pictures and voices of ten years were gone until somebody typed a password")

// text is content that compresses well.
func (g *gardener) text(size int) []byte {
	var b bytes.Buffer
	for b.Len() < size {
		n := g.noise.Uint64()
		b.WriteString(words[n%uint64(len(words))])
		b.WriteByte(" \n"[n>>60/15])
		if n>>56 == 0 {
			b.Write(binary.BigEndian.AppendUint64(nil, n))
		}
	}
	return b.Bytes()[:size]
}

// date sets every time of modification, the innermost first, because making a
// file changes its folder's.
func (g *gardener) date() {
	var paths []string
	g.do(func() error {
		return filepath.WalkDir(g.root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type()&fs.ModeSymlink == 0 {
				paths = append(paths, path)
			}
			return err
		})
	})
	for i := len(paths) - 1; i >= 0; i-- {
		when := born.Add(-time.Duration(i) * time.Minute)
		g.do(func() error { return os.Chtimes(paths[i], when, when) })
	}
}
