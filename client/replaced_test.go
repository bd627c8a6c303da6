package client_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"chatvault/client"
	"chatvault/protocol/frame"
)

// A device has one connection. Whoever is pushed out by a newer one stays out until
// the app begins something: two that come back by themselves do so for ever.
func TestReplacedStaysAway(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		var connections atomic.Int32
		f.hook(func(_ direction, fr frame.Frame) fate {
			if fr.Type() == frame.THello {
				connections.Add(1)
			}
			return pass
		})
		watch := func() chan error {
			watching := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			t.Cleanup(cancel)
			go func() { watching <- p.Watch(ctx) }()
			synctest.Wait()
			return watching
		}
		for n := 1; n <= 2; n++ { // the second is begun by the app
			watching := watch()
			time.Sleep(time.Hour)
			f.replaceAll()
			err := <-watching
			wantError(t, err, client.ErrUnreachable)
			if e := wantError(t, err, client.ErrReplaced); e.Code != frame.Replaced {
				t.Errorf("code %s", e.Code)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if got := int(connections.Load()); got != n {
				t.Errorf("%d connections, want %d", got, n)
			}
		}
		p.register(t, "pw") // on the third
		if got := connections.Load(); got != 3 {
			t.Errorf("%d connections after an operation", got)
		}
	})
}

// What is in flight ends too, wherever it is: waiting for the vault, or hashing the
// password with its next request still to be sent.
func TestReplacedEndsWhatIsInFlight(t *testing.T) {
	for name, hook := range map[string]func(f *fakeRelay, fr frame.Frame){
		"waiting": func(f *fakeRelay, _ frame.Frame) { f.replaceAll() },
		"hashing": func(f *fakeRelay, fr frame.Frame) { f.broadcast(fr); f.replaceAll() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fakeRelay) {
				p := f.phone()
				key, _ := p.register(t, "pw")
				watching := make(chan error, 1)
				go func() { watching <- p.Watch(t.Context()) }()
				synctest.Wait()
				dials := f.count(&f.dials)
				f.hook(func(d direction, fr frame.Frame) fate {
					if data, ok := fr.(frame.Data); ok && d == down && data.Sequence == 2 {
						hook(f, fr)
						return drop
					}
					return pass
				})
				_, err := p.Recover(t.Context(), []byte("pw"))
				wantError(t, err, client.ErrReplaced)
				wantError(t, <-watching, client.ErrReplaced)
				time.Sleep(time.Hour)
				synctest.Wait()
				if got := f.count(&f.dials); got != dials {
					t.Errorf("%d connections more", got-dials)
				}
				f.hook(nil)
				got, err := p.Recover(t.Context(), []byte("pw"))
				if err != nil || !got.Key.Equal(key.Key) || f.vault.charges() != 1 {
					t.Errorf("begun anew: %v, %d charges", err, f.vault.charges())
				}
			})
		})
	}
}

// A break before the takeover is no way around it: the operation that tries again
// after a lost connection does not push the newer one out.
func TestReplacedWhileAnOperationTriesAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRelay) {
		p := f.phone()
		p.register(t, "pw")
		watching := make(chan error, 1)
		go func() { watching <- p.Watch(t.Context()) }()
		synctest.Wait()
		dials := f.count(&f.dials)
		f.hook(func(d direction, fr frame.Frame) fate {
			if o, ok := fr.(frame.Open); ok && d == up {
				f.broadcast(frame.Refuse{Refused: frame.TOpen, Tag: o.Tag, Status: frame.Busy, RetryMillis: 5000})
				go func() {
					time.Sleep(time.Second)
					f.replaceAll()
				}()
				return drop
			}
			return pass
		})
		_, err := p.Status(t.Context())
		wantError(t, err, client.ErrReplaced)
		if err := <-watching; !errors.Is(err, client.ErrReplaced) {
			t.Error(err)
		}
		if got := f.count(&f.dials); got != dials {
			t.Errorf("%d connections more", got-dials)
		}
	})
}
