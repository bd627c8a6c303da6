package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/client/cmd/backupctl/internal/files"
)

var when = time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)

func TestKeysComeBack(t *testing.T) {
	dir := At(filepath.Join(t.TempDir(), "a", "phone"))
	if keys, err := dir.Keys(); err != nil || len(keys.All()) != 0 {
		t.Fatalf("a phone that is not there: %d keys, %v", len(keys.All()), err)
	}
	first, second := client.NewBackupKey(), client.NewBackupKey()
	saved := Keys{}.With(first, 0, when).With(second, 3, when)
	if err := dir.SaveKeys(saved); err != nil {
		t.Fatal(err)
	}
	keys, err := dir.Keys()
	if err != nil {
		t.Fatal(err)
	}
	all := keys.All()
	if len(all) != 2 || !all[0].Backup.Equal(second.Key) || all[0].Generation != 3 || !all[1].Backup.Equal(first.Key) || !all[0].Since.Equal(when.Truncate(time.Second)) {
		t.Errorf("%d keys came back, the first of generation %d", len(all), all[0].Generation)
	}
}

func TestKeysForgetNone(t *testing.T) {
	a, b, c := client.NewBackupKey(), client.NewBackupKey(), client.NewBackupKey()
	keys := Keys{}.With(a, 1, when).With(b, 2, when).With(a, 3, when.Add(time.Hour)).Behind(c, when).Behind(b, when)
	all := keys.All()
	if len(all) != 3 || !all[0].Backup.Equal(a.Key) || !all[1].Backup.Equal(b.Key) || !all[2].Backup.Equal(c.Key) {
		t.Fatalf("%d keys", len(all))
	}
	// An account has one registration: only the key in use is held by it.
	if all[0].Generation != 3 || all[1].Generation != 0 || !all[0].Since.Equal(when.Truncate(time.Second)) {
		t.Errorf("generations %d, %d, since %v", all[0].Generation, all[1].Generation, all[0].Since)
	}
	if k, ok := keys.Unregistered().Current(); !ok || k.Generation != 0 || !k.Backup.Equal(a.Key) {
		t.Error("Unregistered lost the key, or kept its registration")
	}
	if k, _ := keys.Current(); k.Generation != 3 {
		t.Error("Unregistered changed the original")
	}
}

func TestStateIsRefusedWhenOthersMayEnter(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // modes mean nothing there
	}
	path := t.TempDir()
	if err := os.Chmod(path, 0o750); err != nil {
		t.Fatal(err)
	}
	dir := At(path)
	_, keysErr := dir.Keys()
	_, deviceErr := dir.NewDevice()
	_, lockErr := dir.Lock()
	for _, err := range []error{keysErr, deviceErr, lockErr, dir.SaveKeys(Keys{})} {
		if !errors.Is(err, ErrUnusable) {
			t.Errorf("err = %v", err)
		}
	}
}

func TestOneCommandAtATime(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // no lock there
	}
	dir := At(t.TempDir())
	if err := os.Chmod(dir.Path(), 0o700); err != nil {
		t.Fatal(err)
	}
	unlock, err := dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Lock(); !errors.Is(err, files.ErrBusy) {
		t.Errorf("second lock: %v", err)
	}
	unlock()
	again, err := dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestDevice(t *testing.T) {
	dir := At(filepath.Join(t.TempDir(), "phone"))
	if _, err := dir.Device(); !errors.Is(err, ErrNoDevice) {
		t.Errorf("no device: %v", err)
	}
	key, err := dir.NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	again, err := dir.Device()
	if err != nil || again.Thumbprint() != key.Thumbprint() {
		t.Errorf("another key came back: %v", err)
	}
	if _, err := dir.NewDevice(); !errors.Is(err, ErrDeviceExists) {
		t.Errorf("second NewDevice: %v", err)
	}
}

func TestBrokenKeysAreToldWithoutShowingThem(t *testing.T) {
	key := client.NewBackupKey()
	good, err := Keys{}.With(key, 1, when).encode()
	if err != nil {
		t.Fatal(err)
	}
	text := string(client.FormatRecoveryKey(key))
	flipped := map[bool]string{true: "1", false: "0"}[text[0] == '0'] + text[1:]
	for name, file := range map[string]string{
		"empty":          "",
		"not JSON":       text,
		"version":        strings.Replace(string(good), `"version": 1`, `"version": 2`, 1),
		"flipped digit":  strings.Replace(string(good), text, flipped, 1),
		"no check group": strings.Replace(string(good), text, text[:79], 1),
		"unknown field":  strings.Replace(string(good), `"generation"`, `"x":1,"generation"`, 1),
		"trailing":       string(good) + "{}",
		"spaces":         strings.Replace(string(good), "\n", "\n ", 1),
	} {
		t.Run(name, func(t *testing.T) {
			dir := At(filepath.Join(t.TempDir(), "phone"))
			if err := dir.make(); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir.Path(), "keys.json"), []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := dir.Keys()
			if !errors.Is(err, ErrUnusable) {
				t.Fatalf("err = %v", err)
			}
			if strings.Contains(fmt.Sprint(err), text[:19]) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func FuzzParseKeys(f *testing.F) {
	for _, keys := range []Keys{{}, Keys{}.With(client.NewBackupKey(), 0, when), Keys{}.With(client.NewBackupKey(), 1, when).With(client.NewBackupKey(), 1<<63, when)} {
		b, err := keys.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"version":1,"keys":[]}`))
	f.Add([]byte(`{"version":1,"keys":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := parseKeys(b)
		if err != nil {
			return
		}
		if again, err := keys.encode(); err != nil || string(again) != string(b) {
			t.Errorf("%q became %q, %v", b, again, err)
		}
	})
}
