package client

import (
	"io"

	"chatvault/protocol/backupfile"
	"chatvault/protocol/secret"
)

// None of this file needs a Client, a ticket or a network.

// NewBackupKey returns a fresh backup key.
func NewBackupKey() BackupKey { return backupfile.NewBackupKey() }

// EncryptTo returns a writer that encrypts a backup to w. The backup is whole
// only when Close has returned nil; after an error call Abort.
func EncryptTo(w io.Writer, key BackupKey, opts backupfile.Options) (*backupfile.Writer, error) {
	return backupfile.NewWriter(w, key, opts)
}

// DecryptFrom returns a reader of the backup in r. What it returns is
// authentic, but the backup is whole only when it has returned io.EOF. A wrong
// key is backupfile.ErrWrongKey, damage a *backupfile.CorruptError with its
// place.
func DecryptFrom(r io.Reader, key BackupKey, opts backupfile.ReaderOptions) (*backupfile.Reader, error) {
	return backupfile.NewReader(r, key, opts)
}

// Verify reads a whole backup and writes nothing; it returns the number of
// bytes that it holds.
func Verify(r io.Reader, key BackupKey, opts backupfile.ReaderOptions) (int64, error) {
	d, err := backupfile.NewReader(r, key, opts)
	if err != nil {
		return 0, err
	}
	return io.Copy(io.Discard, d)
}

// FormatRecoveryKey writes the backup key for a person to keep: 64 hexadecimal
// digits in groups of four, and a check group.
func FormatRecoveryKey(key BackupKey) secret.Bytes { return backupfile.FormatRecoveryKey(key) }

// ParseRecoveryKey reads what a person types or scans; checked says whether
// the check group was there, and fitted.
func ParseRecoveryKey(text string) (key BackupKey, checked bool, err error) {
	return backupfile.ParseRecoveryKey(text)
}
