package stack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
)

// One build serves all tests of the package.
var binDir string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "chatvault-bin-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		if err := Build(context.Background(), dir); err != nil {
			panic(err)
		}
		binDir = dir
		return m.Run()
	}())
}

func TestStack(t *testing.T) {
	for name, redis := range map[string]Redis{"embedded": EmbeddedRedis, "redis-server": RealRedis} {
		t.Run(name, func(t *testing.T) {
			s, err := Start(t.Context(), Options{Dir: t.TempDir(), BinDir: binDir, Redis: redis})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			if (s.Redis == nil) != (redis == EmbeddedRedis) {
				t.Error("another Redis than asked for")
			}
			servesBundle(t, s)
			comesBack(t, s.Vault, s.VaultAddr)
			comesBack(t, s.Chatd, s.ChatdAddr)
			servesBundle(t, s)
			pids := []int{s.Vault.PID(), s.Chatd.PID()}
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			for _, pid := range pids {
				if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
					t.Errorf("process %d: %v", pid, err)
				}
			}
		})
	}
}

// servesBundle looks whether chatd hands out what the pins accept.
func servesBundle(t *testing.T, s *Stack) {
	t.Helper()
	r, err := http.Get("http://" + s.ChatdAddr() + frame.FleetPath)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	signed, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.PinsFile)
	if err != nil {
		t.Fatal(err)
	}
	pins, err := fleet.ParsePins(b)
	if err != nil {
		t.Fatal(err)
	}
	if bundle, err := pins.Open(signed, time.Now()); err != nil || bundle.Fleet != Fleet {
		t.Errorf("bundle of %q: %v", bundle.Fleet, err)
	}
}

// comesBack kills a daemon and starts it again.
func comesBack(t *testing.T, d *Daemon, addr func() string) {
	t.Helper()
	before := addr()
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", before); err == nil {
		c.Close()
		t.Errorf("%s was killed and still listens", d.Name)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if addr() != before {
		t.Errorf("%s came back at %s, not %s", d.Name, addr(), before)
	}
}

func TestStartFails(t *testing.T) {
	if s, err := Start(t.Context(), Options{Dir: t.TempDir(), BinDir: t.TempDir()}); err == nil || s != nil {
		t.Errorf("a stack without programs: %v, %v", s, err)
	}
	dir := t.TempDir()
	s, err := Start(t.Context(), Options{Dir: dir, BinDir: binDir, ChatdArgs: []string{"--origin", "nonsense"}})
	if s != nil || err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a refused setting: %v, %v", s, err)
	}
	// vaultd was running by then. Its store can be opened when it is gone.
	again := (&Stack{Dir: dir, BinDir: binDir, vaultAddr: &address{}}).daemon("vaultd", &address{}, nil,
		token{conf: filepath.Join(dir, "softhsm2.conf")}.environment())
	if err := again.Start(t.Context()); err != nil {
		t.Error(err)
	}
	if err := again.Kill(); err != nil {
		t.Error(err)
	}
}
