package client_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"chatvault/client"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

// cheap is the cheapest stretching within bounds.
var cheap = client.RegisterOptions{KSF: client.KSF{MemoryKiB: 19 << 10, Time: 2, Parallelism: 1}}

// phone is a device with its app's backend behind it.
type phone struct {
	*client.Client
	cfg     client.Config
	tickets atomic.Int32 // minted
}

func testDevice(t *testing.T) ticket.DeviceKey {
	t.Helper()
	d, err := ticket.NewDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// mint is what the app's backend does.
func (f *fakeRelay) mint(d ticket.DeviceKey, subject string, lifetime time.Duration) string {
	s, err := ticket.Mint(f.vault.issuer, "", ticket.Claims{
		Issuer: "https://app.example", Subject: subject, Audience: []string{testFleet},
		IssuedAt: f.now(), Expires: f.now().Add(lifetime), Device: d.Thumbprint(),
	})
	if err != nil {
		f.t.Errorf("minting: %v", err)
	}
	return s
}

// phone makes a client on a new device; change may change its configuration.
func (f *fakeRelay) phone(change ...func(*client.Config)) *phone {
	f.t.Helper()
	p := &phone{}
	p.cfg = client.Config{
		URL: "ws://localhost/v1/ws", Pins: f.vault.pins(), Device: testDevice(f.t), Store: &client.MemStore{},
		Dial: f.dial,
	}
	for _, c := range change {
		c(&p.cfg)
	}
	if p.cfg.Tickets == nil {
		device := p.cfg.Device
		p.cfg.Tickets = func(context.Context) (string, error) {
			p.tickets.Add(1)
			return f.mint(device, "alice", 10*time.Minute), nil
		}
	}
	p.restart(f.t)
	f.t.Cleanup(func() { p.Close() })
	return p
}

// restart is the app killed and started again: memory is gone, the Store stays.
func (p *phone) restart(t *testing.T) {
	t.Helper()
	if p.Client != nil {
		p.Close()
	}
	c, err := client.New(p.cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.Client = c
}

func (p *phone) register(t *testing.T, password string) (client.BackupKey, client.Receipt) {
	t.Helper()
	key := client.NewBackupKey()
	r, err := p.Register(t.Context(), []byte(password), key, cheap)
	if err != nil {
		t.Fatalf("register: %v", err)
	}
	return key, r
}

func wantError(t *testing.T, err error, is error) *client.Error {
	t.Helper()
	e, ok := errors.AsType[*client.Error](err)
	if !ok || !errors.Is(err, is) {
		t.Fatalf("error %v (%T), want an *Error that is %v", err, err, is)
	}
	return e
}

func wantStory(t *testing.T, err error, what client.Story) {
	t.Helper()
	s, ok := errors.AsType[*client.StoryError](err)
	if !ok || !errors.Is(err, client.ErrStory) || s.What != what {
		t.Fatalf("error %v, want the story %q", err, what)
	}
}

func TestRegisterLoseRecover(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		old := f.phone()
		s, err := old.Status(t.Context())
		if err != nil || s.State != client.StateNone || s.Issuer != testIssuer || s.Subject != "alice" {
			t.Fatalf("status %+v, %v", s, err)
		}
		key, receipt := old.register(t, "correct horse")
		if receipt.Generation != 1 || receipt.Replaced != 0 || receipt.Owner != old.cfg.Device.Thumbprint() || len(receipt.Signed) != 172 {
			t.Errorf("receipt %+v", receipt)
		}
		if _, err := old.CheckReceipt(t.Context()); err != nil {
			t.Errorf("receipt does not fit: %v", err)
		}

		fresh := f.phone()
		_, err = fresh.Recover(t.Context(), []byte("wrong"))
		if e := wantError(t, err, client.ErrWrongPassword); e.AttemptsLeft != 9 || !e.Charged {
			t.Errorf("wrong password: %+v", e)
		}
		got, err := fresh.Recover(t.Context(), []byte("correct horse"))
		if err != nil || !got.Key.Equal(key.Key) || got.FailuresBefore != 1 || got.AttemptsLeft != 10 || got.Generation != 1 {
			t.Fatalf("recovered %+v, %v", got, err)
		}
		s, err = fresh.CheckReceipt(t.Context())
		if err != nil || !s.Owner || s.AttemptsLeft != 10 {
			t.Errorf("after recovering: %+v, %v", s, err)
		}
	})
}

func TestPasswordIsNormalised(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "caf\u00e9\u00a0x") // composed, with a no-break space
		got, err := p.Recover(t.Context(), []byte("cafe\u0301 x"))
		if err != nil || !got.Key.Equal(key.Key) {
			t.Fatalf("the other spelling: %v", err)
		}
		f.vault.kinds()
		_, err = p.Recover(t.Context(), []byte("tab\there"))
		wantError(t, err, client.ErrPassword)
		if sent := f.vault.kinds(); len(sent) != 0 {
			t.Errorf("an unfit password was sent: %v", sent)
		}
	})
}

func TestTenWrongPasswordsDestroy(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		p.register(t, "right")
		for i := range 10 {
			_, err := p.Recover(t.Context(), []byte{'w', byte('0' + i)})
			e := wantError(t, err, client.ErrWrongPassword)
			if e.AttemptsLeft != 9-i || errors.Is(err, client.ErrDestroyed) != (i == 9) {
				t.Fatalf("wrong password %d: %v", i+1, err)
			}
		}
		_, err := p.Recover(t.Context(), []byte("right"))
		wantError(t, err, client.ErrDestroyed)
		_, err = p.CheckReceipt(t.Context())
		wantStory(t, err, client.StoryGone)
		if _, r := p.register(t, "again"); r.Generation != 2 {
			t.Errorf("registered over the tombstone as generation %d", r.Generation)
		}
	})
}

// Whatever stands in the vault, recovering looks the same from outside (A11).
func TestRecoveringIsAlwaysThreeExchanges(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		check := func(name string, last vaultmsg.Kind, is error) {
			t.Helper()
			f.vault.kinds()
			_, err := p.Recover(t.Context(), []byte("pw"))
			if is != nil {
				wantError(t, err, is)
			} else if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := f.vault.kinds(); !equalKinds(got, vaultmsg.KAuthorise, vaultmsg.KRecoverStart, last) {
				t.Errorf("%s: requests %v", name, got)
			}
		}
		check("not registered", vaultmsg.KAbort, client.ErrNotRegistered)
		p.register(t, "pw")
		check("right password", vaultmsg.KRecoverFinish, nil)
		refuse := func(s frame.Status) {
			f.vault.do(func() {
				f.vault.before = func(r vaultmsg.Request) *vaultmsg.Reply {
					if r.Kind() == vaultmsg.KRecoverStart {
						return &vaultmsg.Reply{Status: s, Left: 3, Until: uint64(time.Now().Add(time.Hour).Unix())}
					}
					return nil
				}
			})
		}
		refuse(frame.Locked)
		check("locked", vaultmsg.KAbort, client.ErrLocked)
		refuse(frame.Paced)
		check("paced", vaultmsg.KAbort, client.ErrPaced)
		_, err := p.Recover(t.Context(), []byte("pw"))
		if e := wantError(t, err, client.ErrPaced); e.Until.Before(time.Now()) || e.AttemptsLeft != 3 || e.Charged {
			t.Errorf("paced: %+v", e)
		}
	})
}

func TestChangePassword(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "old")
		_, err := p.ChangePassword(t.Context(), []byte("not it"), []byte("new"), false, cheap)
		if e := wantError(t, err, client.ErrWrongPassword); e.AttemptsLeft != 9 {
			t.Errorf("%+v", e)
		}
		c, err := p.ChangePassword(t.Context(), []byte("old"), []byte("new"), false, cheap)
		if err != nil || !c.Key.Equal(key.Key) || !c.OldKey.Equal(key.Key) || c.Receipt.Generation != 2 || c.Receipt.Replaced != 1 {
			t.Fatalf("changed %+v, %v", c, err)
		}
		_, err = p.Recover(t.Context(), []byte("old"))
		wantError(t, err, client.ErrWrongPassword)
		c, err = p.ChangePassword(t.Context(), []byte("new"), []byte("newer"), true, cheap)
		if err != nil || c.Key.Equal(key.Key) || !c.OldKey.Equal(key.Key) {
			t.Fatalf("with a new key %+v, %v", c, err)
		}
		got, err := p.Recover(t.Context(), []byte("newer"))
		if err != nil || !got.Key.Equal(c.Key.Key) {
			t.Fatalf("after the change: %v", err)
		}
		if _, err := p.CheckReceipt(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestReplaceAndDelete(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		owner, other := f.phone(), f.phone()
		owner.register(t, "forgotten")
		_, err := other.Replace(t.Context(), []byte("mine"), client.NewBackupKey(), cheap)
		wantError(t, err, client.ErrNotOwner)
		wantError(t, other.Delete(t.Context()), client.ErrNotOwner)
		_, err = owner.Register(t.Context(), []byte("x"), client.NewBackupKey(), cheap)
		wantError(t, err, client.ErrConflict)

		key := client.NewBackupKey()
		r, err := owner.Replace(t.Context(), []byte("new"), key, cheap)
		if err != nil || r.Replaced != 1 || r.Generation != 2 {
			t.Fatalf("replaced %+v, %v", r, err)
		}
		got, err := other.Recover(t.Context(), []byte("new"))
		if err != nil || !got.Key.Equal(key.Key) {
			t.Fatal(err)
		}
		wantError(t, owner.DeleteWithPassword(t.Context(), []byte("nope")), client.ErrWrongPassword)
		if err := owner.DeleteWithPassword(t.Context(), []byte("new")); err != nil {
			t.Fatal(err)
		}
		wantError(t, owner.Delete(t.Context()), client.ErrNotRegistered)
		_, err = other.CheckReceipt(t.Context())
		wantStory(t, err, client.StoryGone)
		_, err = owner.CheckReceipt(t.Context())
		wantError(t, err, client.ErrNotRegistered)
	})
}

func TestClaims(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		owner, other := f.phone(), f.phone()
		owner.register(t, "pw")
		c, err := other.Claim(t.Context(), client.ClaimReplace)
		if err != nil || c.What != client.ClaimReplace || time.Until(c.Ripe) < 71*time.Hour {
			t.Fatalf("claim %+v, %v", c, err)
		}
		s, err := owner.Status(t.Context())
		if err != nil || len(s.Claims) != 1 || s.Claims[0].ID != c.ID {
			t.Fatalf("status %+v, %v", s, err)
		}
		if err := owner.Cancel(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		wantError(t, owner.Cancel(t.Context(), c.ID), client.ErrNoClaim)
	})
}
