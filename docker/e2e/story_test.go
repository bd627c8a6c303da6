package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/docker/stack"
	"chatvault/protocol/frame"
)

func left(err error) int {
	var e *client.Error
	if errors.As(err, &e) {
		return e.AttemptsLeft
	}
	return -2
}

func TestLosePhoneGetBackupKeyBack(t *testing.T) {
	bothRedis(t, func(t *testing.T, h *house) {
		ctx := t.Context()
		if _, err := h.phone("anna").Recover(ctx, password("1234")); !errors.Is(err, client.ErrNotRegistered) {
			t.Errorf("before anything: %v", err)
		}
		key := h.registered("anna", "correct horse")
		phone := h.phone("anna")
		_, err := phone.Recover(ctx, password("wrong"))
		if !errors.Is(err, client.ErrWrongPassword) || left(err) != 9 {
			t.Fatalf("wrong password: %v, %d left", err, left(err))
		}
		got, err := phone.Recover(ctx, password("correct horse"))
		if err != nil || !got.Key.Equal(key.Key) || got.AttemptsLeft != 10 || got.FailuresBefore != 1 {
			t.Fatalf("recover: %+v, %v", got, err)
		}
		if _, err := phone.ChangePassword(ctx, password("correct horse"), password("battery staple"), false, cheap); err != nil {
			t.Fatal("change:", err)
		}
		third := h.phone("anna")
		if _, err := third.Recover(ctx, password("correct horse")); !errors.Is(err, client.ErrWrongPassword) {
			t.Errorf("the old password: %v", err)
		}
		if got, err := third.Recover(ctx, password("battery staple")); err != nil || !got.Key.Equal(key.Key) {
			t.Errorf("the new password: %v", err)
		}
		for i := range 10 {
			_, err := third.Recover(ctx, password("wrong"))
			if i < 9 && (!errors.Is(err, client.ErrWrongPassword) || left(err) != 9-i) || i == 9 && !errors.Is(err, client.ErrDestroyed) {
				t.Fatalf("wrong password %d: %v", i+1, err)
			}
		}
		if _, err := third.Recover(ctx, password("battery staple")); !errors.Is(err, client.ErrDestroyed) {
			t.Errorf("the right password, too late: %v", err)
		}
		s, err := third.Status(ctx)
		if err != nil || s.State != client.StateDestroyed || s.Generation != 2 {
			t.Errorf("status %+v, %v", s, err)
		}
		if err := h.Stop(ctx); err != nil {
			t.Errorf("clean shutdown: %v", err)
		}
	})
}

// TestVaultKilledBetweenKE2AndKE3: the charge is on the disk before KE2 leaves.
func TestVaultKilledBetweenKE2AndKE3(t *testing.T) {
	bothRedis(t, func(t *testing.T, h *house) {
		key := h.registered("anna", "1234")
		phone := h.phone("anna")
		ctx, cancel := context.WithCancel(t.Context())
		h.relay.lies(on(toPhone, 2, func() verdict {
			if err := h.Vault.Kill(); err != nil {
				t.Error(err)
			}
			cancel()
			return cut
		}))
		if _, err := phone.Recover(ctx, password("1234")); err == nil {
			t.Fatal("recovered through a dead vault")
		}
		h.relay.lies(nil)
		if err := h.Vault.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := h.phone("anna").Status(t.Context())
		if err != nil || s.AttemptsLeft != 9 || s.Failures != 1 {
			t.Fatalf("after the crash: %+v, %v", s, err)
		}
		got, err := phone.Recover(t.Context(), password("1234"))
		if err != nil || !got.Key.Equal(key.Key) || got.FailuresBefore != 0 {
			t.Errorf("the same attempt goes on: %+v, %v", got, err)
		}
	})
}

func TestTwoHundredParallelGuesses(t *testing.T) { bothRedis(t, twoHundredParallelGuesses) }

func twoHundredParallelGuesses(t *testing.T, h *house) {
	h.connectWait = time.Minute // two hundred handshakes at once, beside other tests
	h.registered("anna", "1234")
	var wg sync.WaitGroup
	var wrong, refused, other atomic.Int32
	for i := range 200 {
		p := h.phone("anna")
		wg.Go(func() {
			_, err := p.Recover(t.Context(), password(fmt.Sprintf("guess %d", i)))
			var e *client.Error
			switch charged := errors.As(err, &e) && e.Charged; {
			case errors.Is(err, client.ErrWrongPassword), errors.Is(err, client.ErrDestroyed) && charged:
				wrong.Add(1)
			case errors.Is(err, client.ErrLocked), errors.Is(err, client.ErrDestroyed):
				refused.Add(1)
			default:
				other.Add(1)
				t.Logf("guess %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if wrong.Load() != 10 || refused.Load() != 190 {
		t.Errorf("%d evaluated, %d refused, %d otherwise; want 10, 190, 0", wrong.Load(), refused.Load(), other.Load())
	}
	if _, err := h.phone("anna").Recover(t.Context(), password("1234")); !errors.Is(err, client.ErrDestroyed) {
		t.Errorf("the right password: %v", err)
	}
}

// TestThirtyDroppedRecoveries is A18: a relay that drops KE2 or KE3 each time
// costs one charge, and the thirty-first try succeeds.
func TestThirtyDroppedRecoveries(t *testing.T) { bothRedis(t, thirtyDroppedRecoveries) }

func thirtyDroppedRecoveries(t *testing.T, h *house) {
	key := h.registered("anna", "1234")
	phone := h.phone("anna")
	for i := range 30 {
		ctx, cancel := context.WithCancel(t.Context())
		lie := func() verdict { cancel(); return cut }
		if i%2 == 0 {
			h.relay.lies(on(toPhone, 2, lie)) // KE2
		} else {
			h.relay.lies(on(toVault, 3, lie)) // KE3
		}
		if _, err := phone.Recover(ctx, password("1234")); err == nil {
			t.Fatalf("round %d: recovered through a relay that drops", i)
		}
		cancel()
		h.relay.lies(nil)
		if s, err := h.phone("anna").Status(t.Context()); err != nil || s.AttemptsLeft != 9 {
			t.Fatalf("round %d: %d left, %v", i, s.AttemptsLeft, err)
		}
	}
	got, err := phone.Recover(t.Context(), password("1234"))
	if err != nil || !got.Key.Equal(key.Key) || got.AttemptsLeft != 10 {
		t.Errorf("the thirty-first: %+v, %v", got, err)
	}
}

// TestAttachAfterACut: the WebSocket is cut between KE2 and KE3, or after KE3; the
// client attaches the session on a new connection and charges once.
func TestAttachAfterACut(t *testing.T) {
	bothRedis(t, func(t *testing.T, h *house) {
		key := h.registered("anna", "1234")
		for name, lie := range map[string]func(*atomic.Bool) func() verdict{
			"KE2 lost":      func(done *atomic.Bool) func() verdict { return once(done, cut) },
			"KE2 came, cut": func(done *atomic.Bool) func() verdict { return once(done, passCut) },
		} {
			var done atomic.Bool
			h.relay.lies(on(toPhone, 2, lie(&done)))
			phone := h.phone("anna")
			got, err := phone.Recover(t.Context(), password("1234"))
			if err != nil || !got.Key.Equal(key.Key) || got.FailuresBefore != 0 || !done.Load() {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		}
		var done atomic.Bool
		h.relay.lies(on(toPhone, 3, once(&done, cut)))
		got, err := h.phone("anna").Recover(t.Context(), password("1234"))
		if err != nil || !got.Key.Equal(key.Key) || !done.Load() {
			t.Errorf("the wrapped key lost: %v", err)
		}
		h.relay.lies(nil)
		// One session and its repeats: no charge is left over, and none was
		// made twice.
		s, err := h.phone("anna").Status(t.Context())
		if err != nil || s.AttemptsLeft != 10 {
			t.Errorf("%+v, %v", s, err)
		}
		charges := 0
		for _, e := range s.Events {
			if e.Kind == client.EventCharged || e.Kind == client.EventRecovered {
				charges++
			}
		}
		if charges != 3 {
			t.Errorf("three recoveries left %d lines: %+v", charges, s.Events)
		}
	})
}

func once(done *atomic.Bool, v verdict) func() verdict {
	return func() verdict {
		if done.Swap(true) {
			return pass
		}
		return v
	}
}

// TestSIGTERMInMidRecovery: chatd, then vaultd, are asked to end between KE2 and
// KE3. Both finish what is in flight.
func TestSIGTERMInMidRecovery(t *testing.T) {
	for name, pick := range map[string]func(*house) interface {
		Stop(context.Context) error
		Start(context.Context) error
	}{
		"chatd": func(h *house) interface {
			Stop(context.Context) error
			Start(context.Context) error
		} {
			return h.Chatd
		},
		"vaultd": func(h *house) interface {
			Stop(context.Context) error
			Start(context.Context) error
		} {
			return h.Vault
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, func(o *stack.Options) { o.Redis = stack.RealRedis })
			key := h.registered("anna", "1234")
			daemon := pick(h)
			stopped := make(chan error, 1)
			var done atomic.Bool
			h.relay.lies(on(toPhone, 2, func() verdict {
				if !done.Swap(true) {
					go func() { stopped <- daemon.Stop(context.Background()) }()
				}
				return pass
			}))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			phone := h.phone("anna")
			got, err := phone.Recover(ctx, password("1234"))
			if stop := <-stopped; stop != nil {
				t.Errorf("shutdown: %v", stop)
			}
			if err == nil && !got.Key.Equal(key.Key) {
				t.Error("another key")
			}
			if err := daemon.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err != nil {
				// The signal came first: nothing is lost, and nothing charged twice.
				if got, err = phone.Recover(t.Context(), password("1234")); err != nil || !got.Key.Equal(key.Key) {
					t.Errorf("after the restart: %v", err)
				}
			}
			if s, err := h.phone("anna").Status(t.Context()); err != nil || s.AttemptsLeft != 10 {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

// TestALostVerdictIsNotChargedAgain: the relay lets the abort of a wrong password
// through and ends the session before its reply, each time. The vault has closed the
// attempt, so beginning again would charge anew, and one typing error would destroy
// the key (A18).
func TestALostVerdictIsNotChargedAgain(t *testing.T) {
	h := start(t)
	h.registered("anna", "1234")
	h.relay.lies(func(d direction, f frame.Frame) verdict {
		if data, ok := f.(frame.Data); ok && d == toPhone && data.Sequence == 3 {
			if err := h.Vault.Kill(); err != nil { // no session to attach to
				t.Error(err)
			}
			go func() {
				if err := h.Vault.Start(context.Background()); err != nil {
					t.Error(err)
				}
			}()
			return cut
		}
		return pass
	})
	phone := h.phone("anna")
	if _, err := phone.Recover(t.Context(), password("typo")); !errors.Is(err, client.ErrWrongPassword) {
		t.Fatalf("a wrong password: %v", err)
	}
	h.relay.lies(nil)
	if s, err := phone.Status(t.Context()); err != nil || s.AttemptsLeft != 9 {
		t.Errorf("%d left, %v; want 9", s.AttemptsLeft, err)
	}
}
