package backupfile

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
)

// chunkLimit is the most that the chunk at this position of a Tink stream
// holds: the Tink header stands alone, the first segment is shorter by it.
func chunkLimit(pos int64) int {
	switch pos {
	case 0:
		return tinkHeader
	case tinkHeader:
		return tinkSegment - tinkHeader
	}
	return tinkSegment
}

// maxChunks bounds the stored bytes of a part: MaxStored takes 65 segments,
// the first being shorter, and one chunk is the Tink header.
const maxChunks = 1 + MaxStored/(tinkSegment-tinkTag) + 1

// partWriter encrypts one part.
type partWriter struct {
	chunks *chunkWriter
	tink   io.WriteCloser
}

func newPartWriter(w io.Writer, a *subtle.AESGCMHKDF, headerSum [sha256.Size]byte, part uint32, last bool) (*partWriter, error) {
	frame := binary.BigEndian.AppendUint32(nil, part)
	if last {
		frame = append(frame, partLast)
	} else {
		frame = append(frame, 0)
	}
	if _, err := w.Write(frame); err != nil {
		return nil, err
	}
	chunks := &chunkWriter{w: w}
	tink, err := a.NewEncryptingWriter(chunks, partAAD(headerSum, part, last))
	if err != nil {
		return nil, err
	}
	return &partWriter{chunks, tink}, nil
}

func (p *partWriter) Write(b []byte) (int, error) { return p.tink.Write(b) }

func (p *partWriter) Close() error {
	if err := p.tink.Close(); err != nil {
		return err
	}
	return p.chunks.end()
}

// chunkWriter writes each Write as one chunk. tink-go writes its header and
// then each segment in one call; should it ever do otherwise, writing fails
// here and not at somebody's restore.
type chunkWriter struct {
	w      io.Writer
	pos    int64
	count  int
	short  bool // a chunk below its limit was written: it must be the last
	header [tinkHeader]byte
	frame  [chunkFixed]byte
}

func (c *chunkWriter) Write(p []byte) (int, error) {
	limit := chunkLimit(c.pos)
	if len(p) == 0 || len(p) > limit || c.short || (c.pos == 0 && len(p) != limit) || c.count == maxChunks {
		return 0, fmt.Errorf("backupfile: chunk of %d bytes at %d of a part", len(p), c.pos)
	}
	if c.pos == 0 {
		copy(c.header[:], p)
	}
	binary.BigEndian.PutUint32(c.frame[:], uint32(len(p)))
	if _, err := c.w.Write(c.frame[:]); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	c.pos += int64(n)
	c.count++
	c.short = len(p) < limit
	return n, err
}

func (c *chunkWriter) end() error {
	_, err := c.w.Write(make([]byte, chunkFixed))
	return err
}

// partReader decrypts one part. It returns io.EOF only when the last segment
// is authenticated and the part's end was seen.
type partReader struct {
	src    *source
	part   uint32
	start  int64 // of the first chunk's frame, in the file
	chunks *chunkReader
	tink   io.Reader
	plain  int64 // stored bytes returned
	err    error
}

func newPartReader(src *source, a *subtle.AESGCMHKDF, headerSum [sha256.Size]byte, part uint32, last bool) (*partReader, error) {
	p := &partReader{src: src, part: part, start: src.offset, chunks: &chunkReader{src: src, part: part}}
	var err error
	if p.tink, err = a.NewDecryptingReader(p.chunks, partAAD(headerSum, part, last)); err != nil {
		return nil, p.fail(err)
	}
	return p, nil
}

func (p *partReader) Read(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	n, err := p.tink.Read(b)
	p.plain += int64(n)
	if err != nil {
		p.err = io.EOF
		if err != io.EOF {
			p.err = p.fail(err)
		}
	}
	return n, p.err
}

// fail tells an error of the file's framing or of its reader from one of
// Tink, which has only one reason to complain: the segment is not authentic.
func (p *partReader) fail(err error) error {
	if p.chunks.err != nil && p.chunks.err != io.EOF {
		return p.chunks.err
	}
	if p.tink == nil {
		return corrupt(p.start, p.part, ErrFraming, "Tink header: %v", err)
	}
	return &CorruptError{Offset: p.segmentOffset(), Part: p.part, Err: ErrAuthentication}
}

// segmentOffset is where the chunk of the segment stands that would have to
// come next. Tink returns a segment only whole, so the plaintext so far says
// how many there were.
func (p *partReader) segmentOffset() int64 {
	k := int64(0)
	if p.plain > 0 {
		k = (p.plain + tinkHeader) / (tinkSegment - tinkTag)
	}
	at := p.start + chunkFixed + tinkHeader + k*chunkFixed
	if k > 0 {
		at += k*tinkSegment - tinkHeader
	}
	return at
}

// chunkReader joins the chunks of a part.
type chunkReader struct {
	src   *source
	part  uint32
	pos   int64
	left  int // of the current chunk
	count int
	short bool
	err   error // sticky

	header [tinkHeader]byte
}

func (c *chunkReader) Read(p []byte) (int, error) {
	if c.err != nil || len(p) == 0 {
		return 0, c.err
	}
	if c.left == 0 {
		if c.err = c.next(); c.err != nil {
			return 0, c.err
		}
	}
	n, err := c.src.r.Read(p[:min(len(p), c.left)])
	if c.pos < tinkHeader {
		copy(c.header[c.pos:], p[:n])
	}
	c.src.offset += int64(n)
	c.pos += int64(n)
	c.left -= n
	if err != nil && (n == 0 || err != io.EOF) {
		c.err = c.src.fail(c.part, err)
	}
	return n, c.err
}

// next reads a chunk's frame, and accepts no layout but the writer's: else one
// backup would have many encodings.
func (c *chunkReader) next() error {
	at := c.src.offset
	var frame [chunkFixed]byte
	if err := c.src.full(frame[:], c.part); err != nil {
		return err
	}
	n, limit := binary.BigEndian.Uint32(frame[:]), chunkLimit(c.pos)
	switch {
	case n == 0 && c.count >= 2:
		return io.EOF
	case n == 0 || n > uint32(limit) || c.short || (c.pos == 0 && n != uint32(limit)) || c.count == maxChunks:
		return corrupt(at, c.part, ErrFraming, "chunk of %d bytes", n)
	}
	c.count++
	c.left, c.short = int(n), n < uint32(limit)
	return nil
}

// source counts the bytes read, so that an error can say where.
type source struct {
	r      io.Reader
	offset int64
}

// full fills b or says why not.
func (s *source) full(b []byte, part uint32) error {
	n, err := io.ReadFull(s.r, b)
	s.offset += int64(n)
	if err != nil {
		return s.fail(part, err)
	}
	return nil
}

// fail never returns io.EOF or io.ErrUnexpectedEOF: Tink takes both for the
// regular end of a stream.
func (s *source) fail(part uint32, err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return &CorruptError{Offset: s.offset, Part: part, Err: ErrTruncated}
	}
	return fmt.Errorf("read backup at byte %d: %w", s.offset, err)
}

func corrupt(offset int64, part uint32, kind error, format string, args ...any) error {
	return &CorruptError{Offset: offset, Part: part, Err: fmt.Errorf("%w: %s", kind, fmt.Sprintf(format, args...))}
}
