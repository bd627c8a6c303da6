package backupfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
)

// ReaderOptions of a Reader. The zero value is good.
type ReaderOptions struct {
	// MaxBytes of plaintext are returned at most, then ErrTooLarge; 0 means no
	// limit. Independently of it, one part never expands beyond its part size.
	MaxBytes int64
	// OnPart is called after each data part. An error stops the Reader.
	OnPart func(Checkpoint) error
}

// Reader decrypts a backup file. Every byte that it returns is authentic at
// its place, but only io.EOF says that the backup is whole: until then, do not
// act on what was read. Not safe for concurrent use.
type Reader struct {
	// static after construction
	src       *source
	header    Header
	headerSum [sha256.Size]byte
	aead      *subtle.AESGCMHKDF
	opts      ReaderOptions

	zstd  *zstd.Decoder // nil without compression
	part  *partReader   // the open data part, or nil
	frame int64         // where the open part's frame stands
	plain int64         // plaintext returned of the open part
	at    Checkpoint
	err   error // sticky, io.EOF at the end
}

// NewReader reads the header and checks the key. It returns ErrWrongKey,
// ErrNotABackup, ErrVersion, a *CorruptError, or an error of r.
func NewReader(r io.Reader, key BackupKey, opts ReaderOptions) (*Reader, error) {
	h, raw, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	return newReader(r, key, h, Checkpoint{FileOffset: int64(len(raw))}, opts)
}

// ResumeReader goes on behind a part that was read before: r starts at
// from.FileOffset, and the first byte returned is from.PlainBytes. The header
// comes from ReadHeader, the checkpoint from OnPart.
func ResumeReader(r io.Reader, key BackupKey, h Header, from Checkpoint, opts ReaderOptions) (*Reader, error) {
	if err := from.check(h); err != nil {
		return nil, err
	}
	return newReader(r, key, h, from, opts)
}

func newReader(r io.Reader, key BackupKey, h Header, from Checkpoint, opts ReaderOptions) (*Reader, error) {
	if err := CheckKey(h, key); err != nil {
		return nil, err
	}
	raw, err := h.Encode()
	if err != nil {
		return nil, err
	}
	aead, err := fileAEAD(key, h.ID)
	if err != nil {
		return nil, fmt.Errorf("backupfile: %w", err)
	}
	br := &Reader{src: &source{r: r, offset: from.FileOffset}, header: h, headerSum: sha256.Sum256(raw), aead: aead, opts: opts, at: from}
	if h.Compression == Zstd {
		// One worker decodes in the caller's goroutine: nothing to close.
		br.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdMaxWindow))
		if err != nil {
			return nil, fmt.Errorf("backupfile: %w", err)
		}
	}
	return br, nil
}

// Header returns the file's header.
func (r *Reader) Header() Header { return r.header }

// Read returns plaintext, and io.EOF when the closing part is verified and
// nothing follows it.
func (r *Reader) Read(p []byte) (int, error) {
	for r.err == nil && len(p) > 0 {
		if r.part == nil {
			r.err = r.nextPart()
			continue
		}
		n, err := r.stored().Read(p)
		r.plain += int64(n)
		r.at.PlainBytes += int64(n)
		switch {
		case n > 0 && r.at.PlainBytes-r.plain != int64(r.at.Parts)*int64(r.header.PartSize):
			r.err = r.corruptPart("a part that is not full stands before it")
			return 0, r.err
		case r.plain > int64(r.header.PartSize):
			r.err = r.corruptPart("part holds more than %d bytes", r.header.PartSize)
			return 0, r.err
		case r.opts.MaxBytes > 0 && r.at.PlainBytes > r.opts.MaxBytes:
			r.err = ErrTooLarge
			return 0, r.err
		case err != nil:
			r.err = r.finishPart(err)
		}
		if n > 0 {
			return n, nil // an error is sticky, and comes with the next call
		}
	}
	if len(p) == 0 && r.err == nil {
		return 0, nil
	}
	return 0, r.err
}

func (r *Reader) stored() io.Reader {
	if r.zstd != nil {
		return r.zstd
	}
	return r.part
}

func (r *Reader) corruptPart(format string, args ...any) error {
	return corrupt(r.frame, r.at.Parts, ErrContent, format, args...)
}

// nextPart opens the next data part, or reads the closing part and returns io.EOF.
func (r *Reader) nextPart() error {
	r.frame = r.src.offset
	var frame [partFixed]byte
	if err := r.src.full(frame[:], r.at.Parts); err != nil {
		return err
	}
	if n := binary.BigEndian.Uint32(frame[:]); n != r.at.Parts {
		return corrupt(r.frame, r.at.Parts, ErrOrder, "part %d stands here", n)
	}
	switch frame[4] {
	case 0:
	case partLast:
		return r.readClosing()
	default:
		return corrupt(r.frame+4, r.at.Parts, ErrFraming, "part flags %#x", frame[4])
	}
	if r.at.Parts == math.MaxUint32 {
		return corrupt(r.frame, r.at.Parts, ErrContent, "too many parts")
	}
	part, err := newPartReader(r.src, r.aead, r.headerSum, r.at.Parts, false)
	if err != nil {
		return err
	}
	r.part, r.plain = part, 0
	if r.zstd != nil {
		if err := r.zstd.Reset(part); err != nil {
			return r.finishPart(err)
		}
	}
	return nil
}

// finishPart is called when the open part, or its zstd frame, ended with err.
func (r *Reader) finishPart(err error) error {
	part := r.part
	if part.err != nil && part.err != io.EOF {
		return part.err // not zstd's view of it
	}
	if err != io.EOF {
		return r.corruptPart("decompress: %v", err)
	}
	if n, err := io.Copy(io.Discard, part); n > 0 || err != nil {
		if err != nil {
			return err
		}
		return r.corruptPart("%d bytes follow the zstd frame", n)
	}
	if r.plain == 0 {
		return r.corruptPart("part is empty")
	}
	r.at.Chain = nextChain(r.at.Chain, part.chunks.header)
	r.at.Parts++
	r.at.FileOffset = r.src.offset
	r.part = nil
	if r.opts.OnPart != nil {
		return r.opts.OnPart(r.at)
	}
	return nil
}

func (r *Reader) readClosing() error {
	part, err := newPartReader(r.src, r.aead, r.headerSum, r.at.Parts, true)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(io.LimitReader(part, closingSize+1))
	if err != nil {
		return err
	}
	if part.err != io.EOF || !bytes.Equal(got, closing(r.at)) {
		return r.corruptPart("closing part does not fit the parts before it")
	}
	var one [1]byte
	switch n, err := io.ReadFull(r.src.r, one[:]); {
	case n > 0:
		return &CorruptError{Offset: r.src.offset, Part: r.at.Parts, Err: ErrTrailing}
	case err != io.EOF:
		return fmt.Errorf("read backup at byte %d: %w", r.src.offset, err)
	}
	return io.EOF
}
