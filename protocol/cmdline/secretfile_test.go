package cmdline

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadSecretFile(t *testing.T) {
	for _, c := range []struct{ name, content, want string }{
		{"plain", "1234", "1234"}, {"LF", "1234\n", "1234"}, {"CRLF", "1234\r\n", "1234"}, {"two LF", "1234\n\n", "1234\n"},
		{"CR alone", "1234\r", "1234\r"}, {"spaces", " 12 34 ", " 12 34 "}, {"largest", strings.Repeat("x", MaxSecret), strings.Repeat("x", MaxSecret)},
		{"empty", "", ""}, {"only a line end", "\n", ""}, {"too large", strings.Repeat("x", MaxSecret+1), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "pin")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := ReadSecretFile(path)
			if string(got) != c.want || (err == nil) != (c.want != "") {
				t.Errorf("%q, %v", []byte(got), err)
			}
			if err != nil && !errors.Is(err, ErrSecretFile) {
				t.Errorf("untyped: %v", err)
			}
		})
	}
}

// Root reads everything: only the mode bits count.
func TestSecretFilesOfOpenModeAreRefused(t *testing.T) {
	for mode := fs.FileMode(0); mode <= 0o777; mode++ {
		err := checkSecretMode("pin", mode)
		if open := mode&0o077 != 0; open != errors.Is(err, ErrSecretFile) {
			t.Fatalf("%04o: %v", mode, err)
		}
	}
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, []byte("1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o440); err != nil {
		t.Fatal(err)
	}
	_, err := ReadSecretFile(path)
	if err == nil || !strings.Contains(err.Error(), "mode 0440 lets others in; run: chmod 600 "+path) {
		t.Errorf("%v", err)
	}
	for _, other := range []string{t.TempDir(), os.DevNull} {
		if _, err := ReadSecretFile(other); !errors.Is(err, ErrSecretFile) {
			t.Errorf("%s: %v", other, err)
		}
	}
	if _, err := ReadSecretFile("-"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("standard input: %v", err)
	}
}

func TestReadSecretFileFromAPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.WriteString("1234\n")
	w.Close()
	if info, err := r.Stat(); err != nil || checkSecretMode("pipe", info.Mode()) != nil {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
