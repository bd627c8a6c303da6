package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"chatvault/protocol/ticket"
)

// maxMargin is how long before its end a ticket is replaced, at most; a fifth
// of its lifetime when that is shorter.
const maxMargin = time.Minute

// tickets holds the current ticket and asks the app for the next.
//
// The phone's clock is not trusted with it: relay and vault say when a ticket
// has ended. The clock only decides when to ask early, and measures that from
// the moment at which the ticket came, so that a clock hours off costs nothing
// but a late renewal.
type tickets struct {
	fetch func(ctx context.Context) (string, error)
	fleet string
	jkt   ticket.Thumbprint

	asking chan struct{} // held while the callback runs

	mu     sync.Mutex
	cur    string
	claims ticket.Claims
	due    time.Time // on the monotonic clock
	bad    string    // the ticket that was refused as ended
}

func newTickets(cfg Config) *tickets {
	return &tickets{fetch: cfg.Tickets, fleet: cfg.Pins.Fleet, jkt: cfg.Device.Thumbprint(), asking: make(chan struct{}, 1)}
}

// get returns a ticket that has not been refused and is not about to end, with
// its claims and the time at which to ask for the next.
func (t *tickets) get(ctx context.Context) (s string, claims ticket.Claims, due time.Time, err error) {
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return "", claims, due, ctx.Err()
	}
	t.mu.Lock()
	s, claims, due, bad := t.cur, t.claims, t.due, t.bad
	t.mu.Unlock()
	if s != "" && s != bad && time.Now().Before(due) {
		return s, claims, due, nil
	}
	if s, claims, err = t.ask(ctx, bad); err != nil {
		return "", claims, due, &Error{AttemptsLeft: Unknown, Err: fmt.Errorf("%w: %w", ErrNotAuthorised, err)}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cur, t.claims, t.due = s, claims, renewal(claims, time.Now())
	return t.cur, t.claims, t.due, nil
}

// ask calls the callback; bad is the ticket that must not come again.
func (t *tickets) ask(ctx context.Context, bad string) (string, ticket.Claims, error) {
	s, err := t.fetch(ctx)
	if err != nil {
		return "", ticket.Claims{}, fmt.Errorf("asking for a ticket: %w", err)
	}
	if s == bad && s != "" {
		return "", ticket.Claims{}, fmt.Errorf("%w: the callback brought the same one again", ErrTicketExpired)
	}
	claims, err := t.check(s)
	return s, claims, err
}

// check refuses early what relay and vault would refuse, apart from its time.
func (t *tickets) check(s string) (ticket.Claims, error) {
	claims, header, err := ticket.Inspect(s)
	if err != nil {
		return claims, err
	}
	if err := header.Check(); err != nil {
		return claims, err
	}
	if err := claims.Check(claims.IssuedAt, []string{t.fleet}); err != nil && !errors.Is(err, ticket.ErrNotYet) {
		return claims, err
	}
	if claims.Device != t.jkt {
		return claims, ticket.ErrDevice
	}
	return claims, nil
}

// renewal is when a ticket that came now should be replaced.
func renewal(c ticket.Claims, now time.Time) time.Time {
	lifetime := c.Expires.Sub(c.IssuedAt)
	margin := min(maxMargin, lifetime/5)
	left := lifetime
	// A ticket that was not fresh when it came: believe the clock if what it
	// says is possible.
	if by := c.Expires.Sub(now); by > margin && by < lifetime {
		left = by
	}
	return now.Add(left - margin)
}

// ended notes that a ticket was refused as ended.
func (t *tickets) ended(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bad = s
}
