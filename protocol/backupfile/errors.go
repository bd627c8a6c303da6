package backupfile

import (
	"errors"
	"fmt"
)

var (
	// ErrWrongKey: the file is whole as far as one can see, and another
	// backup key encrypted it.
	ErrWrongKey = errors.New("this key does not open the backup")
	// ErrNotABackup: the file does not start as a backup does.
	ErrNotABackup = errors.New("not a backup file")
	// ErrVersion: a backup of a version, or with a critical header entry,
	// that this code does not know.
	ErrVersion = errors.New("backup needs a newer version of this program")
	// ErrTooLarge: more plaintext than ReaderOptions.MaxBytes.
	ErrTooLarge = errors.New("backup is larger than allowed")
	// ErrAborted is what a Writer answers after Abort.
	ErrAborted = errors.New("backup was aborted")
)

// The kinds of corruption, to be found in a CorruptError with errors.Is.
var (
	// ErrTruncated: the file ends too early.
	ErrTruncated = errors.New("file is cut off")
	// ErrTrailing: something follows the closing part.
	ErrTrailing = errors.New("something follows the end")
	// ErrHeader: the header is damaged.
	ErrHeader = errors.New("header is damaged")
	// ErrOrder: another part stands where one is expected.
	ErrOrder = errors.New("part is out of order")
	// ErrFraming: part and chunk frames are not as the format says.
	ErrFraming = errors.New("framing is damaged")
	// ErrAuthentication: a segment is not what was written at this place of
	// this file.
	ErrAuthentication = errors.New("segment does not authenticate")
	// ErrContent: authentic bytes that do not decompress, or parts or totals
	// that do not add up.
	ErrContent = errors.New("content does not add up")
)

// CorruptError says where a file is damaged. Everything that a Reader returned
// before it is authentic, but not the whole backup.
type CorruptError struct {
	Offset int64  // byte of the file; start of the segment, part or field that is wrong, or where the file ends
	Part   uint32 // expected at that place; 0 for the header too
	Err    error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("backup is corrupt at byte %d (part %d): %v", e.Offset, e.Part, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }
