package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/protocol/frame"
)

// The success was stored, its reply was lost, and the next try succeeds once more: the
// failures before the first are told all the same, for somebody may have guessed.
func TestFailuresBeforeALostSuccessAreTold(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "pw")
		p.Recover(t.Context(), []byte("wrong"))
		lost := false
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == down && data.Sequence == 3 && !lost {
				lost = true
				f.vault.forgetAll()
				return cut
			}
			return pass
		})
		got, err := p.Recover(t.Context(), []byte("pw"))
		if err != nil || !got.Key.Equal(key.Key) || !lost {
			t.Fatal(err)
		}
		if got.FailuresBefore != 1 || got.AttemptsLeft != 10 {
			t.Errorf("%d failures before, %d left, want 1 and 10", got.FailuresBefore, got.AttemptsLeft)
		}
		if got, err = p.Recover(t.Context(), []byte("pw")); err != nil || got.FailuresBefore != 0 {
			t.Errorf("%v; the next time %d failures before, want 0", err, got.FailuresBefore)
		}
	})
}

// Failures at a registration that was replaced between two tries are not those of the
// one that is recovered.
func TestFailuresBeforeAreOfTheGenerationRecovered(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		owner, p := f.phone(), f.phone()
		key, _ := owner.register(t, "pw")
		for n := range 3 {
			p.Recover(t.Context(), fmt.Appendf(nil, "wrong %d", n))
		}
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == down && data.Sequence == 3 {
				f.hook(nil)
				f.vault.forgetAll()
				if _, err := owner.ChangePassword(t.Context(), []byte("pw"), []byte("pw"), false, cheap); err != nil {
					t.Error(err)
				}
				return cut
			}
			return pass
		})
		got, err := p.Recover(t.Context(), []byte("pw"))
		if err != nil || !got.Key.Equal(key.Key) || got.Generation != 2 || got.FailuresBefore != 0 {
			t.Errorf("generation %d, %d failures before, %v; want 2 and 0", got.Generation, got.FailuresBefore, err)
		}
	})
}

// A relay that drops every reply to a KE3, or every later one, and ends the session,
// makes a password succeed a few times, not as often as two minutes let it: each time
// gives a thief of the account ten new attempts.
func TestOneOperationDoesNotSucceedWithoutEnd(t *testing.T) {
	restore := func(ctx context.Context, p *phone) error {
		_, err := p.Recover(ctx, []byte("pw"))
		return err
	}
	change := func(ctx context.Context, p *phone) error {
		_, err := p.ChangePassword(ctx, []byte("pw"), []byte("new"), false, cheap)
		return err
	}
	for _, c := range []struct {
		name string
		do   func(context.Context, *phone) error
		seq  uint32
	}{{"recover, KE3", restore, 3}, {"change, KE3", change, 3}, {"change, RegisterStart", change, 4}} {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			p := f.phone()
			key, _ := p.register(t, "pw")
			f.hook(func(d direction, fr frame.Frame) fate {
				if data, ok := fr.(frame.Data); ok && d == down && data.Sequence == c.seq {
					f.vault.forgetAll()
					return cut
				}
				return pass
			})
			e := wantError(t, c.do(t.Context(), p), client.ErrUnreachable)
			if n := f.vault.charges(); n != 3 {
				t.Errorf("%s: %d charges, each of them a success, want 3 (%v)", c.name, n, e)
			}
			f.hook(nil)
			got, err := p.Recover(t.Context(), []byte("pw"))
			if err != nil || !got.Key.Equal(key.Key) {
				t.Errorf("%s: typed again: %v", c.name, err)
			}
		})
	}
}

// The right password's KE2 was lost, and a typo is the tenth attempt: its verdict is
// not that of the attempt that is still open, which the right password goes on with.
func TestATypoAfterALostKE2LosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone(func(c *client.Config) { c.Timeout = 15 * time.Second })
		key, _ := p.register(t, "pw")
		for n := range 8 {
			_, err := p.Recover(t.Context(), fmt.Appendf(nil, "wrong %d", n))
			wantError(t, err, client.ErrWrongPassword)
		}
		f.hook(onData(down, 2, drop, 0))
		_, err := p.Recover(t.Context(), []byte("pw"))
		wantError(t, err, client.ErrUnreachable)
		f.hook(nil)
		_, err = p.Recover(t.Context(), []byte("typo"))
		if e := wantError(t, err, client.ErrWrongPassword); e.AttemptsLeft != 0 || errors.Is(err, client.ErrDestroyed) {
			t.Errorf("the typo: %+v", e)
		}
		p.restart(t)
		if got, err := p.Recover(t.Context(), []byte("pw")); err != nil || !got.Key.Equal(key.Key) {
			t.Fatal(err)
		}
		if c := f.vault.charges(); c != 10 {
			t.Errorf("%d charges, want 10", c)
		}
	})
}

func TestBlindIsKeptUntilASuccess(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		keeps := func(when string, want bool) {
			t.Helper()
			blob, err := p.cfg.Store.Load()
			if got := bytes.Contains(blob, []byte(`"blind"`)); err != nil || got != want {
				t.Errorf("%s: a blind is stored: %v, %v", when, got, err)
			}
		}
		_, err := p.Recover(t.Context(), []byte("pw"))
		wantError(t, err, client.ErrNotRegistered)
		keeps("nothing is registered", false)
		p.register(t, "pw")
		wrong := func(n int) error {
			_, err := p.Recover(t.Context(), fmt.Appendf(nil, "wrong %d", n))
			wantError(t, err, client.ErrWrongPassword)
			return err
		}
		wrong(0)
		keeps("after a wrong password", false)
		f.hook(onData(down, 2, drop, 0))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := p.Recover(ctx, []byte("pw")); err == nil {
			t.Error("recovered without KE2")
		}
		f.hook(nil)
		keeps("while an attempt has no verdict", true)
		wrong(1)
		keeps("while it still has none", true)
		if _, err := p.Recover(t.Context(), []byte("pw")); err != nil {
			t.Fatal(err)
		}
		keeps("after a success", false)
		wrong(0)
		if _, err := p.Replace(t.Context(), []byte("pw"), client.NewBackupKey(), cheap); err != nil {
			t.Fatal(err)
		}
		keeps("after registering anew", false)
		for n := range 9 {
			wrong(n)
		}
		if err := wrong(9); !errors.Is(err, client.ErrDestroyed) {
			t.Error(err)
		}
		keeps("destroyed", false)
	})
}

func TestBlindAfterVerdictAndForOtherPasswords(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone(func(c *client.Config) { c.Timeout = 15 * time.Second })
		p.register(t, "pw")
		f.hook(onData(down, 2, drop, 0))
		p.Recover(t.Context(), []byte("one"))
		p.Recover(t.Context(), []byte("two"))
		p.Recover(t.Context(), []byte("one"))
		if c, e := f.vault.charges(), f.vault.distinct(); c != 2 || e != 2 {
			t.Errorf("two passwords: %d charges for %d elements", c, e)
		}
		f.hook(nil)
		_, err := p.Recover(t.Context(), []byte("one"))
		wantError(t, err, client.ErrWrongPassword)
		// After the verdict the same password makes the same element: the blind is
		// kept. This vault keeps no closed entries, and charges it.
		_, err = p.Recover(t.Context(), []byte("one"))
		wantError(t, err, client.ErrWrongPassword)
		if c, e := f.vault.charges(), f.vault.distinct(); c != 3 || e != 2 {
			t.Errorf("after a verdict: %d charges for %d elements", c, e)
		}
		// After a success it makes another one.
		for range 2 {
			if _, err := p.Recover(t.Context(), []byte("pw")); err != nil {
				t.Fatal(err)
			}
		}
		if c, e := f.vault.charges(), f.vault.distinct(); c != 5 || e != 4 {
			t.Errorf("after a success: %d charges for %d elements", c, e)
		}
	})
}
