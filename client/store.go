package client

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Store keeps what a Client must not forget: which account and registration it
// has seen, a registration whose outcome is unknown, the blind of an attempt
// without a verdict, the fleet bundle. One opaque blob, JSON with a version.
//
// One Store belongs to one account on one device, and to one Client at a time.
// Losing it is safe: it is what happens to a lost phone. What is lost then is
// the protection of the story (see StoryError), and an attempt that had no
// verdict yet is charged again when it is repeated.
//
// The blob holds no password and no backup key. It holds secrets all the same
// (see the package's state.go): keep it where the app keeps its own data, out of
// the cloud's backups.
type Store interface {
	// Load returns what Save stored last, or nil when nothing is stored.
	Load() ([]byte, error)
	// Save replaces it. When it returns nil the blob survives a crash; when
	// it fails, the old or the new one is there, never a mixture.
	Save(blob []byte) error
}

// MemStore is a Store that ends with the process. Its zero value is ready.
type MemStore struct {
	mu   sync.Mutex
	blob []byte
}

// Load implements Store.
func (m *MemStore) Load() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]byte(nil), m.blob...), nil
}

// Save implements Store.
func (m *MemStore) Save(blob []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blob = append([]byte(nil), blob...)
	return nil
}

// stateFile is the file's name within a FileStore's directory.
const stateFile = "client.json"

// FileStore is a Store in a directory of its own, mode 0700; the file is 0600
// and replaced atomically: written beside, synced, renamed, and the directory
// synced.
type FileStore struct{ dir string }

// NewFileStore makes the directory if it is missing. A directory that others
// may enter is refused where the system has such modes.
func NewFileStore(dir string) (*FileStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	if !info.IsDir() || (hasModes && info.Mode().Perm()&0o077 != 0) {
		return nil, fmt.Errorf("%w: %s must be a directory of mode 0700", ErrStore, dir)
	}
	return &FileStore{dir: dir}, nil
}

// Load implements Store.
func (f *FileStore) Load() ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(f.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// Save implements Store.
func (f *FileStore) Save(blob []byte) (err error) {
	tmp, err := os.CreateTemp(f.dir, "."+stateFile+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if _, err = tmp.Write(blob); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), filepath.Join(f.dir, stateFile)); err != nil {
		return err
	}
	return syncDir(f.dir)
}
