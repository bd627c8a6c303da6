package backupfile

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
)

// Options of a Writer. The zero value is good.
type Options struct {
	// Compression of the parts; the zero value is Zstd.
	Compression Compression
	// PartSize is the plaintext of a part in bytes, at most MaxPartSize;
	// 0 means DefaultPartSize. An interruption costs at most one part.
	// It does not change how much memory is used.
	PartSize int
	// OnPart is called after each data part, when all of its bytes were
	// handed to the underlying writer. An error stops the Writer.
	OnPart func(Checkpoint) error

	entries []Entry // for tests: none are defined
}

// Writer encrypts a stream into a backup file. It holds about one segment of
// 1 MiB, and what zstd needs. Not safe for concurrent use.
type Writer struct {
	// static after construction
	out       *countingWriter
	header    Header
	headerSum [sha256.Size]byte
	aead      *subtle.AESGCMHKDF
	onPart    func(Checkpoint) error

	zstd *zstd.Encoder // nil without compression
	part *partWriter   // the open data part, or nil
	room int           // plaintext bytes that the open part still takes
	at   Checkpoint    // Parts and Chain: finished parts. PlainBytes: written
	err  error         // sticky
}

// NewWriter writes the header of a new file to w. The file is complete, and
// can be read, only after Close; a caller that fails calls Abort instead.
func NewWriter(w io.Writer, key BackupKey, opts Options) (*Writer, error) {
	if opts.PartSize == 0 {
		opts.PartSize = DefaultPartSize
	}
	if opts.PartSize < 1 || opts.PartSize > MaxPartSize {
		return nil, fmt.Errorf("backupfile: part size %d is not between 1 and %d", opts.PartSize, MaxPartSize)
	}
	h := newHeader(key, uint32(opts.PartSize), opts.Compression, opts.entries)
	bw, raw, err := newWriter(w, key, h, opts)
	if err != nil {
		return nil, err
	}
	if _, err := bw.out.Write(raw); err != nil {
		return nil, fmt.Errorf("write backup header: %w", err)
	}
	return bw, nil
}

// ResumeWriter goes on with a file that was interrupted. The caller has cut
// what stands behind from.FileOffset, w appends there, and the plaintext goes
// on at from.PlainBytes. Options other than OnPart come from the header.
//
// A part that is written again has a new salt: nothing is encrypted twice
// under one nonce, even if the plaintext changed in between.
func ResumeWriter(w io.Writer, key BackupKey, h Header, from Checkpoint, opts Options) (*Writer, error) {
	if err := CheckKey(h, key); err != nil {
		return nil, err
	}
	if err := from.check(h); err != nil {
		return nil, err
	}
	if from.PlainBytes != int64(from.Parts)*int64(h.PartSize) {
		return nil, errors.New("backupfile: the last part is not full, nothing can follow it")
	}
	opts.Compression = h.Compression
	bw, _, err := newWriter(w, key, h, opts)
	if err != nil {
		return nil, err
	}
	bw.at, bw.out.offset = from, from.FileOffset
	return bw, nil
}

func newWriter(w io.Writer, key BackupKey, h Header, opts Options) (*Writer, []byte, error) {
	raw, err := h.Encode()
	if err != nil {
		return nil, nil, err
	}
	aead, err := fileAEAD(key, h.ID)
	if err != nil {
		return nil, nil, fmt.Errorf("backupfile: %w", err)
	}
	bw := &Writer{out: &countingWriter{w: w}, header: h, headerSum: sha256.Sum256(raw), aead: aead, onPart: opts.OnPart}
	if h.Compression == Zstd {
		// Two workers overlap compressing and encrypting. Each part's bytes
		// are authenticated, so zstd's own checksum would only cost time.
		bw.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, nil, fmt.Errorf("backupfile: %w", err)
		}
	}
	return bw, raw, nil
}

// Header returns the file's header, which ResumeWriter needs.
func (w *Writer) Header() Header { return w.header }

// Write encrypts p. After an error nothing more can be written.
func (w *Writer) Write(p []byte) (int, error) {
	written := 0
	for w.err == nil && written < len(p) {
		if w.part == nil {
			w.fail("start part", w.startPart())
			continue
		}
		n, err := w.sink().Write(p[written:min(len(p), written+w.room)])
		written += n
		w.room -= n
		w.at.PlainBytes += int64(n)
		w.fail("write part", err)
		if w.err == nil && w.room == 0 {
			w.fail("finish part", w.finishPart())
		}
	}
	return written, w.err
}

// Close finishes the last data part and writes the closing part, without
// which the file never verifies. It does not close the underlying writer.
// A second Close, or one after an error, returns an error.
func (w *Writer) Close() error {
	if w.err == nil && w.part != nil {
		w.fail("finish part", w.finishPart())
	}
	if w.err == nil {
		w.fail("write closing part", w.writeClosing())
	}
	if w.err != nil {
		w.release()
		return w.err
	}
	w.err = errors.New("backupfile: the Writer is closed")
	w.release()
	return nil
}

// Abort leaves the file incomplete and frees what the Writer holds. Close
// after Abort does not complete the file; Abort after Close does nothing.
func (w *Writer) Abort() {
	if w.err == nil {
		w.err = ErrAborted
	}
	w.release()
}

func (w *Writer) fail(step string, err error) {
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("%s %d of the backup: %w", step, w.at.Parts, err)
	}
}

// release stops zstd without letting it write what it holds.
func (w *Writer) release() {
	if w.zstd != nil {
		w.out.closed.Store(true)
		w.zstd.Close()
		w.zstd.Reset(nil)
		w.zstd = nil
	}
	w.part = nil
}

func (w *Writer) sink() io.Writer {
	if w.zstd != nil {
		return w.zstd
	}
	return w.part
}

func (w *Writer) startPart() error {
	if w.at.Parts == math.MaxUint32 {
		return errors.New("too many parts")
	}
	part, err := newPartWriter(w.out, w.aead, w.headerSum, w.at.Parts, false)
	if err != nil {
		return err
	}
	w.part, w.room = part, int(w.header.PartSize)
	if w.zstd != nil {
		w.zstd.Reset(part)
	}
	return nil
}

func (w *Writer) finishPart() error {
	if w.zstd != nil {
		if err := w.zstd.Close(); err != nil {
			return err
		}
	}
	if err := w.part.Close(); err != nil {
		return err
	}
	w.at.Chain = nextChain(w.at.Chain, w.part.chunks.header)
	w.at.Parts++
	w.at.FileOffset = w.out.offset
	w.part = nil
	if w.onPart != nil {
		return w.onPart(w.at)
	}
	return nil
}

func (w *Writer) writeClosing() error {
	part, err := newPartWriter(w.out, w.aead, w.headerSum, w.at.Parts, true)
	if err != nil {
		return err
	}
	if _, err := part.Write(closing(w.at)); err != nil {
		return err
	}
	return part.Close()
}

// closing is the plaintext of the closing part.
func closing(at Checkpoint) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(at.PlainBytes))
	b = binary.BigEndian.AppendUint32(b, at.Parts)
	return append(b, at.Chain[:]...)
}

type countingWriter struct {
	w      io.Writer
	offset int64
	closed atomic.Bool // zstd may be writing in the background
}

func (c *countingWriter) Write(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, ErrAborted
	}
	n, err := c.w.Write(p)
	c.offset += int64(n)
	return n, err
}
