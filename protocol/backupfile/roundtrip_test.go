package backupfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// random is data that no compression makes smaller; equal seeds, equal bytes.
func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func testKey(seed byte) BackupKey {
	var k BackupKey
	copy(k.B[:], random(seed, 32))
	return k
}

func seal(t testing.TB, key BackupKey, plain []byte, opts Options) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := NewWriter(&file, key, opts)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(plain); n != len(plain) || err != nil {
		t.Fatalf("wrote %d of %d: %v", n, len(plain), err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func open(file []byte, key BackupKey) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(file), key, ReaderOptions{})
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestRoundTripAtEveryBoundary(t *testing.T) {
	const segment = tinkSegment - tinkTag
	first := segment - tinkHeader
	key := testKey(1)
	type size struct{ part, plain int }
	var sizes []size
	for _, n := range []int{0, 1, 9, 10, 11, 19, 20, 21, 100, 101} {
		sizes = append(sizes, size{10, n})
	}
	for _, at := range []int{first, first + segment} { // segment boundaries in one part
		for d := -1; d <= 1; d++ {
			sizes = append(sizes, size{DefaultPartSize, at + d}, size{at + d, 2*at + 1}, size{at + d, 2 * (at + d)})
		}
	}
	for _, c := range []Compression{None, Zstd} {
		for _, s := range sizes {
			plain := random(2, s.plain)
			file := seal(t, key, plain, Options{Compression: c, PartSize: s.part})
			got, err := open(file, key)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%v, %d bytes in parts of %d: got %d, %v", c, s.plain, s.part, len(got), err)
			}
		}
	}
}

func TestReadsAndWritesOfEverySize(t *testing.T) {
	plain := random(3, 5000)
	for _, c := range []Compression{None, Zstd} {
		var file bytes.Buffer
		w, err := NewWriter(&file, testKey(1), Options{Compression: c, PartSize: 777})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(struct{ io.Writer }{w}, iotest.OneByteReader(bytes.NewReader(plain))); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"one byte": iotest.OneByteReader, "half": iotest.HalfReader, "data and EOF": iotest.DataErrReader,
		} {
			r, err := NewReader(wrap(bytes.NewReader(file.Bytes())), testKey(1), ReaderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := iotest.TestReader(r, plain); err != nil {
				t.Errorf("%v, %s: %v", c, name, err)
			}
		}
	}
}

func TestZstdMakesTextSmaller(t *testing.T) {
	plain := bytes.Repeat([]byte("See you at the lake on Sunday? "), 1<<16)
	file := seal(t, testKey(1), plain, Options{PartSize: 1 << 20})
	if len(file) > len(plain)/100 {
		t.Errorf("%d bytes became %d", len(plain), len(file))
	}
	if got, err := open(file, testKey(1)); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// Two backups of the same plaintext share neither id nor salt, so no key and
// nonce is used twice.
func TestNoTwoPartsShareAKey(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		file := seal(t, testKey(1), make([]byte, 300), Options{Compression: None, PartSize: 100})
		for _, p := range split(t, file)[1:] {
			salt := string(p[partFixed+chunkFixed : partFixed+chunkFixed+tinkHeader])
			if seen[salt] {
				t.Fatal("a salt came twice")
			}
			seen[salt] = true
		}
	}
	if len(seen) != 3*4 {
		t.Errorf("%d salts", len(seen))
	}
}

func TestWriterStopsForGood(t *testing.T) {
	disk := errors.New("disk full")
	for _, c := range []Compression{None, Zstd} {
		for limit := 0; ; limit += 5 {
			w, err := NewWriter(&limited{left: limit, err: disk}, testKey(1), Options{Compression: c, PartSize: 500})
			if err == nil {
				_, err = w.Write(random(1, 1000))
			}
			if err == nil {
				err = w.Close()
			}
			if err == nil {
				if limit < 1000 {
					t.Fatalf("%v: %d bytes were enough", c, limit)
				}
				break
			}
			if !errors.Is(err, disk) {
				t.Fatalf("%v, limit %d: %v", c, limit, err)
			}
			if w != nil && (w.Close() == nil || !errors.Is(w.Close(), disk)) {
				t.Fatalf("%v, limit %d: Close hides the error", c, limit)
			}
		}
	}
}

type limited struct {
	left int
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, l.err
	}
	l.left -= len(p)
	return len(p), nil
}

func TestAbortedFileNeverVerifies(t *testing.T) {
	for _, c := range []Compression{None, Zstd} {
		for _, n := range []int{0, 50, 100, 150} {
			var file bytes.Buffer
			w, err := NewWriter(&file, testKey(1), Options{Compression: c, PartSize: 100})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(random(1, n)); err != nil {
				t.Fatal(err)
			}
			w.Abort()
			if err := w.Close(); !errors.Is(err, ErrAborted) {
				t.Errorf("Close after Abort: %v", err)
			}
			if _, err := w.Write([]byte{1}); !errors.Is(err, ErrAborted) {
				t.Errorf("Write after Abort: %v", err)
			}
			if _, err := open(file.Bytes(), testKey(1)); !errors.Is(err, ErrTruncated) {
				t.Errorf("%v, %d bytes: %v", c, n, err)
			}
		}
	}
	var file bytes.Buffer
	w, _ := NewWriter(&file, testKey(1), Options{})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	size := file.Len()
	w.Abort()
	if _, err := w.Write([]byte{1}); err == nil || w.Close() == nil || file.Len() != size {
		t.Error("a closed Writer goes on")
	}
}

func TestResumeAtEveryPart(t *testing.T) {
	key, plain := testKey(1), random(5, 1050)
	for _, c := range []Compression{None, Zstd} {
		var points []Checkpoint
		note := func(cp Checkpoint) error { points = append(points, cp); return nil }
		whole := seal(t, key, plain, Options{Compression: c, PartSize: 100, OnPart: note})
		h, err := ReadHeader(bytes.NewReader(whole))
		if err != nil {
			t.Fatal(err)
		}
		written := points
		points = nil
		r, err := NewReader(bytes.NewReader(whole), key, ReaderOptions{OnPart: note})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
		if len(written) != 11 || fmt.Sprint(written) != fmt.Sprint(points) {
			t.Fatalf("writer and reader see other parts:\n%v\n%v", written, points)
		}
		start := Checkpoint{FileOffset: int64(h.length())}
		for _, cp := range append([]Checkpoint{start}, points...) {
			r, err := ResumeReader(bytes.NewReader(whole[cp.FileOffset:]), key, h, cp, ReaderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain[cp.PlainBytes:]) {
				t.Errorf("%v: read from part %d: %d bytes, %v", c, cp.Parts, len(got), err)
			}
			if cp.PlainBytes%100 != 0 {
				if _, err := ResumeWriter(io.Discard, key, h, cp, Options{}); err == nil {
					t.Error("wrote behind a part that is not full")
				}
				continue
			}
			file := bytes.NewBuffer(bytes.Clone(whole[:cp.FileOffset]))
			w, err := ResumeWriter(file, key, h, cp, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(plain[cp.PlainBytes:]); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := open(file.Bytes(), key); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%v: written from part %d: %d bytes, %v", c, cp.Parts, len(got), err)
			}
		}
	}
}

// After a resumed upload the cloud holds two authentic versions of a part.
func TestPartOfAnEarlierAttemptIsNoticed(t *testing.T) {
	key, plain := testKey(1), random(5, 250)
	var points []Checkpoint
	first := seal(t, key, plain, Options{Compression: None, PartSize: 100, OnPart: func(cp Checkpoint) error {
		points = append(points, cp)
		return nil
	}})
	h, err := ReadHeader(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	second := bytes.NewBuffer(bytes.Clone(first[:points[0].FileOffset]))
	w, err := ResumeWriter(second, key, h, points[0], Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.Write(random(6, 150)) // the plaintext changed meanwhile
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a, b := split(t, first), split(t, second.Bytes())
	mixed := bytes.Join([][]byte{a[0], a[1], a[2], b[3], b[4]}, nil)
	if _, err := open(mixed, key); !errors.Is(err, ErrContent) {
		t.Errorf("parts of two attempts: %v", err)
	}
	if _, err := open(bytes.Join(b, nil), key); err != nil {
		t.Errorf("the second attempt alone: %v", err)
	}
}

func TestCallbackStopsBothSides(t *testing.T) {
	stop := errors.New("stop")
	w, err := NewWriter(io.Discard, testKey(1), Options{PartSize: 10, OnPart: func(Checkpoint) error { return stop }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 10)); !errors.Is(err, stop) {
		t.Error(err)
	}
	r, err := NewReader(bytes.NewReader(seal(t, testKey(1), make([]byte, 10), Options{})), testKey(1),
		ReaderOptions{OnPart: func(Checkpoint) error { return stop }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func TestOptionsOutOfRange(t *testing.T) {
	for _, o := range []Options{{PartSize: -1}, {PartSize: MaxPartSize + 1}, {Compression: 2},
		{entries: []Entry{{Value: make([]byte, MaxHeader)}}}} {
		if _, err := NewWriter(io.Discard, testKey(1), o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func TestReaderErrorsAreNotCorruption(t *testing.T) {
	file := seal(t, testKey(1), random(1, 300), Options{PartSize: 100})
	broken := errors.New("network")
	for n := range file {
		r, err := NewReader(io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(broken)), testKey(1), ReaderOptions{})
		if err == nil {
			_, err = io.ReadAll(r)
		}
		var c *CorruptError
		if !errors.Is(err, broken) || errors.As(err, &c) {
			t.Fatalf("reader fails at %d: %v", n, err)
		}
	}
}
