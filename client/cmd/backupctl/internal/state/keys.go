package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/files"
)

const (
	keysFile    = "keys.json"
	keysVersion = 1
)

// Key is a backup key and what is known of it.
type Key struct {
	Backup client.BackupKey
	// Generation of the registration that holds this key; 0 when none is known
	// to.
	Generation uint64
	Since      time.Time // UTC, whole seconds
}

// Keys are the backup keys of a phone. The first one encrypts; the others
// open older backups. Its zero value has none.
type Keys struct{ list []Key }

// All returns the keys, the one in use first.
func (k Keys) All() []Key { return append([]Key(nil), k.list...) }

// Current is the key in use.
func (k Keys) Current() (Key, bool) {
	if len(k.list) == 0 {
		return Key{}, false
	}
	return k.list[0], true
}

// With makes key the one in use, held by the registration of this generation.
// No other key is forgotten: backups may need it. None of them is registered
// any more, since an account has one registration.
func (k Keys) With(key client.BackupKey, generation uint64, now time.Time) Keys {
	out := []Key{{Backup: key, Generation: generation, Since: now.UTC().Truncate(time.Second)}}
	for _, old := range k.list {
		if old.Backup.Equal(key.Key) {
			out[0].Since = old.Since
			continue
		}
		old.Generation = 0
		out = append(out, old)
	}
	return Keys{out}
}

// Behind adds a key that opens older backups, if it is not there yet.
func (k Keys) Behind(key client.BackupKey, now time.Time) Keys {
	for _, old := range k.list {
		if old.Backup.Equal(key.Key) {
			return k
		}
	}
	return Keys{append(k.All(), Key{Backup: key, Since: now.UTC().Truncate(time.Second)})}
}

// Unregistered says that no registration holds any of the keys.
func (k Keys) Unregistered() Keys {
	out := k.All()
	for i := range out {
		out[i].Generation = 0
	}
	return Keys{out}
}

// Keys reads the backup keys; a missing file has none.
func (d Dir) Keys() (Keys, error) {
	b, err := d.read(keysFile)
	if err != nil || b == nil {
		return Keys{}, err
	}
	defer clear(b)
	keys, err := parseKeys(b)
	if err != nil {
		return Keys{}, fmt.Errorf("%w: %s: %w", ErrUnusable, d.file(keysFile), err)
	}
	return keys, nil
}

// SaveKeys replaces the backup keys.
func (d Dir) SaveKeys(keys Keys) error {
	if err := d.make(); err != nil {
		return err
	}
	b, err := keys.encode()
	if err != nil {
		return err
	}
	defer clear(b)
	if err := files.Write(d.file(keysFile), b, true); err != nil {
		return fmt.Errorf("saving the backup keys: %w", err)
	}
	return nil
}

// wireKeys is the file. A key stands there as its recovery key, whose check
// group notices a damaged disk.
type wireKeys struct {
	Version int       `json:"version"`
	Keys    []wireKey `json:"keys"`
}

type wireKey struct {
	RecoveryKey string    `json:"recovery_key"`
	Generation  uint64    `json:"generation"`
	Since       time.Time `json:"since"`
}

func (k Keys) encode() ([]byte, error) {
	wire := wireKeys{Version: keysVersion, Keys: []wireKey{}}
	for _, key := range k.list {
		text := client.FormatRecoveryKey(key.Backup)
		wire.Keys = append(wire.Keys, wireKey{string(text), key.Generation, key.Since})
		text.Wipe()
	}
	b, err := json.MarshalIndent(wire, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the backup keys: %w", err)
	}
	return append(b, '\n'), nil
}

// parseKeys takes what encode writes and nothing else. Its errors hold nothing
// of the file.
func parseKeys(b []byte) (Keys, error) {
	var wire wireKeys
	if err := json.Unmarshal(b, &wire); err != nil {
		return Keys{}, fmt.Errorf("not the JSON of backup keys")
	}
	if wire.Version != keysVersion {
		return Keys{}, fmt.Errorf("version %d, not %d", wire.Version, keysVersion)
	}
	var keys Keys
	for i, w := range wire.Keys {
		key, checked, err := client.ParseRecoveryKey(w.RecoveryKey)
		if err != nil {
			return Keys{}, fmt.Errorf("key %d: %w", i, err)
		}
		if !checked {
			return Keys{}, fmt.Errorf("key %d: has no check group", i)
		}
		keys.list = append(keys.list, Key{key, w.Generation, w.Since})
	}
	again, err := keys.encode()
	if err != nil || !bytes.Equal(again, b) {
		return Keys{}, fmt.Errorf("not as this program writes it")
	}
	clear(again)
	return keys, nil
}
