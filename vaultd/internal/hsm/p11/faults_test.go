package p11

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/pkcs11"

	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/hsmtest"
)

// faults are what a device that went away, or was reset, answers.
var faults = []pkcs11.Error{
	pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_DEVICE_REMOVED,
	pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_USER_NOT_LOGGED_IN,
	pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_KEY_HANDLE_INVALID,
	pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED,
	pkcs11.CKR_OPERATION_ACTIVE, pkcs11.CKR_OPERATION_NOT_INITIALIZED,
}

// openShimmed opens a module through a shim, which is what the tests of a
// path get: libraries stay loaded, so it is taken out again at the end.
func openShimmed(t *testing.T, config Config, s *shim) (*Module, error) {
	t.Helper()
	settings := settingsOf(t, config, s.through)
	alone(t, settings.uri.ModulePath)
	m, err := open(t.Context(), settings)
	if err == nil {
		t.Cleanup(func() {
			s.on(nil)
			if err := m.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	return m, err
}

// alone lets the next user of a path load it anew, with a shim or without.
func alone(t *testing.T, path string) {
	t.Helper()
	forget := func() {
		libraries.Lock()
		defer libraries.Unlock()
		if l := libraries.byPath[path]; l != nil && l.users > 0 {
			t.Errorf("%s is in use", path)
		}
		delete(libraries.byPath, path)
	}
	forget()
	t.Cleanup(forget)
}

// once answers the call with index n, counted from 0, with err; fired says
// whether there was one.
func once(n int, err error) (before func(string, pkcs11.SessionHandle) error, fired func() bool) {
	var calls atomic.Int64
	return func(string, pkcs11.SessionHandle) error {
			if calls.Add(1)-1 == int64(n) {
				return err
			}
			return nil
		}, func() bool {
			return calls.Load() > int64(n)
		}
}

// Every operation, with every fault at each of its calls, succeeds within the
// same call, with the right result.
func TestFaultAtEveryCall(t *testing.T) {
	token := provisioned(t)
	s := &shim{}
	m, err := openShimmed(t, Config{URI: token.URI, Sessions: 1}, s)
	if err != nil {
		t.Fatal(err)
	}
	for o, operation := range hsmtest.Operations(t, m) {
		for f, fault := range faults {
			// All faults at the calls of an evaluation, two others elsewhere.
			if operation.Name != "Evaluate" && f%7 != o%7 {
				continue
			}
			calls := 0
			for ; ; calls++ {
				before, fired := once(calls, fault)
				s.on(before)
				err := operation.Run(t.Context())
				s.on(nil)
				if err != nil {
					t.Errorf("%s, call %d answered %v: %v", operation.Name, calls, fault, err)
				}
				if !fired() {
					break
				}
			}
			if calls == 0 {
				t.Errorf("%s calls nothing", operation.Name)
			}
		}
	}
	if m.Stats().Recoveries == 0 {
		t.Error("no recovery was counted")
	}
}

// A second fault, at each call of the recovery from the first.
func TestFaultDuringRecovery(t *testing.T) {
	token := provisioned(t)
	s := &shim{}
	m, err := openShimmed(t, Config{URI: token.URI, Sessions: 2}, s)
	if err != nil {
		t.Fatal(err)
	}
	evaluate := hsmtest.Operations(t, m)[0]
	reached := true
	for n := 1; reached; n += 1 + n/8 {
		before, fired := once(n, pkcs11.Error(pkcs11.CKR_DEVICE_ERROR))
		first := true
		s.on(func(call string, session pkcs11.SessionHandle) error {
			if first {
				first = false
				return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED)
			}
			return before(call, session)
		})
		err := evaluate.Run(t.Context())
		s.on(nil)
		// A module that cannot be initialised is given up for this call.
		if err != nil && !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("second fault at call %d: %v", n, err)
		}
		if err != nil && n > 4 {
			t.Errorf("second fault at call %d: %v", n, err)
		}
		if err := evaluate.Run(t.Context()); err != nil {
			t.Fatalf("after a second fault at call %d: %v", n, err)
		}
		reached = fired()
	}
}

// A device that stays away is ErrUnavailable for every operation, and all is
// well once it is back.
func TestFaultThatStays(t *testing.T) {
	token := provisioned(t)
	s := &shim{}
	m, err := openShimmed(t, Config{URI: token.URI}, s)
	if err != nil {
		t.Fatal(err)
	}
	operations := hsmtest.Operations(t, m)
	for _, fault := range faults {
		s.on(func(string, pkcs11.SessionHandle) error { return fault })
		for _, operation := range operations {
			if err := operation.Run(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
				t.Errorf("%s under %v: %v, want ErrUnavailable", operation.Name, fault, err)
			}
		}
		s.on(nil)
		for _, operation := range operations {
			if err := operation.Run(t.Context()); err != nil {
				t.Errorf("%s after %v: %v", operation.Name, fault, err)
			}
		}
	}
}

// Eight goroutines, and every so often a fault: invented ones, and real ones
// made through the module itself.
func TestFaultsUnderLoad(t *testing.T) {
	token := provisioned(t)
	for _, test := range []struct {
		name  string
		fault func(s *shim, session pkcs11.SessionHandle) error
		real  bool
	}{
		{"SESSION_HANDLE_INVALID", answer(pkcs11.CKR_SESSION_HANDLE_INVALID), false},
		{"DEVICE_REMOVED", answer(pkcs11.CKR_DEVICE_REMOVED), false},
		{"USER_NOT_LOGGED_IN", answer(pkcs11.CKR_USER_NOT_LOGGED_IN), false},
		{"CRYPTOKI_NOT_INITIALIZED", answer(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED), false},
		{"GENERAL_ERROR", answer(pkcs11.CKR_GENERAL_ERROR), false},
		{"session closed", func(s *shim, session pkcs11.SessionHandle) error {
			return s.cryptoki.CloseSession(session)
		}, true},
		{"logged out in another session", logout, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &shim{serial: test.real}
			m, err := openShimmed(t, Config{URI: token.URI}, s)
			if err != nil {
				t.Fatal(err)
			}
			var calls, hits atomic.Int64
			s.on(func(call string, session pkcs11.SessionHandle) error {
				// Far enough apart that one operation does not meet three.
				if calls.Add(1)%1500 != 0 || session == 0 {
					return nil
				}
				hits.Add(1)
				return test.fault(s, session)
			})
			hsmtest.Hammer(t, m, 8, 30)
			s.on(nil)
			if hits.Load() == 0 || m.Stats().Recoveries == 0 {
				t.Errorf("%d faults, %d recoveries", hits.Load(), m.Stats().Recoveries)
			}
			t.Logf("%d calls, %d faults, %d recoveries", calls.Load(), hits.Load(), m.Stats().Recoveries)
		})
	}
}

func answer(code uint) func(*shim, pkcs11.SessionHandle) error {
	return func(*shim, pkcs11.SessionHandle) error { return pkcs11.Error(code) }
}

// logout logs out in a session of its own, and so everywhere.
func logout(s *shim, session pkcs11.SessionHandle) error {
	api := s.cryptoki.(*pkcs11.Ctx)
	info, err := api.GetSessionInfo(session)
	if err != nil {
		return nil // closed already
	}
	other, err := api.OpenSession(info.SlotID, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return err
	}
	defer api.CloseSession(other)
	api.Logout(other) // fails if nobody is logged in
	return nil
}

func TestTokenVanishesAndReturns(t *testing.T) {
	token := provisioned(t)
	s := &shim{}
	m, err := openShimmed(t, Config{URI: token.URI}, s)
	if err != nil {
		t.Fatal(err)
	}
	operations := hsmtest.Operations(t, m)
	// Beside the directory of tokens: in it, SoftHSM finds it by any name.
	away := filepath.Join(t.TempDir(), "away")
	for range 3 {
		if err := os.Rename(token.Dir, away); err != nil {
			t.Fatal(err)
		}
		// SoftHSM works on from memory until it has a reason to look.
		first := true
		s.on(func(string, pkcs11.SessionHandle) error {
			if first {
				first = false
				return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED)
			}
			return nil
		})
		for _, operation := range operations {
			if err := operation.Run(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
				t.Errorf("%s without the token: %v, want ErrUnavailable", operation.Name, err)
			}
		}
		s.on(nil)
		if err := os.Rename(away, token.Dir); err != nil {
			t.Fatal(err)
		}
		for _, operation := range operations {
			if err := operation.Run(t.Context()); err != nil {
				t.Errorf("%s after the token returned: %v", operation.Name, err)
			}
		}
	}
}

func generationOf(m *Module) uint64 {
	m.lib.drain.RLock()
	defer m.lib.drain.RUnlock()
	return m.lib.generation
}

// The module is restarted under load to free its memory, and nobody notices.
func TestRecycle(t *testing.T) {
	token := provisioned(t)
	m := opened(t, Config{URI: token.URI, RecycleAfter: 100})
	hsmtest.Hammer(t, m, 8, 20)
	if stats := m.Stats(); stats.Recycles < 3 || stats.Recoveries != 0 {
		t.Errorf("%+v, want some recycles and no recovery", stats)
	}
}

// Two vaults in one process share the library, and survive each other's
// recoveries and ends.
func TestTwoModulesOneLibrary(t *testing.T) {
	tokens := []hsmtest.Token{provisioned(t), provisioned(t)}
	a := opened(t, Config{URI: tokens[0].URI})
	b, err := Open(t.Context(), Config{URI: tokens[1].URI})
	if err != nil {
		t.Fatal(err)
	}
	again := opened(t, Config{URI: tokens[0].URI})
	var group sync.WaitGroup
	for _, m := range []*Module{a, b, again} {
		group.Go(func() { hsmtest.Hammer(t, m, 3, 5) })
	}
	for range 5 {
		if _, err := a.lib.recover(generationOf(a)); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	for _, m := range []*Module{a, again} {
		if err := m.Healthy(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Waiting for a session ends with the caller's context.
func TestContextEndsWaiting(t *testing.T) {
	token := provisioned(t)
	s := &shim{}
	m, err := openShimmed(t, Config{URI: token.URI, Sessions: 1}, s)
	if err != nil {
		t.Fatal(err)
	}
	inside, leave := make(chan struct{}), make(chan struct{})
	var first sync.Once
	s.on(func(string, pkcs11.SessionHandle) error {
		first.Do(func() { close(inside); <-leave })
		return nil
	})
	busy := make(chan error)
	go func() { busy <- m.Healthy(context.Background()) }()
	<-inside
	ctx, cancel := context.WithCancelCause(t.Context())
	waiting := make(chan error)
	go func() { waiting <- m.Healthy(ctx) }()
	cancel(errors.New("enough"))
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting ended with %v", err)
	}
	close(leave)
	if err := <-busy; err != nil {
		t.Error(err)
	}
}

// Another token under the same name is noticed.
func TestTokenExchanged(t *testing.T) {
	tokens := []hsmtest.Token{provisioned(t), provisioned(t)}
	settings := []settings{settingsOf(t, Config{URI: tokens[0].URI}, load), settingsOf(t, Config{URI: tokens[1].URI}, load)}
	var exchanged atomic.Bool
	s := &shim{tokenInfo: func(info *pkcs11.TokenInfo) {
		if !exchanged.Load() {
			return
		}
		switch info.Label {
		case settings[0].uri.Token:
			info.Label = settings[1].uri.Token
		case settings[1].uri.Token:
			info.Label = settings[0].uri.Token
		}
	}}
	// The other token must take the same PIN to get as far as its keys.
	raw(t, tokens[1], func(api *pkcs11.Ctx, session pkcs11.SessionHandle) {
		if err := api.SetPIN(session, tokens[1].PIN, tokens[0].PIN); err != nil {
			t.Fatal(err)
		}
	})
	m, err := openShimmed(t, Config{URI: tokens[0].URI}, s)
	if err != nil {
		t.Fatal(err)
	}
	exchanged.Store(true)
	if _, err := m.lib.recover(generationOf(m)); err != nil {
		t.Fatal(err)
	}
	if err := m.Healthy(t.Context()); !errors.Is(err, hsm.ErrUnfit) {
		t.Errorf("on another token: %v, want ErrUnfit", err)
	}
	exchanged.Store(false)
	if _, err := m.lib.recover(generationOf(m)); err != nil {
		t.Fatal(err)
	}
	if err := m.Healthy(t.Context()); err != nil {
		t.Errorf("on the right token again: %v", err)
	}
}

// What input did is not blamed on the device, nor the reverse.
func TestDoubtIsSettledByTheCanary(t *testing.T) {
	token := provisioned(t)
	s := &shim{}
	m, err := openShimmed(t, Config{URI: token.URI}, s)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	sealed, err := m.Seal(ctx, 1, nil, []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	recoveries := func(name string, want uint64, wantErr error, before func(string, pkcs11.SessionHandle) error) {
		t.Helper()
		was := m.Stats().Recoveries
		s.on(before)
		_, err := m.Open(ctx, 1, nil, sealed)
		s.on(nil)
		if !errors.Is(err, wantErr) || m.Stats().Recoveries-was != want {
			t.Errorf("%s: %v after %d recoveries, want %v after %d", name, err, m.Stats().Recoveries-was, wantErr, want)
		}
	}
	general := pkcs11.Error(pkcs11.CKR_GENERAL_ERROR)
	decrypts := func(times int) func(string, pkcs11.SessionHandle) error {
		return func(call string, session pkcs11.SessionHandle) error {
			if call != "Decrypt" || times == 0 {
				return nil
			}
			times--
			// A refusal by the module itself, which also ends the operation.
			if _, err := s.cryptoki.Decrypt(session, make([]byte, 40)); err == nil {
				t.Error("the module opened zeros")
			}
			return general
		}
	}
	recoveries("refused once", 0, nil, decrypts(1))
	recoveries("refused twice, canary well", 0, hsm.ErrIntegrity, decrypts(2))
	sick, refuse := false, decrypts(1)
	recoveries("refused, canary sick", 1, nil, func(call string, session pkcs11.SessionHandle) error {
		if err := refuse(call, session); err != nil {
			sick = true
			return err
		}
		if call == "Finalize" {
			sick = false
		}
		if sick {
			return general
		}
		return nil
	})
}

// A module that passed the probe and now says that it lacks something is met
// like any other fault; only when it stays so it is unfit.
func TestUnfitAfterOpen(t *testing.T) {
	token := provisioned(t)
	s := &shim{}
	m, err := openShimmed(t, Config{URI: token.URI}, s)
	if err != nil {
		t.Fatal(err)
	}
	evaluate := hsmtest.Operations(t, m)[0]
	for _, code := range []uint{pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_MECHANISM_INVALID} {
		times := 0
		s.on(func(call string, _ pkcs11.SessionHandle) error {
			if call == "DeriveKey" && times > 0 {
				times--
				return pkcs11.Error(code)
			}
			return nil
		})
		times = 1
		if err := evaluate.Run(t.Context()); err != nil {
			t.Errorf("%v once: %v", pkcs11.Error(code), err)
		}
		times = 1000
		if err := evaluate.Run(t.Context()); !errors.Is(err, hsm.ErrUnfit) {
			t.Errorf("%v always: %v, want ErrUnfit", pkcs11.Error(code), err)
		}
		s.on(nil)
	}

	// An unwrapped key that seems readable, and cannot be tightened.
	loose := true
	s.result = func(out []byte) {
		if len(out) == 1 && loose {
			out[0] = 0
		}
	}
	s.on(func(call string, _ pkcs11.SessionHandle) error {
		if call == "SetAttributeValue" {
			loose = false
			return pkcs11.Error(pkcs11.CKR_ATTRIBUTE_READ_ONLY)
		}
		return nil
	})
	if err := evaluate.Run(t.Context()); err != nil || loose {
		t.Errorf("an unwrapped key that seemed readable once: %v", err)
	}
	s.on(nil)
	s.result = nil
}

// A module that computes wrongly is asked again; a second wrong result is
// refused and never given out.
func TestWrongResults(t *testing.T) {
	token := provisioned(t)
	s := &shim{}
	m, err := openShimmed(t, Config{URI: token.URI}, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, operation := range hsmtest.Operations(t, m) {
		size := map[string]int{"Evaluate": hsm.ShareSize, "DH": hsm.ShareSize, "Sign": hsm.SignatureSize}[operation.Name]
		if size == 0 {
			continue
		}
		times := 0
		s.result = func(out []byte) {
			if size == hsm.ShareSize && string(out) == string(m.identity.canary[:]) {
				return // the canary has the size of a share
			}
			if len(out) == size && times > 0 {
				times--
				out[len(out)-1] ^= 1
			}
		}
		times = 1
		if err := operation.Run(t.Context()); err != nil {
			t.Errorf("%s, wrong once: %v", operation.Name, err)
		}
		times = 1000
		if err := operation.Run(t.Context()); !errors.Is(err, hsm.ErrIntegrity) {
			t.Errorf("%s, wrong always: %v, want ErrIntegrity", operation.Name, err)
		}
		if times == 1000 {
			t.Errorf("%s: nothing was spoilt", operation.Name)
		}
		s.result = nil
	}
}
