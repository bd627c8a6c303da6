package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chatvault/client/internal/relay"
	"chatvault/client/internal/session"
	"chatvault/protocol/fleet"
	"chatvault/protocol/frame"
	"chatvault/protocol/noisenk"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

// maxFaults is how many faults that are not the network's (refusals that may
// pass, a vault whose storage fails) one operation bears in a row.
const maxFaults = 4

// maxFinishes is how many KE3s one operation sends that the vault may have taken.
// Each may have been a success whose reply was lost, and a success gives ten new
// attempts, also to a thief of the account: a relay that drops every reply must not
// make one typed password into hundreds of them. A network that is only bad does not
// end sessions, and so does not lose three.
const maxFinishes = 3

// errChanged: between two exchanges of this session somebody else changed the
// record. A new session sees it as it is.
var errChanged = errors.New("the record changed in the meantime")

// operation is one call of the Client's API: as many vault sessions as it takes.
type operation struct {
	c      *Client
	name   string
	accept []Story

	reached bool // a relay was connected to

	// of the current vault session
	keys    fleet.Keys
	current bool // the fleet is the current one
	s       *session.Session
	ticket  string
	account ticket.Account
	status  vaultmsg.AccountStatus

	// the vault's last word on attempts
	left    int
	charged bool

	verdict error // reached, whether or not the vault has confirmed it

	// failures is how many other attempts at generation failuresOf were charged
	// since the last success, as each KE2 told, the most of them: a KE3 whose reply
	// was lost may have ended that count.
	failures   int
	failuresOf uint64

	// drew says that the blind is of this operation, and so of one password: no
	// other attempt can be open under it.
	drew bool

	// finished is how many KE3s were not refused: they succeeded, or nobody knows.
	finished int
}

// run opens a session, calls do, and does both again when the session was lost
// or the fault may pass, until the operation's time is over. do must be able to
// go on where an earlier call of it was interrupted.
func (c *Client) run(ctx context.Context, name string, accept []Story, do func(context.Context, *operation) error) error {
	o := &operation{c: c, name: name, accept: accept, left: Unknown}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-ctx.Done():
		return o.wrap(ctx.Err())
	}
	begin, faults := time.Now(), 0
	for {
		err := o.open(ctx)
		if err == nil {
			err = do(ctx, o)
		}
		if o.s != nil {
			o.s.Close()
			o.s = nil
		}
		if err == nil {
			return nil
		}
		if o.verdict != nil {
			// Not once more: the verdict is known, and a vault that does not keep
			// entries after it would charge the same element anew, as often as a
			// relay cares to end the session (A18).
			return o.wrap(err)
		}
		fault, again := o.passing(err)
		if fault {
			faults++
		}
		// A phone without a network is told soon. Behind a relay that answers
		// there may be a vault that is busy, and an attempt to finish.
		late := !o.reached && time.Since(begin) > c.cfg.ConnectWait
		if !again || faults > maxFaults || o.finished >= maxFinishes || ctx.Err() != nil || late {
			return o.wrap(err)
		}
		c.cfg.Logger.Debug("trying again", "op", name, "error", err)
		delay := relay.Backoff(max(1, faults))
		if r, ok := errors.AsType[*relay.Refusal](err); ok {
			delay = max(delay, r.RetryIn)
		}
		if relay.Sleep(ctx, delay) != nil {
			return o.wrap(err)
		}
	}
}

// open makes a vault session and authorises it.
func (o *operation) open(ctx context.Context) (err error) {
	c := o.c
	if o.keys, o.current, err = c.bundles.keys(ctx); err != nil {
		return err
	}
	hello, err := c.link.Connect(ctx, !o.reached)
	if err != nil {
		return err
	}
	o.reached = true
	if hello.BundleEpoch > c.bundles.cur.Epoch {
		c.bundles.announced(ctx, hello.BundleEpoch)
		if o.keys, o.current, err = c.bundles.keys(ctx); err != nil {
			return err
		}
	}
	t, claims, _, err := c.tickets.get(ctx)
	if err != nil {
		return err
	}
	o.ticket = t
	if o.s, err = session.Open(ctx, c.link, o.keys); err != nil {
		return err
	}
	reply, err := o.s.Authorise(ctx, c.cfg.Device, t)
	if err != nil {
		return err
	}
	return o.authorised(reply, claims)
}

// authorised takes AUTHORISE's reply and compares it with the story so far.
func (o *operation) authorised(reply vaultmsg.Reply, claims ticket.Claims) error {
	if reply.Status != frame.OK {
		return o.refused(reply)
	}
	o.status = reply.Body.(vaultmsg.AccountStatus)
	o.account = ticket.Account{Issuer: o.status.Issuer, Subject: claims.Subject}
	o.left = Unknown
	if o.status.State == StateLive {
		o.left = int(reply.Left)
	}
	st := o.c.state
	if st.Subject == "" {
		return nil // nothing was registered or recovered yet
	}
	if st.Issuer != o.account.Issuer || st.Subject != o.account.Subject {
		// Not to be accepted: this Store's story is another account's.
		return &StoryError{Op: o.name, What: StoryAccount}
	}
	at := st.At(o.keys.Fleet)
	if o.status.Generation < at.Generation {
		if err := o.story(StoryGenerationFell, at.Generation, o.status.Generation); err != nil {
			return err
		}
	}
	if o.status.Generation != at.Generation {
		at.Generation = o.status.Generation
		return o.c.save()
	}
	return nil
}

// story stops the operation unless the person has accepted this.
func (o *operation) story(what Story, was, now uint64) error {
	for _, s := range o.accept {
		if s == what {
			return nil
		}
	}
	return &StoryError{Op: o.name, What: what, Was: was, Now: now}
}

// call is one exchange; a reply other than ok is an *Error.
func (o *operation) call(ctx context.Context, req vaultmsg.Request) (vaultmsg.Body, error) {
	reply, err := o.s.Call(ctx, req)
	if err != nil {
		return nil, err
	}
	if reply.Status != frame.OK {
		return nil, o.refused(reply)
	}
	o.charged = reply.Charged
	if o.status.State == StateLive {
		o.left = int(reply.Left) // without a record it is 0, and means nothing
	}
	return reply.Body, nil
}

// refused turns a reply of the vault into an error.
func (o *operation) refused(r vaultmsg.Reply) *Error {
	e := &Error{Op: o.name, Code: r.Status, Charged: r.Charged, AttemptsLeft: Unknown}
	switch r.Status {
	case frame.WrongPassword, frame.Locked, frame.Destroyed, frame.Paced:
		e.AttemptsLeft = int(r.Left)
	}
	o.charged, o.left = e.Charged, e.AttemptsLeft
	if r.Until != 0 {
		e.Until = unix(r.Until)
		if wait := e.Until.Sub(o.c.cfg.Now()); wait > 0 {
			e.RetryAfter = wait
		}
	}
	return e
}

// passing says whether another session may help, and whether the reason counts
// as a fault: then it may help a few times only.
func (o *operation) passing(err error) (fault, again bool) {
	if ended, ok := errors.AsType[*relay.Ended](err); ok {
		if ended.Status == frame.TicketExpired {
			o.c.tickets.ended(o.ticket)
			return true, true
		}
		return false, ended.Status.Retryable() || ended.Status == frame.OK
	}
	if r, ok := errors.AsType[*relay.Refusal](err); ok {
		if r.Status == frame.TicketExpired {
			o.c.tickets.ended(o.ticket)
		}
		return true, r.Status.Retryable() && r.RetryIn <= o.c.cfg.MaxWait
	}
	if e, ok := errors.AsType[*Error](err); ok {
		switch e.Code {
		case frame.TicketExpired:
			o.c.tickets.ended(o.ticket)
			return true, true
		case frame.Unavailable, frame.Internal, frame.NoAttempt, frame.Busy:
			return true, true
		}
		return false, false
	}
	if errors.Is(err, errChanged) || errors.Is(err, noisenk.ErrHandshake) {
		return true, true
	}
	return false, errors.Is(err, relay.ErrLost)
}

// wrap makes the error that the caller gets. A verdict that is known stands,
// though the vault could not be told.
func (o *operation) wrap(err error) error {
	if o.verdict != nil {
		return o.verdict
	}
	if s, ok := errors.AsType[*StoryError](err); ok {
		return s
	}
	if e, ok := errors.AsType[*Error](err); ok {
		e.Op = o.name
		return e
	}
	e := &Error{Op: o.name, Charged: o.charged, AttemptsLeft: o.left}
	if r, ok := errors.AsType[*relay.Refusal](err); ok {
		e.Code, e.RetryAfter, e.Limit = r.Status, r.RetryIn, r.Limit
		return e
	}
	if ended, ok := errors.AsType[*relay.Ended](err); ok {
		e.Code = ended.Status
		return e
	}
	e.Err = err
	if reason := localReason(err); reason != nil {
		e.Err = fmt.Errorf("%w: %w", reason, err)
	}
	return e
}

// localReason is the exported error for a failure on this side, or nil when err
// is one already.
func localReason(err error) error {
	switch {
	case errors.Is(err, relay.ErrClosed):
		return ErrClosed
	case errors.Is(err, relay.ErrProtocol), errors.Is(err, session.ErrVault), errors.Is(err, noisenk.ErrHandshake):
		return ErrProtocol
	case errors.Is(err, errChanged):
		return ErrConflict
	case errors.Is(err, relay.ErrLost), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return ErrUnreachable
	}
	return nil
}
