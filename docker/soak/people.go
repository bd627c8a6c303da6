//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"chatvault/client"
	"chatvault/protocol/frame"
	"chatvault/protocol/opaque"
	"chatvault/protocol/secret"
	"chatvault/protocol/ticket"
)

// cheap is the least KSF that clients accept: what is soaked is not Argon2.
var cheap = client.KSF{MemoryKiB: opaque.MinMemoryKiB, Time: opaque.MinTime, Parallelism: opaque.MinParallelism}

// How long one try of the SDK may take. The patient outwait every fault; the
// others give up in the middle of one, end the app, start it again, and type the
// same password: whether it was charged nobody has told them yet.
const (
	patient   = 30 * time.Second
	impatient = 2500 * time.Millisecond
)

// holdOut is how long a person goes on typing the same password, or registering,
// when there is no verdict.
const holdOut = 2 * time.Minute

// person has an account with a key, one phone at a time, and a ledger.
// One goroutine at a time uses it.
type person struct {
	site     *site
	rec      *record
	sub      string
	password string
	key      client.BackupKey
	ledger   ledger
	typed    int // wrong passwords so far, so that no two are the same
	patience time.Duration

	phone *client.Client
	// What the phone keeps: it survives a restart of the app.
	device ticket.DeviceKey
	store  *client.MemStore
}

func newPerson(s *site, r *record, sub string, rnd *rand.Rand) *person {
	p := &person{site: s, rec: r, sub: sub, password: fmt.Sprintf("right %016x", rnd.Uint64()), key: client.NewBackupKey(), patience: patient}
	if rnd.IntN(2) == 0 {
		p.patience = impatient
	}
	return p
}

// newPhone is a phone that remembers nothing.
func (p *person) newPhone() error {
	device, err := ticket.NewDeviceKey()
	if err != nil {
		return err
	}
	p.device, p.store = device, &client.MemStore{}
	return p.restart()
}

// restart is the app's, or of the network: the same phone connects anew.
func (p *person) restart() (err error) {
	p.close()
	jkt := p.device.Thumbprint()
	p.phone, err = client.New(client.Config{
		URL: p.site.url(), Pins: p.site.pins, Device: p.device, Store: p.store, Timeout: p.patience, ReplyWait: 3 * time.Second,
		Tickets: func(context.Context) (string, error) { return p.site.Ticket(p.sub, jkt) },
	})
	return err
}

func (p *person) close() {
	if p.phone != nil {
		p.phone.Close()
		p.phone = nil
	}
}

// verdictless says whether an error leaves the outcome open, because relay,
// vault or network were not there. Everything else must not happen.
func verdictless(err error) bool {
	for _, passing := range []error{client.ErrUnreachable, client.ErrUnavailable, client.ErrRateLimited, context.DeadlineExceeded} {
		if errors.Is(err, passing) {
			return true
		}
	}
	e, ok := errors.AsType[*client.Error](err)
	return ok && (e.Code == frame.Busy || e.Code == frame.NoVault || e.Code == frame.Draining || e.Code == frame.SessionEnded)
}

// until does the same again until it has an outcome. Each try is counted.
func (p *person) until(ctx context.Context, op string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, holdOut)
	defer cancel()
	began := time.Now()
	p.ledger.shaky = false
	for n := 1; ; n++ {
		err := do(ctx)
		if err == nil || !verdictless(err) || ctx.Err() != nil {
			p.rec.done(op, time.Since(began), err)
			return err
		}
		p.rec.interrupted(op, err)
		p.ledger.interrupted()
		if p.patience == impatient {
			if err := p.restart(); err != nil {
				return err
			}
		}
		pause(ctx, time.Duration(min(n, 10))*100*time.Millisecond)
	}
}

// register is the first thing, with patience: an app that starts a registration
// again replaces the one before, if that was stored, and may do so three times a
// day only.
func (p *person) register(ctx context.Context) error {
	later := p.patience
	defer func() { p.patience = later }()
	p.patience = patient
	if err := p.newPhone(); err != nil {
		return err
	}
	err := p.until(ctx, "register", func(ctx context.Context) error {
		_, err := p.phone.Register(ctx, secret.Bytes(p.password), p.key, client.RegisterOptions{KSF: cheap})
		return err
	})
	p.ledger = ledger{}
	return err
}

// recover types the right password, on a new phone or on the same one.
func (p *person) recover(ctx context.Context, lost bool) error {
	if lost {
		if err := p.newPhone(); err != nil {
			return err
		}
	}
	var got client.Recovered
	err := p.until(ctx, "recover", func(ctx context.Context) (err error) {
		got, err = p.phone.Recover(ctx, secret.Bytes(p.password))
		return err
	})
	switch {
	case err == nil && !got.Key.Equal(p.key.Key):
		return fmt.Errorf("%s got another key than was registered", p.sub)
	case err == nil:
		return p.agree(p.ledger.opened(got.FailuresBefore, got.AttemptsLeft))
	case verdictless(err):
		p.ledger.gaveUp()
		return nil
	}
	return p.bad("the right password", err)
}

// mistype types a wrong password that was never typed before.
func (p *person) mistype(ctx context.Context) error {
	p.typed++
	wrong := fmt.Sprintf("wrong %d of %s", p.typed, p.sub)
	err := p.until(ctx, "wrong", func(ctx context.Context) error {
		_, err := p.phone.Recover(ctx, secret.Bytes(wrong))
		return err
	})
	e, _ := errors.AsType[*client.Error](err)
	switch {
	case err == nil:
		return fmt.Errorf("a wrong password opened the key of %s", p.sub)
	case errors.Is(err, client.ErrWrongPassword) && e.AttemptsLeft > 0:
		return p.agree(p.ledger.refused(e.AttemptsLeft))
	case errors.Is(err, client.ErrWrongPassword):
		if err := p.ledger.refused(0); err != nil {
			return p.agree(err)
		}
		return p.agree(p.ledger.gone())
	case errors.Is(err, client.ErrDestroyed), errors.Is(err, client.ErrLocked):
		p.ledger.gaveUp() // this one may have been the tenth, its verdict lost
		return p.agree(p.ledger.gone())
	case verdictless(err):
		p.ledger.gaveUp()
		return nil
	}
	return p.bad("a wrong password", err)
}

// destroy types wrong passwords until the key is gone; the right one must not
// open it then.
func (p *person) destroy(ctx context.Context) error {
	for n := 0; !p.ledger.destroyed; n++ {
		if n > 2*attempts || ctx.Err() != nil {
			return fmt.Errorf("%s: still not destroyed after %d wrong passwords", p.sub, n)
		}
		if err := p.mistype(ctx); err != nil {
			return err
		}
	}
	return p.dead(ctx)
}

// dead types the right password for a key that is gone.
func (p *person) dead(ctx context.Context) error {
	err := p.until(ctx, "after-destruction", func(ctx context.Context) error {
		_, err := p.phone.Recover(ctx, secret.Bytes(p.password))
		return err
	})
	if errors.Is(err, client.ErrDestroyed) || errors.Is(err, client.ErrLocked) {
		return nil
	}
	return fmt.Errorf("the destroyed key of %s: %w", p.sub, orOpened(err))
}

func orOpened(err error) error {
	if err == nil {
		return errors.New("it opened")
	}
	return err
}

// status asks, and compares.
func (p *person) status(ctx context.Context) error {
	var s client.Status
	err := p.until(ctx, "status", func(ctx context.Context) (err error) {
		s, err = p.phone.Status(ctx)
		return err
	})
	if err != nil {
		if verdictless(err) {
			return nil // asked again at the end
		}
		return p.bad("status", err)
	}
	return p.agree(p.ledger.status(s))
}

// final is the end of the account's story: what the vault counts is what the
// person was told, and the right password opens the right key.
func (p *person) final(ctx context.Context) error {
	defer p.close()
	p.patience = patient
	if err := p.newPhone(); err != nil {
		return err
	}
	s, err := p.phone.Status(ctx)
	if err != nil {
		return fmt.Errorf("%s at the end: %w", p.sub, err)
	}
	if err := p.agree(p.ledger.status(s)); err != nil {
		return err
	}
	if p.ledger.destroyed {
		return p.dead(ctx)
	}
	if err := p.recover(ctx, false); err != nil {
		return err
	}
	if p.ledger != (ledger{}) {
		return fmt.Errorf("%s: no verdict on the right password at the end", p.sub)
	}
	return nil
}

func (p *person) agree(err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", p.sub, err)
	}
	return nil
}

func (p *person) bad(what string, err error) error { return fmt.Errorf("%s: %s: %w", p.sub, what, err) }

// something is one thing that people do, drawn by rnd. Few destroy their keys.
func (p *person) something(ctx context.Context, rnd *rand.Rand) error {
	n := rnd.IntN(100)
	switch {
	case n < 35:
		return p.recover(ctx, true)
	case n < 50:
		return p.recover(ctx, false)
	case n < 75:
		// Never so many that a lost verdict could make them ten.
		if p.ledger.wrong+p.ledger.vague >= attempts-3 {
			return p.recover(ctx, false)
		}
		return p.mistype(ctx)
	case n < 90:
		return p.status(ctx)
	}
	return p.restart()
}
