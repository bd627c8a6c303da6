package client_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chatvault/client"
	"chatvault/protocol/frame"
	"chatvault/protocol/vaultmsg"
)

// raw writes a WebSocket message of any kind to every client.
func (f *fakeRelay) raw(kind int, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ws := range f.live {
		ws.WriteMessage(kind, b)
	}
}

// A relay that breaks the protocol in mid-recovery is left, and the session goes
// on over another connection.
func TestProtocolViolationsOfTheRelay(t *testing.T) {
	for name, violate := range map[string]func(*fakeRelay){
		"text":           func(f *fakeRelay) { f.raw(websocket.TextMessage, frame.Notice{}.Append(nil)) },
		"unknown type":   func(f *fakeRelay) { f.raw(websocket.BinaryMessage, []byte{0x7f}) },
		"cut frame":      func(f *fakeRelay) { f.raw(websocket.BinaryMessage, []byte{byte(frame.TData), 1, 2}) },
		"oversized":      func(f *fakeRelay) { go f.raw(websocket.BinaryMessage, make([]byte, frame.MaxFrame+1)) },
		"second HELLO":   func(f *fakeRelay) { f.broadcast(frame.Hello{Version: 1}) },
		"OPEN":           func(f *fakeRelay) { f.broadcast(frame.Open{Payload: []byte{1}}) },
		"uplink's frame": func(f *fakeRelay) { f.raw(websocket.BinaryMessage, frame.UplinkPing{}.Append(nil)) },
	} {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			p := f.phone()
			key, _ := p.register(t, "pw")
			done := false
			f.hook(func(d direction, fr frame.Frame) fate {
				if data, ok := fr.(frame.Data); ok && d == up && data.Sequence == 2 && !done {
					done = true
					violate(f)
					return drop
				}
				return pass
			})
			got, err := p.Recover(t.Context(), []byte("pw"))
			if err != nil || !got.Key.Equal(key.Key) {
				t.Fatalf("%s: %v", name, err)
			}
			if n := f.count(&f.auths); n != 2 {
				t.Errorf("%s: %d connections, want another one", name, n)
			}
		})
	}
}

func TestRelayThatNeverSpeaksTheProtocol(t *testing.T) {
	for name, c := range map[string]struct {
		instead frame.Frame // of HELLO
		want    error
	}{
		"another version": {frame.Hello{Version: 2}, client.ErrProtocol},
		"READY first":     {frame.Ready{}, client.ErrProtocol},
		"busy":            {frame.Refuse{Status: frame.Busy, RetryMillis: 600_000}, client.ErrRateLimited},
		"going away":      {frame.Goaway{Status: frame.Draining, ReconnectMillis: 600_000}, client.ErrUnreachable},
	} {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			p := f.phone()
			f.hook(func(d direction, fr frame.Frame) fate {
				if fr.Type() == frame.THello {
					f.broadcast(c.instead)
					return drop
				}
				return pass
			})
			begin := time.Now()
			_, err := p.Status(t.Context())
			e := wantError(t, err, c.want)
			if time.Since(begin) > time.Minute {
				t.Errorf("%s: %v after %s", name, e, time.Since(begin))
			}
			if n := f.count(&f.auths); n != 0 {
				t.Errorf("%s: the ticket was sent", name)
			}
		})
	}
}

func TestHTTPInsteadOfARelay(t *testing.T) {
	for status, want := range map[int]error{
		http.StatusTooManyRequests: client.ErrRateLimited, http.StatusBadGateway: client.ErrUnreachable,
		http.StatusNotFound: client.ErrBundle, http.StatusFound: client.ErrBundle,
	} {
		inBubble(t, func(t *testing.T, f *fakeRelay) {
			f.mu.Lock()
			f.httpStatus = status
			f.mu.Unlock()
			_, err := f.phone().Status(t.Context())
			wantError(t, err, want)
		})
	}
}

// What the vault itself says wrong is no reason to try again.
func TestProtocolViolationsOfTheVault(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		p.register(t, "pw")
		f.after(func(req vaultmsg.Request, r *vaultmsg.Reply) {
			if req.Kind() == vaultmsg.KRecoverStart {
				*r = vaultmsg.Reply{Kind: vaultmsg.KDelete}
			}
		})
		f.vault.kinds()
		_, err := p.Recover(t.Context(), []byte("pw"))
		wantError(t, err, client.ErrProtocol)
		if got := f.vault.kinds(); !equalKinds(got, vaultmsg.KAuthorise, vaultmsg.KRecoverStart) {
			t.Errorf("requests %v", got)
		}
		f.after(func(_ vaultmsg.Request, r *vaultmsg.Reply) {
			if s, ok := r.Body.(vaultmsg.RegisterStarted); ok {
				s.Generation += 5
				r.Body = s
			}
		})
		_, err = p.Replace(t.Context(), []byte("new"), client.NewBackupKey(), cheap)
		wantError(t, err, client.ErrProtocol)
		// A RegistrationResponse under another server key than the bundle's.
		f.after(func(_ vaultmsg.Request, r *vaultmsg.Reply) {
			if s, ok := r.Body.(vaultmsg.RegisterStarted); ok {
				copy(s.Response[33:], s.Response[:33])
				r.Body = s
			}
		})
		_, err = p.Replace(t.Context(), []byte("new"), client.NewBackupKey(), cheap)
		wantError(t, err, client.ErrProtocol)
	})
}

func TestOperationsRunOneAfterTheOther(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		key, _ := p.register(t, "pw")
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if i%2 == 0 {
					if got, err := p.Recover(t.Context(), []byte("pw")); err != nil || !got.Key.Equal(key.Key) {
						t.Error(err)
					}
				} else if _, err := p.CheckReceipt(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := f.count(&f.auths); n != 1 {
			t.Errorf("%d connections", n)
		}
		if n := f.vault.charges(); n != 4 {
			t.Errorf("%d charges for 4 recoveries", n)
		}
	})
}

func TestErrorsForPeopleAndPrograms(t *testing.T) {
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		err  error
		text string
		code string
	}{
		{&client.Error{Op: "recover", Code: frame.WrongPassword, Charged: true, AttemptsLeft: 3},
			"recover: wrong_password: the attempt failed; the charge stands (3 attempts left)", "wrong_password"},
		{&client.Error{Op: "status", Code: frame.RateLimited, AttemptsLeft: client.Unknown, Limit: "OpensPerAccount", RetryAfter: 1500 * time.Millisecond},
			"status: rate_limited: a limit was hit; wait as told (limit OpensPerAccount) (retry in 1.5s)", "rate_limited"},
		{&client.Error{Op: "replace", Code: frame.Pending, AttemptsLeft: client.Unknown, Until: until},
			"replace: pending: a claim is waiting to ripen (until 2026-01-02T03:04:05Z)", "pending"},
		{&client.Error{Op: "status", AttemptsLeft: client.Unknown, Err: client.ErrUnreachable}, "status: unreachable", "unreachable"},
		{&client.StoryError{Op: "backup", What: client.StoryGenerationFell, Was: 3, Now: 1},
			"backup: stopped: the vault knows an older registration than this device has seen (was 3, is now 1)", "story"},
		{errors.New("else"), "else", "error"},
	} {
		if got := c.err.Error(); got != c.text {
			t.Errorf("%q, want %q", got, c.text)
		}
		if got := client.CodeName(c.err); got != c.code {
			t.Errorf("code %q, want %q", got, c.code)
		}
	}
	if client.CodeName(nil) != "ok" {
		t.Error("nil is not ok")
	}
	// Each code of the wire is one of the exported errors.
	for _, s := range frame.Statuses() {
		e := &client.Error{Code: s}
		matches := 0
		for _, is := range []error{
			client.ErrWrongPassword, client.ErrLocked, client.ErrDestroyed, client.ErrNotRegistered, client.ErrNotAuthorised,
			client.ErrRateLimited, client.ErrUnreachable, client.ErrUnavailable, client.ErrPending, client.ErrPaced,
			client.ErrConflict, client.ErrNotOwner, client.ErrTooMany, client.ErrNoClaim, client.ErrProtocol,
		} {
			if errors.Is(e, is) {
				matches++
			}
		}
		if want := 1; s == frame.OK && matches != 0 || s != frame.OK && matches != want {
			t.Errorf("%s matches %d errors", s, matches)
		}
		if !strings.Contains(e.Error(), s.Meaning()) && s != frame.OK {
			t.Errorf("%s: %q", s, e)
		}
	}
}
