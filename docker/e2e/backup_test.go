package e2e

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// maxRSS is the most memory that backupctl may take at any size, in KiB.
const maxRSS = 200 << 10

// backupctl runs the program and returns its peak memory in KiB.
func backupctl(t *testing.T, state string, args ...string) (rss int64, out []byte, err error) {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "backupctl"), append(args, "--state", state, "--no-input")...)
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	err = cmd.Run()
	return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss, both.Bytes(), err
}

// writeRandom makes a file that does not compress.
func writeRandom(t *testing.T, name string, size int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{})
	for n := int64(0); n < size; n += int64(len(block)) {
		random.Read(block)
		if _, err := f.Write(block[:min(int64(len(block)), size-n)]); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func backUpAndRestore(t *testing.T, size int64) {
	dir := t.TempDir()
	state, tree, file, back := filepath.Join(dir, "state"), filepath.Join(dir, "tree"), filepath.Join(dir, "backup"), filepath.Join(dir, "back")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	writeRandom(t, filepath.Join(tree, "big"), size)
	for _, args := range [][]string{{"backup", tree, file}, {"verify", file}, {"restore", file, back}} {
		start := time.Now()
		rss, out, err := backupctl(t, state, args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
		t.Logf("%-7s %d MB: %d MB of memory, %.1f s", args[0], size>>20, rss>>10, time.Since(start).Seconds())
		if rss > maxRSS {
			t.Errorf("%s of %d MB took %d MB of memory, want at most %d", args[0], size>>20, rss>>10, maxRSS>>10)
		}
	}
	same(t, filepath.Join(tree, "big"), filepath.Join(back, "big"))
}

func same(t *testing.T, a, b string) {
	t.Helper()
	fa, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer fb.Close()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errA := io.ReadFull(fa, x)
		m, errB := io.ReadFull(fb, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			t.Fatal("the restored file differs")
		}
		if errA != nil || errB != nil {
			return
		}
	}
}

func TestFiftyMegabytesInLittleMemory(t *testing.T) { backUpAndRestore(t, 50<<20) }

// TestKilledInTheMiddle: neither a backup nor a restore that is killed leaves
// something that could be taken for whole.
func TestKilledInTheMiddle(t *testing.T) {
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	state, tree, file, back := filepath.Join(dir, "state"), filepath.Join(dir, "tree"), filepath.Join(dir, "backup"), filepath.Join(dir, "back")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	writeRandom(t, filepath.Join(tree, "big"), 300<<20)
	// killed kills a run in its middle; made is what the run would make.
	killed := func(made string, args ...string) {
		t.Helper()
		for range 5 {
			before := unfinished(dir)
			cmd := exec.Command(filepath.Join(bin, "backupctl"), append(args, "--state", state, "--no-input")...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// Until it has written some of it, wherever that is.
			for deadline := time.Now().Add(time.Minute); unfinished(dir) < before+(32<<20) && time.Now().Before(deadline); {
				if _, err := os.Stat(made); err == nil {
					break
				}
				time.Sleep(time.Millisecond)
			}
			cmd.Process.Kill()
			if cmd.Wait() != nil {
				return
			}
			if err := os.RemoveAll(made); err != nil { // it was faster than the kill
				t.Fatal(err)
			}
		}
		t.Fatalf("%s was done before it was killed, each time", args[0])
	}
	if _, out, err := backupctl(t, state, "backup", filepath.Join(dir, "nothing"), file); err == nil {
		t.Fatalf("a folder that is not there was backed up: %s", out)
	}
	killed(file, "backup", tree, file)
	if _, err := os.Stat(file); err == nil {
		if _, out, err := backupctl(t, state, "verify", file); err == nil {
			t.Errorf("a backup that was killed verifies: %s", out)
		}
	}
	if _, out, err := backupctl(t, state, "backup", tree, file, "--force"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	killed(back, "restore", file, back)
	if _, err := os.Stat(back); err == nil {
		t.Error("a restore that was killed left its folder")
	}
	if _, out, err := backupctl(t, state, "restore", file, back); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	same(t, filepath.Join(tree, "big"), filepath.Join(back, "big"))
}

// unfinished is how many bytes stand in dir in anything but the source and a
// finished backup.
func unfinished(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == filepath.Join(dir, "tree", "big") || path == filepath.Join(dir, "backup") {
			return nil // files come and go under us
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}
