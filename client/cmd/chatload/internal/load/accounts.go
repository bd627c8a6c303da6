package load

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"chatvault/client"
	"chatvault/client/cmd/chatload/internal/measure"
	"chatvault/client/cmd/chatload/internal/phones"
	"chatvault/protocol/frame"
	"chatvault/protocol/secret"
)

// The operations on keys.
const (
	opRegister         = "register"          // connect, AUTHORISE, RegisterStart, RegisterFinish
	opRecover          = "recover"           // a new phone: bundle, connect, AUTHORISE, KE1, KE3
	opWrongPassword    = "wrong-password"    // an attempt that must fail, and say how many are left
	opAfterDestruction = "after-destruction" // the right password, after ten wrong ones
)

// Codes of verdicts that must not be.
const (
	codeOpened    = "opened"           // a wrong password, or a destroyed key, opened
	codeWrongKey  = "wrong_key"        // another key came back than was registered
	codeWrongLeft = "wrong_count_left" // the attempts left are not as counted here
)

// attempts is how many wrong passwords destroy a key.
const attempts = 10

// preparing is how many accounts are registered at a time before a run.
const preparing = 4

// account is one with a registered key. One goroutine at a time uses it.
type account struct {
	phone    phones.Phone
	password string
	key      client.BackupKey

	owner *client.Client // of the device that registered; nil: closed
	wrong int            // passwords tried in this run
	vague bool           // an attempt's outcome is not known: the count may differ
}

// sdk is a phone's client, with nothing remembered.
func (e *Env) sdk(p phones.Phone) (*client.Client, error) {
	return client.New(client.Config{
		URL: e.url(), TLS: e.tls(""), Pins: e.cfg.Pins, Device: p.Device, Tickets: p.Ticket,
		Store: &client.MemStore{}, Dial: e.cfg.Dialer.Dial,
		Timeout: e.cfg.Timeout, ConnectWait: e.cfg.Timeout,
	})
}

// register makes a new account and registers a key for it.
func (e *Env) register(ctx context.Context) (*account, error) {
	p, err := e.cfg.Phones.New()
	if err != nil {
		return nil, err
	}
	a := &account{phone: p, password: rand.Text()}
	if _, err := rand.Read(a.key.B[:]); err != nil {
		return nil, err
	}
	if a.owner, err = e.sdk(p); err != nil {
		return nil, err
	}
	if _, err := a.owner.Register(ctx, secret.Bytes(a.password), a.key, client.RegisterOptions{KSF: e.cfg.KSF}); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *account) close() {
	if a.owner != nil {
		a.owner.Close()
		a.owner = nil
	}
}

// accounts are registered before the run, and then shared by its operations.
// The one that came back last is taken first, so that a few are used up rather
// than all a little.
type accounts struct {
	e    *Env
	here chan struct{} // one for each of free

	mu   sync.Mutex
	free []*account
}

// registerAll is the prepare of a plan.
func (as *accounts) registerAll(n int) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if left := as.e.cfg.Phones.Left(); left >= 0 && left < n {
			return fmt.Errorf("%w: %d are left, %d are needed", phones.ErrUsedUp, left, n)
		}
		as.e.cfg.Say("registering %d accounts first", n)
		as.here = make(chan struct{}, n)
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(preparing)
		for range n {
			g.Go(func() error {
				a, err := as.e.register(ctx)
				if err != nil {
					return err
				}
				as.put(a)
				return nil
			})
		}
		return g.Wait()
	}
}

func (as *accounts) put(a *account) {
	as.mu.Lock()
	as.free = append(as.free, a)
	as.mu.Unlock()
	as.here <- struct{}{}
}

func (as *accounts) get(ctx context.Context) (a *account, waited time.Time, err error) {
	if _, waited, err = take(ctx, as.e.run, as.here); err != nil {
		return nil, waited, err
	}
	as.mu.Lock()
	defer as.mu.Unlock()
	a = as.free[len(as.free)-1]
	as.free = as.free[:len(as.free)-1]
	return a, waited, nil
}

func (as *accounts) close() {
	as.mu.Lock()
	defer as.mu.Unlock()
	for _, a := range as.free {
		a.close()
	}
}

// doRegister is the do of a stream.
func (e *Env) doRegister(ctx context.Context, _ int) measure.Outcome {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	a, err := e.register(ctx)
	if err != nil {
		return outcome(err)
	}
	a.close()
	return outcome(nil)
}

// doRecover is the do of a stream: the phone is lost, a new one gets the key
// back, and it must be the one that was registered.
func (as *accounts) doRecover(ctx context.Context, _ int) (out measure.Outcome) {
	ctx, cancel := context.WithTimeout(ctx, as.e.cfg.Timeout)
	defer cancel()
	a, waited, err := as.get(ctx)
	if err != nil {
		return outcome(err)
	}
	defer func() { out.Began = waited }()
	defer as.put(a)
	a.close()
	p, err := as.e.cfg.Phones.Again(a.phone)
	if err != nil {
		return outcome(err)
	}
	c, err := as.e.sdk(p)
	if err != nil {
		return outcome(err)
	}
	defer c.Close()
	got, err := c.Recover(ctx, secret.Bytes(a.password))
	if err == nil && !got.Key.Equal(a.key.Key) {
		return measure.Outcome{Code: codeWrongKey, Failed: true}
	}
	return outcome(err)
}

// doWrong is the do of a stream: a wrong password each time, ten of which
// destroy the key; then the right one, which must not open any more. It is the
// owner's phone that types them, so pacing does not stand in the way.
func (as *accounts) doWrong(ctx context.Context, i int) measure.Outcome {
	ctx, cancel := context.WithTimeout(ctx, as.e.cfg.Timeout)
	defer cancel()
	a, waited, err := as.get(ctx)
	if err != nil {
		return outcome(err)
	}
	a.wrong++
	_, err = a.owner.Recover(ctx, secret.Bytes(fmt.Sprintf("wrong %d %s", i, a.password)))
	out := a.judge(err)
	out.Began = waited
	if a.wrong < attempts || a.vague && !isGone(err) {
		as.put(a)
		return out
	}
	as.e.timed(opAfterDestruction, func() measure.Outcome {
		_, err := a.owner.Recover(ctx, secret.Bytes(a.password))
		switch {
		case err == nil:
			return measure.Outcome{Code: codeOpened, Failed: true}
		case isGone(err):
			return measure.Outcome{Code: frame.Destroyed.String()}
		}
		return outcome(err)
	})
	a.close()
	return out
}

func isGone(err error) bool {
	return errors.Is(err, client.ErrDestroyed) || errors.Is(err, client.ErrLocked)
}

// judge is the outcome of an attempt with a wrong password.
func (a *account) judge(err error) measure.Outcome {
	if err == nil {
		return measure.Outcome{Code: codeOpened, Failed: true}
	}
	failed, ok := errors.AsType[*client.Error](err)
	if !ok || !errors.Is(err, client.ErrWrongPassword) && !isGone(err) {
		a.vague = true
		return outcome(err)
	}
	if want := attempts - a.wrong; !a.vague && failed.AttemptsLeft != want {
		return measure.Outcome{Code: codeWrongLeft, Failed: true}
	}
	return measure.Outcome{Code: failed.Code.String()}
}
