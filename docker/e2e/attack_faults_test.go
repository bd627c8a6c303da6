package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"chatvault/client"
	"chatvault/docker/stack"
	"chatvault/protocol/backupfile"
	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
)

// TestPhonesRace: several phones register at the same moment, then replace and
// change against one another. One story comes out of it.
func TestPhonesRace(t *testing.T) {
	t.Parallel()
	h := start(t)
	type outcome struct {
		pw         string
		key        backupfile.BackupKey
		generation uint64
		err        error
	}
	race := func(racers ...func() outcome) (won []outcome) {
		out := make([]outcome, len(racers))
		var wg sync.WaitGroup
		for i, f := range racers {
			wg.Go(func() { out[i] = f() })
		}
		wg.Wait()
		for _, o := range out {
			switch {
			case o.err == nil:
				won = append(won, o)
			case !errors.Is(o.err, client.ErrConflict) && !errors.Is(o.err, client.ErrNotOwner) && !errors.Is(o.err, client.ErrWrongPassword):
				t.Errorf("a loser is told %v", o.err)
			}
		}
		return won
	}
	register := func(name string) func() outcome {
		p, o := h.phone("anna"), outcome{pw: name, key: newKey()}
		return func() outcome {
			r, err := p.Register(t.Context(), password(o.pw), o.key, cheap)
			o.generation, o.err = r.Generation, err
			return o
		}
	}
	var racers []func() outcome
	for i := range 8 {
		racers = append(racers, register(fmt.Sprint("phone ", i)))
	}
	won := race(racers...)
	if len(won) != 1 || won[0].generation != 1 {
		t.Fatalf("%d phones registered: %+v", len(won), won)
	}
	now := won[0]
	for round := range 5 {
		// The owner replaces without the password, others change it with it.
		owner := h.phone("anna")
		if got, err := owner.Recover(t.Context(), password(now.pw)); err != nil || !got.Key.Equal(now.key.Key) || got.Generation != now.generation {
			t.Fatalf("round %d: %+v, %v", round, got, err)
		}
		racers = racers[:0]
		racers = append(racers, func() outcome {
			o := outcome{pw: fmt.Sprint("replaced ", round), key: newKey()}
			r, err := owner.Replace(t.Context(), password(o.pw), o.key, cheap)
			o.generation, o.err = r.Generation, err
			return o
		})
		for i := range 3 {
			p, o := h.phone("anna"), outcome{pw: fmt.Sprint("changed ", round, i)}
			racers = append(racers, func() outcome {
				c, err := p.ChangePassword(t.Context(), password(now.pw), password(o.pw), i == 0, cheap)
				o.key, o.generation, o.err = c.Key, c.Receipt.Generation, err
				return o
			})
		}
		before := now
		seen := map[uint64]bool{}
		for _, o := range race(racers...) {
			if seen[o.generation] || o.generation <= before.generation {
				t.Fatalf("round %d: generation %d twice, or old", round, o.generation)
			}
			seen[o.generation] = true
			if o.generation > now.generation {
				now = o
			}
		}
		s, err := h.phone("anna").Status(t.Context())
		if err != nil || s.Generation != now.generation || s.Generation != before.generation+uint64(len(seen)) {
			t.Fatalf("round %d: generation %d after %d successes from %d: %v", round, s.Generation, len(seen), before.generation, err)
		}
	}
	if got, err := h.phone("anna").Recover(t.Context(), password(now.pw)); err != nil || !got.Key.Equal(now.key.Key) {
		t.Errorf("in the end: %v", err)
	}
}

// TestVaultKilledAtAnyMoment: twenty phones recover with the right password at
// the same time, and vaultd is killed at three random moments among them. All
// succeed, and none pays more than its own charge.
func TestVaultKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	h := start(t)
	const phones = 20
	keys := make([]backupfile.BackupKey, phones)
	for i := range keys {
		keys[i] = h.registered(fmt.Sprint("anna ", i), "1234")
	}
	// About 240 frames pass; the vault is killed while one of them is under way.
	var seen atomic.Int32
	at := []int32{10 + rand.Int32N(60), 90 + rand.Int32N(60), 170 + rand.Int32N(60)}
	var kills sync.Mutex
	back := make(chan error, len(at))
	h.relay.lies(func(direction, frame.Frame) verdict {
		if slices.Contains(at, seen.Add(1)) {
			go func() {
				kills.Lock()
				defer kills.Unlock()
				err := h.Vault.Kill()
				if err == nil {
					err = h.Vault.Start(context.Background())
				}
				back <- err
			}()
		}
		return pass
	})
	var wg sync.WaitGroup
	for i, key := range keys {
		phone := h.phone(fmt.Sprint("anna ", i))
		wg.Go(func() {
			got, err := phone.Recover(t.Context(), password("1234"))
			if err != nil || !got.Key.Equal(key.Key) || got.FailuresBefore != 0 || got.AttemptsLeft != 10 {
				t.Errorf("phone %d: %+v, %v\n%s", i, got, err, phone.log.Bytes())
			}
		})
	}
	wg.Wait()
	for range at {
		if err := <-back; err != nil {
			t.Fatal(err)
		}
	}
	h.relay.lies(nil)
	for i := range keys {
		if s, err := h.phone(fmt.Sprint("anna ", i)).Status(t.Context()); err != nil || s.AttemptsLeft != 10 || s.State != client.StateLive {
			t.Errorf("phone %d afterwards: %+v, %v", i, s, err)
		}
	}
	t.Logf("killed at frames %v of %d", at, seen.Load())
}

// TestStoreCannotGrow: the disk takes no more in the middle of charging. vaultd
// ends rather than serves from doubt, and whatever it has said to be charged is
// charged when it comes back.
func TestStoreCannotGrow(t *testing.T) {
	t.Parallel()
	h := start(t)
	const accounts = 12
	for i := range accounts {
		h.registered(fmt.Sprint("anna ", i), "1234")
	}
	var sessions []*talk
	for i := range accounts {
		sessions = append(sessions, h.inside(t, h.device(t, fmt.Sprint("anna ", i))))
	}
	limitFiles(t, h.Vault.PID(), 8<<10+largestFile(t, filepath.Join(h.Dir, "records")))
	said := make([]int, accounts)
	ended := -1
	for i := 0; ended < 0; i++ {
		n := i % accounts
		if i == 9*accounts {
			t.Fatal("the limit was never met")
		}
		_, ke1 := h.ke1(t, fmt.Sprint("anna ", n), "wrong")
		sessions[n].seal(vaultmsg.EncodeRequest(vaultmsg.RecoverStart{KE1: ke1}))
		sessions[n].c.send(sessions[n].last)
		f, err := sessions[n].c.next()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case frame.Data:
			plain, err := sessions[n].noise.Open(sessions[n].id[:], sessions[n].n, f.Payload)
			if err != nil {
				t.Fatal(err)
			}
			r, err := vaultmsg.ParseReply(plain)
			if err != nil {
				t.Fatal(err)
			}
			if r.Status != frame.OK {
				t.Fatalf("answered out of doubt: %+v", r)
			}
			said[n]++
		case frame.Close:
			ended = n
		default:
			t.Fatalf("%#v", f)
		}
	}
	// It ends by itself: asked to, it would end with 0.
	if err := h.Vault.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("after a write that failed vaultd ends with %v", err)
	}
	if err := h.Vault.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	total := 0
	for i, n := range said {
		s, err := h.phone(fmt.Sprint("anna ", i)).Status(t.Context())
		// The one in doubt may stand, or not; nothing else may differ.
		doubt := 0
		if i == ended {
			doubt = 1
		}
		if err != nil || s.Failures < n || s.Failures > n+doubt || s.AttemptsLeft != 10-s.Failures {
			t.Errorf("account %d: said %d charged, %d stand, %d left: %v", i, n, s.Failures, s.AttemptsLeft, err)
		}
		total += n
	}
	t.Logf("%d charges before the disk was full", total)
	if total == 0 {
		t.Error("nothing was charged before: the test shows nothing")
	}
	if _, err := h.phone("anna 0").Recover(t.Context(), password("1234")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// limitFiles sets how long a file of a process may become, in bytes.
func limitFiles(t *testing.T, pid int, size int64) {
	t.Helper()
	limit := syscall.Rlimit{Cur: uint64(size), Max: 1 << 62}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), syscall.RLIMIT_FSIZE, uintptr(unsafe.Pointer(&limit)), 0, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
}

func largestFile(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() {
			size = max(size, info.Size())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// TestVaultRefusesToStart: what is wrong is said at once, with the exit code of
// its kind, and without the PIN.
func TestVaultRefusesToStart(t *testing.T) {
	t.Parallel()
	h := start(t)
	if err := h.Vault.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	pinFile := func(name, pin string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(pin), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const wrong = "not-the-pin-5b1d"
	text := filepath.Join(t.TempDir(), "module.so")
	if err := os.WriteFile(text, []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		args []string
		code int
		says string
	}{
		"wrong PIN":            {[]string{"--pin-file", pinFile("pin", wrong, 0o600)}, 2, "PIN"},
		"no PIN file":          {[]string{"--pin-file", filepath.Join(h.Dir, "nowhere")}, 2, "nowhere"},
		"a PIN all may read":   {[]string{"--pin-file", pinFile("pin", wrong, 0o644)}, 2, "pin"},
		"no module":            {[]string{"--hsm", "pkcs11:token=vault?module-path=/nowhere/libhsm.so"}, 2, "/nowhere/libhsm.so"},
		"a module that's none": {[]string{"--hsm", "pkcs11:token=vault?module-path=" + text}, 2, "module.so"},
		"no such token":        {[]string{"--hsm", softhsmURI(t, h, "another")}, 1, "no token"}, // it may be plugged in later
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		cmd := exec.CommandContext(ctx, filepath.Join(h.BinDir, "vaultd"), append([]string{"serve", "--config", filepath.Join(h.Dir, "vaultd.yaml"), "--listen", "127.0.0.1:0"}, row.args...)...)
		cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+filepath.Join(h.Dir, "softhsm2.conf"))
		out, err := cmd.CombinedOutput()
		cancel()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != row.code || !bytes.Contains(out, []byte(row.says)) {
			t.Errorf("%s: %v, want code %d and %q; it says\n%s", name, err, row.code, row.says, out)
		}
		if bytes.Contains(out, []byte(wrong)) {
			t.Errorf("%s: it prints the PIN", name)
		}
		t.Logf("%s: code %d: %s", name, row.code, bytes.TrimSpace(out))
	}
	// A wrong PIN locks nobody out.
	if err := h.Vault.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.registered("anna", "1234")
}

// softhsmURI is the stack's module with another token.
func softhsmURI(t *testing.T, h *house, label string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.Dir, "vaultd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, path, found := bytes.Cut(b, []byte("module-path="))
	if !found {
		t.Fatalf("no module in %s", b)
	}
	path, _, _ = bytes.Cut(path, []byte("\n"))
	return "pkcs11:token=" + label + "?module-path=" + string(path)
}

// TestRedisDies: a real Redis is killed and comes back, in the middle of a
// session and between connections. Nobody who recovers notices.
func TestRedisDies(t *testing.T) {
	t.Parallel()
	h := start(t, func(o *stack.Options) { o.Redis = stack.RealRedis })
	key := h.registered("anna", "1234")
	d := h.device(t, "anna")
	s := h.talk(t, h.as(t, d))
	must(t, s.ask(s.authorise(d, d.ticket(t))))
	recovers := func(when string) {
		t.Helper()
		if got, err := h.phone("anna").Recover(t.Context(), password("1234")); err != nil || !got.Key.Equal(key.Key) {
			t.Errorf("%s: %v", when, err)
		}
	}
	goesOn := func(when string) {
		t.Helper()
		if _, left := s.status(); left != 10 {
			t.Errorf("%s: %d left", when, left)
		}
		w := h.as(t, d)
		w.send(frame.Attach{Tag: 5, Session: s.id})
		expect[frame.Attach](t, w)
		s.c = w
		if _, left := s.status(); left != 10 {
			t.Errorf("%s, attached anew: %d left", when, left)
		}
	}
	goesOn("with Redis")
	for round := range 3 {
		if err := h.Redis.Kill(); err != nil {
			t.Fatal(err)
		}
		goesOn(fmt.Sprint("without Redis ", round))
		recovers(fmt.Sprint("without Redis ", round))
		if err := h.Redis.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		goesOn(fmt.Sprint("Redis is back ", round))
		recovers(fmt.Sprint("Redis is back ", round))
	}
}

// TestChatdKilledInMidRecovery: the client comes back to the vault session that
// it had, and pays once.
func TestChatdKilledInMidRecovery(t *testing.T) {
	t.Parallel()
	bothRedis(t, func(t *testing.T, h *house) {
		key := h.registered("anna", "1234")
		for sequence := uint32(1); sequence <= 3; sequence++ {
			var killed atomic.Bool
			var opened, attached atomic.Int32
			back := make(chan error, 1)
			h.relay.lies(func(d direction, f frame.Frame) verdict {
				switch f := f.(type) {
				case frame.Open:
					opened.Add(1)
				case frame.Attach:
					if d == toVault {
						attached.Add(1)
					}
				case frame.Data:
					if d == toPhone && f.Sequence == sequence && !killed.Swap(true) {
						if err := h.Chatd.Kill(); err != nil {
							t.Error(err)
						}
						go func() { back <- h.Chatd.Start(context.Background()) }()
						return cut
					}
				}
				return pass
			})
			phone := h.phone("anna")
			got, err := phone.Recover(t.Context(), password("1234"))
			h.relay.lies(nil)
			if err := <-back; err != nil {
				t.Fatal(err)
			}
			if err != nil || !got.Key.Equal(key.Key) || got.FailuresBefore != 0 || got.AttemptsLeft != 10 {
				t.Errorf("killed at reply %d: %+v, %v", sequence, got, err)
			}
			if opened.Load() != 1 || attached.Load() < 1 {
				t.Errorf("killed at reply %d: %d sessions, %d times attached; want the same one again", sequence, opened.Load(), attached.Load())
			}
		}
	})
}
