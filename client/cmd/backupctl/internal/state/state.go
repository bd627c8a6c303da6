// Package state is the folder behind --state: what one phone holds. Deleting
// it is losing the phone.
//
//	DIR              mode 0700
//	  device.pem     the device key, PKCS #8
//	  keys.json      backup keys, the one in use first
//	  client/        what the SDK keeps: account, bundle, pending operations
//	  lock           held by a command that talks to the vault
package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/files"
	"chatvault/protocol/ticket"
)

var (
	// ErrNoDevice: there is no device key; the phone is new, or lost.
	ErrNoDevice = errors.New("no device key")
	// ErrDeviceExists: making another one would lock this phone out of what
	// it owns.
	ErrDeviceExists = errors.New("a device key is there already")
	// ErrUnusable: a file of the state cannot be read as what it should be, or
	// others may enter the folder.
	ErrUnusable = errors.New("state is not usable")
)

// Dir is a state folder, which need not exist before something is written.
type Dir struct{ path string }

// At returns the state in the folder at path.
func At(path string) Dir { return Dir{path} }

// Path is the folder.
func (d Dir) Path() string { return d.path }

func (d Dir) file(name string) string { return filepath.Join(d.path, name) }

// check refuses a folder that others may enter. A missing one is fine.
func (d Dir) check() error {
	info, err := os.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%w: %s is not a folder", ErrUnusable, d.path)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%w: mode %04o of %s lets others in; run: chmod 700 %s", ErrUnusable, info.Mode().Perm(), d.path, d.path)
	}
	return nil
}

// make makes the folder if it is missing.
func (d Dir) make() error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return err
	}
	return d.check()
}

// read returns nil for a file that is not there.
func (d Dir) read(name string) ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

const deviceFile = "device.pem"

// Device reads the device key, or returns ErrNoDevice.
func (d Dir) Device() (ticket.DeviceKey, error) {
	b, err := d.read(deviceFile)
	if err != nil {
		return ticket.DeviceKey{}, err
	}
	if b == nil {
		return ticket.DeviceKey{}, fmt.Errorf("%w in %s", ErrNoDevice, d.path)
	}
	key, err := ticket.ParseDeviceKeyPEM(b)
	clear(b)
	if err != nil {
		return ticket.DeviceKey{}, fmt.Errorf("%w: %s: %w", ErrUnusable, d.file(deviceFile), err)
	}
	return key, nil
}

// NewDevice makes the device key, or returns ErrDeviceExists.
func (d Dir) NewDevice() (ticket.DeviceKey, error) {
	if err := d.make(); err != nil {
		return ticket.DeviceKey{}, err
	}
	key, err := ticket.NewDeviceKey()
	if err != nil {
		return ticket.DeviceKey{}, err
	}
	pem, err := key.MarshalPEM()
	if err != nil {
		return ticket.DeviceKey{}, err
	}
	defer pem.Wipe()
	err = files.Write(d.file(deviceFile), pem, false)
	if errors.Is(err, files.ErrExists) {
		return ticket.DeviceKey{}, fmt.Errorf("%w in %s", ErrDeviceExists, d.path)
	}
	return key, err
}

// Store is where the SDK keeps what it must not forget.
func (d Dir) Store() (*client.FileStore, error) {
	if err := d.make(); err != nil {
		return nil, err
	}
	return client.NewFileStore(d.file("client"))
}

// Lock keeps other commands off the state: one Store belongs to one Client at
// a time. files.ErrBusy: another command has it.
func (d Dir) Lock() (unlock func(), err error) {
	if err := d.make(); err != nil {
		return nil, err
	}
	return files.Lock(d.file("lock"))
}
