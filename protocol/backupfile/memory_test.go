package backupfile

import (
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
)

// watch samples the heap while a stream passes through.
type watch struct {
	r    io.Reader
	n    int64
	peak uint64
}

func (w *watch) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if w.n>>23 != (w.n+int64(n))>>23 { // every 8 MiB
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		w.peak = max(w.peak, m.HeapInuse)
	}
	w.n += int64(n)
	return n, err
}

// incompressible is an endless stream that costs little.
func incompressible() io.Reader { return rand.NewChaCha8([32]byte{1}) }

// More than two parts go through writer and reader at once, and the heap of
// both together stays below one part.
func TestMemoryDoesNotGrowWithTheBackup(t *testing.T) {
	for _, c := range []struct {
		compression Compression
		size        int64
		bound       uint64
	}{{None, 512 << 20, 32 << 20}, {Zstd, 160 << 20, 64 << 20}} {
		runtime.GC()
		source := &watch{r: io.LimitReader(incompressible(), c.size)}
		pr, pw := io.Pipe()
		go func() {
			w, err := NewWriter(pw, testKey(1), Options{Compression: c.compression, PartSize: MaxPartSize})
			if err == nil {
				_, err = io.Copy(w, source)
			}
			if err == nil {
				err = w.Close()
			}
			pw.CloseWithError(err)
		}()
		r, err := NewReader(pr, testKey(1), ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		sink := &watch{r: r}
		if n, err := io.Copy(io.Discard, sink); err != nil || n != c.size {
			t.Fatalf("%d bytes, %v", n, err)
		}
		peak := max(source.peak, sink.peak)
		t.Logf("%v: %d MiB", c.compression, peak>>20)
		if peak > c.bound || peak == 0 {
			t.Errorf("%v: the heap grew to %d MiB, more than %d", c.compression, peak>>20, c.bound>>20)
		}
	}
}

const benchSize = 256 << 20

func benchAEAD(b *testing.B) *subtle.AESGCMHKDF {
	a, err := fileAEAD(testKey(1), [16]byte{})
	if err != nil {
		b.Fatal(err)
	}
	return a
}

type repeat struct{ block []byte }

func (r repeat) Read(p []byte) (int, error) { return copy(p, r.block), nil }

// The same copy loop for both: what is measured is the writer.
func benchWrite(b *testing.B, open func(io.Writer) (io.WriteCloser, error)) {
	source := repeat{random(1, 1<<20)}
	buf := make([]byte, 256<<10)
	b.SetBytes(benchSize)
	for b.Loop() {
		w, err := open(struct{ io.Writer }{io.Discard})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(source, benchSize), buf); err != nil {
			b.Fatal(err)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	b.Run("tink", func(b *testing.B) {
		a := benchAEAD(b)
		benchWrite(b, func(w io.Writer) (io.WriteCloser, error) { return a.NewEncryptingWriter(w, nil) })
	})
	b.Run("none", func(b *testing.B) {
		benchWrite(b, func(w io.Writer) (io.WriteCloser, error) {
			return NewWriter(w, testKey(1), Options{Compression: None})
		})
	})
	b.Run("zstd", func(b *testing.B) {
		benchWrite(b, func(w io.Writer) (io.WriteCloser, error) { return NewWriter(w, testKey(1), Options{}) })
	})
}

func benchRead(b *testing.B, file []byte, open func(io.Reader) (io.Reader, error)) {
	buf := make([]byte, 256<<10)
	b.SetBytes(benchSize)
	for b.Loop() {
		r, err := open(&sliceReader{file})
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buf); err != nil || n != benchSize {
			b.Fatal(n, err)
		}
	}
}

type sliceReader struct{ b []byte }

func (s *sliceReader) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b)
	s.b = s.b[n:]
	return n, nil
}

func BenchmarkRead(b *testing.B) {
	plain := random(1, benchSize)
	b.Run("tink", func(b *testing.B) {
		a := benchAEAD(b)
		var file sliceWriter
		w, err := a.NewEncryptingWriter(&file, nil)
		if err != nil {
			b.Fatal(err)
		}
		w.Write(plain)
		w.Close()
		benchRead(b, file.b, func(r io.Reader) (io.Reader, error) { return a.NewDecryptingReader(r, nil) })
	})
	for _, c := range []Compression{None, Zstd} {
		b.Run(c.String(), func(b *testing.B) {
			file := seal(b, testKey(1), plain, Options{Compression: c})
			benchRead(b, file, func(r io.Reader) (io.Reader, error) {
				return NewReader(r, testKey(1), ReaderOptions{})
			})
		})
	}
}

type sliceWriter struct{ b []byte }

func (s *sliceWriter) Write(p []byte) (int, error) {
	s.b = append(s.b, p...)
	return len(p), nil
}
