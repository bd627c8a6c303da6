package client_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"chatvault/client"
	"chatvault/protocol/frame"
)

func TestStores(t *testing.T) {
	file, err := client.NewFileStore(filepath.Join(t.TempDir(), "deep", "state"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []client.Store{file, &client.MemStore{}} {
		if b, err := s.Load(); err != nil || len(b) != 0 {
			t.Errorf("%T: a new store holds %q, %v", s, b, err)
		}
		for _, blob := range []string{"one", "a longer two", "3"} {
			if err := s.Save([]byte(blob)); err != nil {
				t.Fatal(err)
			}
			if b, err := s.Load(); err != nil || string(b) != blob {
				t.Errorf("%T: %q, %v", s, b, err)
			}
		}
	}
}

func TestFileStoreModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // no such modes
	}
	dir := filepath.Join(t.TempDir(), "state")
	s, err := client.NewFileStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Save([]byte("x")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, entries[0].Name()): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := client.NewFileStore(dir); !errors.Is(err, client.ErrStore) {
		t.Errorf("a directory for everybody: %v", err)
	}
}

// badStore fails as often as it is told.
type badStore struct {
	client.MemStore
	fails int // saves that fail, from now on
}

func (b *badStore) Save(blob []byte) error {
	if b.fails > 0 {
		b.fails--
		return errors.New("disk full")
	}
	return b.MemStore.Save(blob)
}

// What cannot be stored is not sent.
func TestStoreFailsBeforeAnythingIsSent(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		store := &badStore{}
		p := f.phone(func(c *client.Config) { c.Store = store })
		if _, err := p.Status(t.Context()); err != nil { // stores the bundle
			t.Fatal(err)
		}
		store.fails = 1
		_, err := p.Register(t.Context(), []byte("pw"), client.NewBackupKey(), cheap)
		wantError(t, err, client.ErrStore)
		f.vault.do(func() {
			if f.vault.rec.generation != 0 {
				t.Error("registered without having stored the id")
			}
		})
		key, _ := p.register(t, "pw")
		store.fails = 1
		_, err = p.Recover(t.Context(), []byte("pw"))
		wantError(t, err, client.ErrStore)
		if n := f.vault.charges(); n != 0 {
			t.Errorf("%d charges without the blind stored", n)
		}
		// After the password was proved, the key comes whatever the disk does.
		f.vault.do(func() { f.vault.elements = nil })
		if _, err := p.Recover(t.Context(), []byte("wrong")); !errors.Is(err, client.ErrWrongPassword) {
			t.Fatal(err)
		}
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == down && data.Sequence == 2 {
				store.fails = 100
			}
			return pass
		})
		got, err := p.Recover(t.Context(), []byte("pw"))
		if err != nil || !got.Key.Equal(key.Key) {
			t.Errorf("%v", err)
		}
	})
}

func TestStateThatCannotBeRead(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		cfg := f.phone().cfg
		for _, blob := range []string{"x", "{}", `{"version":2}`, `{"version":1,"more":1}`, `{"version":1}{}`} {
			s := &client.MemStore{}
			if err := s.Save([]byte(blob)); err != nil {
				t.Fatal(err)
			}
			cfg.Store = s
			if _, err := client.New(cfg); !errors.Is(err, client.ErrStore) {
				t.Errorf("%s: %v", blob, err)
			}
		}
	})
}
