package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"chatvault/client"
	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
)

// onData makes a hook that decides about DATA frames of one direction and
// sequence number, as often as times says; 0 means always.
func onData(d direction, seq uint32, what fate, times int) func(direction, frame.Frame) fate {
	n := 0
	return func(got direction, fr frame.Frame) fate {
		data, ok := fr.(frame.Data)
		if !ok || got != d || data.Sequence != seq || (times > 0 && n >= times) {
			return pass
		}
		n++
		return what
	}
}

// In a recovery sequence 1 is AUTHORISE, 2 is KE1, 3 is KE3; in a registration 2
// is RegisterStart, 3 is RegisterFinish.
func TestConnectionCutAnywhereInARecovery(t *testing.T) {
	for _, what := range []fate{cut, drop} {
		for _, d := range []direction{up, down} {
			for seq := uint32(0); seq <= 3; seq++ {
				if seq == 0 && d == up {
					continue // the handshake goes up in OPEN
				}
				inBubble(t, func(t *testing.T, f *fakeRelay) {
					p := f.phone()
					key, _ := p.register(t, "pw")
					opens := f.count(&f.opens)
					f.hook(onData(d, seq, what, 1))
					got, err := p.Recover(t.Context(), []byte("pw"))
					if err != nil || !got.Key.Equal(key.Key) {
						t.Fatalf("fate %d, direction %v, sequence %d: %v", what, d, seq, err)
					}
					if n := f.vault.charges(); n != 1 {
						t.Errorf("sequence %d: %d charges", seq, n)
					}
					if seq == 0 {
						return // without the handshake there is no session to keep
					}
					if n := f.count(&f.opens) - opens; n != 1 {
						t.Errorf("sequence %d: %d vault sessions, want one that survives", seq, n)
					}
					if n := f.count(&f.attaches); (n > 0) != (what == cut) {
						t.Errorf("fate %d, sequence %d: %d ATTACH", what, seq, n)
					}
				})
			}
		}
	}
}

func TestSessionLostGoesOnWithTheSameBlind(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "pw")
		lost := false
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == up && data.Sequence == 3 && !lost {
				lost = true
				f.vault.forgetAll() // the vault has restarted
			}
			return pass
		})
		got, err := p.Recover(t.Context(), []byte("pw"))
		if err != nil || !got.Key.Equal(key.Key) || !lost {
			t.Fatal(err)
		}
		if c, e := f.vault.charges(), f.vault.distinct(); c != 1 || e != 1 {
			t.Errorf("%d charges for %d elements, want one", c, e)
		}
	})
}

// A relay that drops replies for as long as it likes costs one charge (A18),
// also when the app is killed between the attempts.
func TestThirtyDroppedRecoveriesCostOneCharge(t *testing.T) {
	for _, seq := range []uint32{2, 3} {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			p := f.phone(func(c *client.Config) { c.Timeout = 15 * time.Second })
			key, _ := p.register(t, "pw")
			d := down
			if seq == 3 {
				d = up // KE3 is lost, else the vault would have restored
			}
			f.hook(onData(d, seq, drop, 0))
			for i := range 30 {
				_, err := p.Recover(t.Context(), []byte("pw"))
				e := wantError(t, err, client.ErrUnreachable)
				if errors.Is(err, client.ErrWrongPassword) {
					t.Fatalf("a lost reply was taken for a wrong password: %v", e)
				}
				if i%3 == 0 {
					p.restart(t)
				}
			}
			f.hook(nil)
			got, err := p.Recover(t.Context(), []byte("pw"))
			if err != nil || !got.Key.Equal(key.Key) {
				t.Fatal(err)
			}
			if c, e := f.vault.charges(), f.vault.distinct(); c != 1 || e != 1 {
				t.Errorf("sequence %d: %d charges for %d elements, want one", seq, c, e)
			}
		})
	}
}

// A vault gives a device few sessions at a time; those that an operation had to
// leave are closed by the next connection.
func TestAbandonedSessionsAreClosed(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "pw")
		for range 6 {
			ctx, cancel := context.WithCancel(t.Context())
			f.hook(func(d direction, fr frame.Frame) fate {
				if data, ok := fr.(frame.Data); ok && d == down && data.Sequence == 2 {
					cancel()
					return cut
				}
				return pass
			})
			if _, err := p.Recover(ctx, []byte("pw")); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			cancel()
		}
		f.hook(nil)
		got, err := p.Recover(t.Context(), []byte("pw"))
		if err != nil || !got.Key.Equal(key.Key) || f.vault.charges() != 1 {
			t.Fatalf("%v, %d charges", err, f.vault.charges())
		}
		synctest.Wait()
		f.vault.do(func() {
			if n := len(f.vault.sessions); n != 0 {
				t.Errorf("%d sessions left behind", n)
			}
		})
	})
}

// The tenth attempt was the right password, and its reply was lost. A typo then is
// told that nothing is left; the right password still goes on.
func TestATypoWhileLockedLosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone(func(c *client.Config) { c.Timeout = 15 * time.Second })
		key, _ := p.register(t, "pw")
		for n := range 9 {
			p.Recover(t.Context(), fmt.Appendf(nil, "wrong %d", n))
		}
		f.hook(onData(down, 2, drop, 0))
		_, err := p.Recover(t.Context(), []byte("pw"))
		wantError(t, err, client.ErrUnreachable)
		f.hook(nil)
		_, err = p.Recover(t.Context(), []byte("typo"))
		wantError(t, err, client.ErrLocked)
		if got, err := p.Recover(t.Context(), []byte("pw")); err != nil || !got.Key.Equal(key.Key) {
			t.Fatal(err)
		}
		if c := f.vault.charges(); c != 10 {
			t.Errorf("%d charges, want 10", c)
		}
	})
}

func TestLostAbortKeepsTheVerdict(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone(func(c *client.Config) { c.Timeout = 30 * time.Second })
		p.register(t, "pw")
		f.hook(onData(up, 3, drop, 0))
		_, err := p.Recover(t.Context(), []byte("wrong"))
		if e := wantError(t, err, client.ErrWrongPassword); e.AttemptsLeft != 9 || !e.Charged {
			t.Errorf("%+v", e)
		}
		f.hook(nil)
		_, err = p.Recover(t.Context(), []byte("wrong"))
		if e := wantError(t, err, client.ErrWrongPassword); e.AttemptsLeft != 9 {
			t.Errorf("the same attempt was charged twice: %+v", e)
		}
	})
}

// With nothing registered the vault's count is 0: who is cut off while he registers
// must not read that no attempts are left.
func TestCutOffWhileRegisteringSaysNothingOfAttempts(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == up && data.Sequence == 3 {
				return cut
			}
			return pass
		})
		_, err := p.Register(t.Context(), []byte("pw"), client.NewBackupKey(), client.RegisterOptions{})
		if e := wantError(t, err, client.ErrUnreachable); e.AttemptsLeft != client.Unknown {
			t.Errorf("%+v", e)
		}
	})
}

// A relay that lets aborts through, and ends the session before each reply, must not
// turn one wrong password into ten charges (A18), not even at a vault that charges an
// element anew once it had its verdict.
func TestLostVerdictOfAnAbortIsNotChargedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone(func(c *client.Config) { c.Timeout = 5 * time.Minute })
		p.register(t, "pw")
		aborts := 0
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == down && data.Sequence == 3 {
				aborts++
				f.vault.forgetAll()
				return cut
			}
			return pass
		})
		_, err := p.Recover(t.Context(), []byte("wrong"))
		if e := wantError(t, err, client.ErrWrongPassword); e.AttemptsLeft != 9 || !e.Charged {
			t.Errorf("%+v", e)
		}
		if n := f.vault.charges(); n != 1 || aborts != 1 {
			t.Errorf("%d charges, %d aborts, for one wrong password", n, aborts)
		}
	})
}

func TestStorageFailuresOfTheVault(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "pw")
		for _, kind := range []vaultmsg.Kind{vaultmsg.KAuthorise, vaultmsg.KRecoverStart, vaultmsg.KRecoverFinish, vaultmsg.KAbort} {
			failed := 0
			f.vault.do(func() {
				f.vault.before = func(r vaultmsg.Request) *vaultmsg.Reply {
					if r.Kind() == kind && failed < 3 {
						failed++
						return &vaultmsg.Reply{Status: frame.Unavailable, Charged: kind != vaultmsg.KAuthorise}
					}
					return nil
				}
			})
			if kind == vaultmsg.KAbort {
				_, err := p.Recover(t.Context(), []byte("wrong"))
				if e := wantError(t, err, client.ErrWrongPassword); e.AttemptsLeft != 9 {
					t.Errorf("%+v", e)
				}
			} else if got, err := p.Recover(t.Context(), []byte("pw")); err != nil || !got.Key.Equal(key.Key) {
				t.Errorf("kind %d: %v", kind, err)
			}
			if failed != 3 {
				t.Errorf("kind %d failed %d times", kind, failed)
			}
		}
		f.vault.do(func() {
			f.vault.before = func(vaultmsg.Request) *vaultmsg.Reply { return &vaultmsg.Reply{Status: frame.Unavailable} }
		})
		_, err := p.Recover(t.Context(), []byte("pw"))
		wantError(t, err, client.ErrUnavailable)
	})
}

func TestRegisterFinishIsRepeatedWithTheSameIDAndBody(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		lost := false
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == down && data.Sequence == 3 && !lost {
				lost = true
				f.vault.forgetAll() // stored, the receipt lost, the session gone
				return cut
			}
			return pass
		})
		key, r := p.register(t, "pw")
		if r.Generation != 1 || !lost {
			t.Fatalf("generation %d", r.Generation)
		}
		got, err := p.Recover(t.Context(), []byte("pw"))
		if err != nil || !got.Key.Equal(key.Key) {
			t.Fatal(err)
		}
		if _, err := p.CheckReceipt(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// The app is killed after RegisterFinish; what was stored is found out before
// anything else is registered (A6).
func TestInterruptedRegistration(t *testing.T) {
	interrupt := func(t *testing.T, f *fakeRelay, d direction) *phone {
		p := f.phone(func(c *client.Config) { c.Timeout = 15 * time.Second })
		f.hook(onData(d, 3, drop, 0))
		_, err := p.Register(t.Context(), []byte("first"), client.NewBackupKey(), cheap)
		wantError(t, err, client.ErrUnreachable)
		f.hook(nil)
		p.restart(t)
		return p
	}
	t.Run("stored, checked", func(t *testing.T) {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			p := interrupt(t, f, down)
			if s, err := p.CheckReceipt(t.Context()); err != nil || s.Generation != 1 {
				t.Fatalf("%+v, %v", s, err)
			}
			_, err := p.ChangePassword(t.Context(), []byte("first"), []byte("second"), false, cheap)
			if err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("stored, registered again", func(t *testing.T) {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			p := interrupt(t, f, down)
			key, r := p.register(t, "second")
			if r.Generation != 2 || r.Replaced != 1 {
				t.Errorf("%+v", r)
			}
			if got, err := p.Recover(t.Context(), []byte("second")); err != nil || !got.Key.Equal(key.Key) {
				t.Fatal(err)
			}
		})
	})
	t.Run("stored, password changed", func(t *testing.T) {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			p := interrupt(t, f, down)
			_, err := p.ChangePassword(t.Context(), []byte("old"), []byte("new"), false, cheap)
			wantError(t, err, client.ErrConflict)
			if n := f.vault.charges(); n != 0 {
				t.Errorf("%d charges", n)
			}
		})
	})
	t.Run("not stored", func(t *testing.T) {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			p := interrupt(t, f, up)
			_, err := p.CheckReceipt(t.Context())
			wantError(t, err, client.ErrNotRegistered)
			if _, r := p.register(t, "second"); r.Generation != 1 {
				t.Errorf("generation %d", r.Generation)
			}
		})
	})
}

func TestVaultForgotTheRegistrationInProgress(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		lost := false
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == up && data.Sequence == 3 && !lost {
				lost = true
				f.vault.forgetAll()
				f.vault.do(func() { clear(f.vault.pending) }) // restarted, fresh keys gone
			}
			return pass
		})
		key, r := p.register(t, "pw")
		if r.Generation != 1 || !lost {
			t.Fatalf("generation %d", r.Generation)
		}
		if got, err := p.Recover(t.Context(), []byte("pw")); err != nil || !got.Key.Equal(key.Key) {
			t.Fatal(err)
		}
	})
}

func TestChangePasswordSurvivesALostSession(t *testing.T) {
	for seq := uint32(2); seq <= 5; seq++ { // KE1, KE3, RegisterStart, RegisterFinish
		for _, d := range []direction{up, down} {
			inBubble(t, func(t *testing.T, f *fakeRelay) {
				p := f.phone()
				key, _ := p.register(t, "old")
				lost := false
				f.hook(func(got direction, fr frame.Frame) fate {
					if data, ok := fr.(frame.Data); ok && got == d && data.Sequence == seq && !lost {
						lost = true
						f.vault.forgetAll()
						return cut
					}
					return pass
				})
				c, err := p.ChangePassword(t.Context(), []byte("old"), []byte("new"), false, cheap)
				if err != nil || !lost || !c.Key.Equal(key.Key) || c.Receipt.Generation != 2 {
					t.Fatalf("sequence %d, direction %v: %+v, %v", seq, d, c.Receipt, err)
				}
				if got, err := p.Recover(t.Context(), []byte("new")); err != nil || !got.Key.Equal(key.Key) {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestDeleteAndCancelWithLostReplies(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p, other := f.phone(), f.phone()
		p.register(t, "pw")
		c, err := other.Claim(t.Context(), client.ClaimDelete)
		if err != nil {
			t.Fatal(err)
		}
		lose := func() func(direction, frame.Frame) fate {
			lost := false
			return func(d direction, fr frame.Frame) fate {
				if data, ok := fr.(frame.Data); ok && d == down && data.Sequence == 2 && !lost {
					lost = true
					f.vault.forgetAll()
					return cut
				}
				return pass
			}
		}
		f.hook(lose())
		if err := p.Cancel(t.Context(), c.ID); err != nil {
			t.Fatalf("cancel: %v", err)
		}
		f.hook(lose())
		if err := p.Delete(t.Context()); err != nil {
			t.Fatalf("delete: %v", err)
		}
	})
}

func TestUnreachable(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		f.unplug()
		begin := time.Now()
		_, err := p.Status(t.Context())
		wantError(t, err, client.ErrUnreachable)
		if d := time.Since(begin); d > 2*client.DefaultConnectWait+client.DefaultMaxWait {
			t.Errorf("gave up after %s", d)
		}
		if n := f.count(&f.dials); n < 2 || n > 50 {
			t.Errorf("%d dials", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = p.Status(ctx)
		if !errors.Is(err, context.Canceled) || client.CodeName(err) != "cancelled" {
			t.Errorf("cancelled: %v", err)
		}
		f.plug()
		if _, err := p.Status(t.Context()); err != nil {
			t.Errorf("after the network came back: %v", err)
		}
	})
}

func TestRelayAwayInMidRecovery(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "pw")
		away := false
		f.hook(func(d direction, fr frame.Frame) fate {
			if data, ok := fr.(frame.Data); ok && d == down && data.Sequence == 2 && !away {
				away = true
				go func() {
					f.unplug()
					time.Sleep(40 * time.Second) // of the fake clock
					f.plug()
				}()
				return cut
			}
			return pass
		})
		got, err := p.Recover(t.Context(), []byte("pw"))
		if err != nil || !got.Key.Equal(key.Key) || f.vault.charges() != 1 {
			t.Fatalf("%v, %d charges", err, f.vault.charges())
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		p.register(t, "pw")
		f.hook(onData(down, 2, drop, 0))
		done := make(chan error)
		go func() {
			_, err := p.Recover(t.Context(), []byte("pw"))
			done <- err
		}()
		synctest.Wait() // until it waits for KE2
		p.Close()
		wantError(t, <-done, client.ErrClosed)
		_, err := p.Status(t.Context())
		wantError(t, err, client.ErrClosed)
	})
}
