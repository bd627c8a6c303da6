package backupfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// split cuts a file into its header and its parts, by the frames alone.
func split(t testing.TB, file []byte) [][]byte {
	t.Helper()
	n := int(binary.BigEndian.Uint16(file[10:]))
	out := [][]byte{file[:n]}
	for at := n; at < len(file); {
		end := at + partFixed
		for {
			size := int(binary.BigEndian.Uint32(file[end:]))
			end += chunkFixed + size
			if size == 0 {
				break
			}
		}
		out = append(out, file[at:end])
		at = end
	}
	return out
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// wantCorrupt checks kind and place, and that what came out before is a prefix
// of the plaintext.
func wantCorrupt(t *testing.T, name string, file, plain []byte, kind error, offset int) {
	t.Helper()
	got, err := open(file, testKey(1))
	var c *CorruptError
	if !errors.As(err, &c) || !errors.Is(err, kind) || c.Offset != int64(offset) {
		t.Errorf("%s: got %v, want %q at %d", name, err, kind, offset)
	}
	if !bytes.HasPrefix(plain, got) {
		t.Errorf("%s: read something that was not written", name)
	}
}

func TestEveryFlippedBitIsCorruption(t *testing.T) {
	plain := random(1, 250)
	for _, c := range []Compression{None, Zstd} {
		file := seal(t, testKey(1), plain, Options{Compression: c, PartSize: 100, entries: []Entry{{Type: 9, Value: []byte("x")}}})
		for i := range file {
			for bit := range 8 {
				if i > 200 && bit != i%8 {
					continue // one bit of each byte of the later parts
				}
				bad := bytes.Clone(file)
				bad[i] ^= 1 << bit
				got, err := open(bad, testKey(1))
				var ce *CorruptError
				switch {
				case i < 8 && errors.Is(err, ErrNotABackup):
				case i >= 8 && i < 10 && errors.Is(err, ErrVersion):
				case i >= 10 && errors.As(err, &ce) && !errors.Is(err, ErrWrongKey):
					if ce.Offset > int64(len(file)) {
						t.Fatalf("bit %d of byte %d: offset %d is outside", bit, i, ce.Offset)
					}
				default:
					t.Fatalf("%v: bit %d of byte %d: %v", c, bit, i, err)
				}
				if !bytes.HasPrefix(plain, got) {
					t.Fatalf("bit %d of byte %d: read something that was not written", bit, i)
				}
			}
		}
	}
}

func TestEveryTruncationIsNoticed(t *testing.T) {
	plain := random(1, 250)
	for _, c := range []Compression{None, Zstd} {
		file := seal(t, testKey(1), plain, Options{Compression: c, PartSize: 100})
		for n := range file {
			wantCorrupt(t, c.String(), file[:n], plain, ErrTruncated, n)
		}
	}
}

func TestPartsInDisorder(t *testing.T) {
	plain := random(1, 300)
	opts := Options{Compression: None, PartSize: 100}
	p := split(t, seal(t, testKey(1), plain, opts))
	q := split(t, seal(t, testKey(1), random(2, 300), opts))
	h, size := len(p[0]), len(p[1])
	renumber := func(part []byte, n uint32) []byte {
		part = bytes.Clone(part)
		binary.BigEndian.PutUint32(part, n)
		return part
	}
	flags := func(part []byte, f byte) []byte {
		part = bytes.Clone(part)
		part[4] = f
		return part
	}
	segment := partFixed + chunkFixed + tinkHeader // of a part's first segment
	for _, c := range []struct {
		name   string
		file   []byte
		kind   error
		offset int
	}{
		{"swapped", join(p[0], p[2], p[1], p[3], p[4]), ErrOrder, h},
		{"swapped and renumbered", join(p[0], renumber(p[2], 0), renumber(p[1], 1), p[3], p[4]), ErrAuthentication, h + segment},
		{"dropped", join(p[0], p[1], p[3], p[4]), ErrOrder, h + size},
		{"last one dropped", join(p[0], p[1], p[2], p[4]), ErrOrder, h + 2*size},
		{"last one dropped, closing renumbered", join(p[0], p[1], p[2], renumber(p[4], 2)), ErrAuthentication, h + 2*size + segment},
		{"duplicated", join(p[0], p[1], p[1], p[2], p[3], p[4]), ErrOrder, h + size},
		{"duplicated and renumbered", join(p[0], p[1], renumber(p[1], 1), p[3], p[4]), ErrAuthentication, h + size + segment},
		{"data part marked as last", join(p[0], flags(p[1], partLast), p[2], p[3], p[4]), ErrAuthentication, h + segment},
		{"last flag cleared", join(p[0], p[1], p[2], p[3], flags(p[4], 0)), ErrAuthentication, h + 3*size + segment},
		{"unknown flag", join(p[0], flags(p[1], 2), p[2], p[3], p[4]), ErrFraming, h + 4},
		{"no closing part", join(p[:4]...), ErrTruncated, h + 3*size},
		{"something trails", append(join(p...), 0), ErrTrailing, len(join(p...))},
		{"a second file trails", join(join(p...), join(q...)), ErrTrailing, len(join(p...))},
		{"part of another backup", join(p[0], p[1], q[2], p[3], p[4]), ErrAuthentication, h + size + segment},
		{"closing part of another backup", join(p[0], p[1], p[2], p[3], q[4]), ErrAuthentication, h + 3*size + segment},
		{"header of another backup", join(q[0], p[1], p[2], p[3], p[4]), ErrAuthentication, h + segment},
	} {
		wantCorrupt(t, c.name, c.file, plain, c.kind, c.offset)
	}
}

func TestSegmentsInDisorder(t *testing.T) {
	plain := random(1, 3<<20)
	opts := Options{Compression: None}
	p := split(t, seal(t, testKey(1), plain, opts))
	other := split(t, seal(t, testKey(1), plain, opts))[1]
	const frame = partFixed + chunkFixed + tinkHeader
	cut := func(part []byte) (s [5][]byte) { // frame and Tink header, three full segments, the rest
		at := []int{0, frame, frame + chunkFixed + tinkSegment - tinkHeader}
		at = append(at, at[2]+chunkFixed+tinkSegment, at[2]+2*(chunkFixed+tinkSegment), len(part))
		for i := range s {
			s[i] = part[at[i]:at[i+1]]
		}
		return s
	}
	s, o := cut(p[1]), cut(other)
	h := len(p[0])
	at := func(k int) int { // offset of segment k
		n := h
		for i := range k + 1 {
			n += len(s[i])
		}
		return n
	}
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
		return b
	}
	end := make([]byte, chunkFixed)
	for _, c := range []struct {
		name   string
		file   []byte
		kind   error
		offset int
	}{
		{"flipped in 0", join(p[0], s[0], flip(s[1]), s[2], s[3], s[4], p[2]), ErrAuthentication, at(0)},
		{"flipped in 1", join(p[0], s[0], s[1], flip(s[2]), s[3], s[4], p[2]), ErrAuthentication, at(1)},
		{"flipped in the last", join(p[0], s[0], s[1], s[2], s[3], flip(s[4]), p[2]), ErrAuthentication, at(3)},
		{"swapped", join(p[0], s[0], s[1], s[3], s[2], s[4], p[2]), ErrAuthentication, at(1)},
		{"dropped", join(p[0], s[0], s[1], s[3], s[4], p[2]), ErrAuthentication, at(1)},
		{"duplicated", join(p[0], s[0], s[1], s[2], s[2], s[3], s[4], p[2]), ErrAuthentication, at(2)},
		{"of another part", join(p[0], s[0], s[1], o[2], s[3], s[4], p[2]), ErrAuthentication, at(1)},
		{"part ended at a segment boundary", join(p[0], s[0], s[1], s[2], end, p[2]), ErrAuthentication, at(1)},
		{"part ended before its first segment", join(p[0], s[0], end, p[2]), ErrFraming, at(0)},
		{"file ended at a segment boundary", join(p[0], s[0], s[1], s[2]), ErrTruncated, at(2)},
		{"chunk after a short one", join(p[0], s[0], s[4][:len(s[4])-4], s[2], end, p[2]), ErrFraming, at(0) + len(s[4]) - 4},
	} {
		wantCorrupt(t, c.name, c.file, plain, c.kind, c.offset)
	}
}

func TestWrongKeyIsNotCorruption(t *testing.T) {
	file := seal(t, testKey(1), random(1, 300), Options{})
	_, err := open(file, testKey(2))
	var c *CorruptError
	if !errors.Is(err, ErrWrongKey) || errors.As(err, &c) {
		t.Errorf("another key: %v", err)
	}
	h, err := ReadHeader(bytes.NewReader(file))
	if err != nil || CheckKey(h, testKey(1)) != nil || !errors.Is(CheckKey(h, testKey(2)), ErrWrongKey) {
		t.Error("CheckKey is wrong")
	}
	for _, resume := range []error{
		second(ResumeReader(nil, testKey(2), h, Checkpoint{FileOffset: headerMin}, ReaderOptions{})),
		second(ResumeWriter(nil, testKey(2), h, Checkpoint{FileOffset: headerMin}, Options{})),
	} {
		if !errors.Is(resume, ErrWrongKey) {
			t.Errorf("resume under another key: %v", resume)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// Whoever has the key can write authentic parts that break the format.
func TestAuthenticContentThatDoesNotAddUp(t *testing.T) {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	wide, err := zstd.NewWriter(nil, zstd.WithWindowSize(zstdMaxWindow*2), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	var streamed bytes.Buffer // a stream declares its whole window
	wide.Reset(&streamed)
	wide.Write(random(1, zstdMaxWindow+1))
	wide.Close()
	frame := func(n int) []byte { return z.EncodeAll(make([]byte, n), nil) }
	long := random(1, 101)
	for _, c := range []struct {
		name  string
		comp  Compression
		parts [][]byte
		close []byte // instead of the right one
	}{
		{"part too long", None, [][]byte{long}, nil},
		{"part too short before another", None, [][]byte{long[:99], long[:100]}, nil},
		{"empty part", None, [][]byte{{}}, nil},
		{"zstd bomb", Zstd, [][]byte{frame(16 << 20)}, nil},
		{"zstd frame of nothing", Zstd, [][]byte{frame(0)}, nil},
		{"not zstd", Zstd, [][]byte{long}, nil},
		{"zstd frame cut off", Zstd, [][]byte{frame(100)[:10]}, nil},
		{"zstd window too large", Zstd, [][]byte{streamed.Bytes()}, nil},
		{"totals wrong", None, [][]byte{long[:100]}, make([]byte, closingSize)},
		{"closing part too short", None, [][]byte{long[:100]}, make([]byte, closingSize-1)},
		{"closing part too long", None, [][]byte{long[:100]}, make([]byte, 2<<20)},
	} {
		var file bytes.Buffer
		w, err := NewWriter(&file, testKey(1), Options{Compression: c.comp, PartSize: 100})
		if err != nil {
			t.Fatal(err)
		}
		w.zstd = nil // the parts come as they are
		for _, p := range c.parts {
			if err := w.startPart(); err != nil {
				t.Fatal(err)
			}
			w.part.Write(p)
			if err := w.finishPart(); err != nil {
				t.Fatal(err)
			}
		}
		if c.close == nil {
			err = w.writeClosing()
		} else {
			part, _ := newPartWriter(w.out, w.aead, w.headerSum, w.at.Parts, true)
			part.Write(c.close)
			err = part.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := open(file.Bytes(), testKey(1)); !errors.Is(err, ErrContent) || len(got) > 101 {
			t.Errorf("%s: %d bytes, %v", c.name, len(got), err)
		}
	}
}

func TestMaxBytes(t *testing.T) {
	file := seal(t, testKey(1), make([]byte, 1000), Options{PartSize: 300})
	for limit, want := range map[int64]error{0: nil, 1000: nil, 1001: nil, 999: ErrTooLarge, 1: ErrTooLarge} {
		r, err := NewReader(bytes.NewReader(file), testKey(1), ReaderOptions{MaxBytes: limit})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); !errors.Is(err, want) || (limit > 0 && int64(len(got)) > limit) {
			t.Errorf("limit %d: %d bytes, %v", limit, len(got), err)
		}
	}
}

func TestCheckpointsThatDoNotFit(t *testing.T) {
	file := seal(t, testKey(1), make([]byte, 250), Options{PartSize: 100})
	h, err := ReadHeader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for _, cp := range []Checkpoint{{}, {FileOffset: 73, PlainBytes: 1}, {Parts: 2, FileOffset: 300, PlainBytes: 100},
		{Parts: 2, FileOffset: 300, PlainBytes: 201}, {Parts: 1, FileOffset: 300, PlainBytes: -1}} {
		if second(ResumeReader(nil, testKey(1), h, cp, ReaderOptions{})) == nil ||
			second(ResumeWriter(nil, testKey(1), h, cp, Options{})) == nil {
			t.Errorf("%+v is accepted", cp)
		}
	}
}
