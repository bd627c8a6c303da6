package vault

import (
	"context"
	"errors"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/opaque"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/rules"
)

// Conversation is one vault session's side of the vault. One goroutine at a time
// may call it.
type Conversation struct {
	v *Vault
	h [32]byte // the handshake hash

	// who: set by Authorise
	authorised bool
	account    ticket.Account
	device     vaultmsg.Thumbprint
	expires    time.Time
	id         recordstore.ID
	// The base of the record when the session was told of it last, and of which
	// generation.
	told, toldIn uint64

	attempt *attempt // between RecoverStart and its verdict
	ke3     uint64   // the generation of a KE3 in this session that was not used yet, or 0
}

// attempt is the AKE state of the session's one attempt. It lives in memory
// only: after a crash the charge stands, and the same element goes on.
type attempt struct {
	rules.Attempt
	refused    frame.Status // not ok: nothing was charged, the verdict repeats it
	until      uint64
	generation uint64
	charge     uint64
	state      *opaque.AKEState
	ends       time.Time

	// After a KE3 that verified, until it is stored: a failure to store consumes
	// nothing, so the same KE3 may come again.
	verified   bool
	ke3        [opaque.KE3Size]byte
	sessionKey opaque.SessionKey
}

// NewConversation begins a session whose handshake hash is h.
func (v *Vault) NewConversation(h [32]byte) *Conversation { return &Conversation{v: v, h: h} }

// End drops the session's secrets.
func (c *Conversation) End() { c.dropAttempt() }

func (c *Conversation) dropAttempt() {
	if c.attempt == nil {
		return
	}
	if c.attempt.state != nil {
		c.attempt.state.Wipe()
	}
	c.attempt.sessionKey.Wipe()
	c.attempt = nil
}

// Handle answers one request. ring says that an operation on the account has
// ended, whatever its verdict, and that its other devices should be told so.
func (c *Conversation) Handle(ctx context.Context, request []byte) (reply []byte, ring bool) {
	req, err := vaultmsg.ParseRequest(request)
	if err != nil {
		kind := vaultmsg.KStatus // a kind that the reader of the reply knows
		if len(request) > 0 && request[0] >= 1 && request[0] <= byte(vaultmsg.KCancel) {
			kind = vaultmsg.Kind(request[0])
		}
		return vaultmsg.Reply{Kind: kind, Status: frame.Malformed}.Encode(), false
	}
	r, ring := c.handle(ctx, req)
	r.Kind = req.Kind()
	if r.Status != frame.OK {
		r.Body = nil
	}
	return r.Encode(), ring
}

func (c *Conversation) handle(ctx context.Context, req vaultmsg.Request) (r vaultmsg.Reply, ring bool) {
	if a, ok := req.(vaultmsg.Authorise); ok {
		return c.authorise(ctx, a), false
	}
	if !c.authorised {
		return vaultmsg.Reply{Status: frame.NotAuthorised}, false
	}
	// Checked at every request, since a session outlives connections (A15).
	if !c.v.cfg.Now().Before(c.expires) {
		return vaultmsg.Reply{Status: frame.TicketExpired}, false
	}
	switch m := req.(type) {
	case vaultmsg.RegisterStart:
		return c.registerStart(ctx, m), false
	case vaultmsg.RegisterFinish:
		return c.registerFinish(ctx, m), true
	case vaultmsg.RecoverStart:
		return c.recoverStart(ctx, m), false
	case vaultmsg.RecoverFinish:
		return c.recoverFinish(ctx, m), true
	case vaultmsg.Abort:
		return c.abort(ctx), true
	case vaultmsg.Delete:
		return c.delete(ctx, m), true
	case vaultmsg.Claim:
		return c.claim(ctx, m), true
	case vaultmsg.Cancel:
		return c.cancel(ctx, m), true
	}
	return c.status(ctx), false
}

// authorise checks the ticket and the proof over h: the relay's word authorises
// nothing (A2). It may come again with a fresh ticket of the same account and
// device.
func (c *Conversation) authorise(ctx context.Context, m vaultmsg.Authorise) vaultmsg.Reply {
	t, err := c.v.cfg.Tickets.Verify(ctx, m.Ticket, m.DeviceKey[:], c.v.cfg.Now())
	if err != nil {
		return vaultmsg.Reply{Status: ticketStatus(err)}
	}
	if ticket.VerifyVaultAuth(m.DeviceKey[:], m.Signature[:], c.v.cfg.Fleet, c.h, t.TicketHash) != nil {
		return vaultmsg.Reply{Status: frame.NotAuthorised}
	}
	if c.authorised && (t.Account != c.account || vaultmsg.Thumbprint(t.Thumbprint) != c.device) {
		return vaultmsg.Reply{Status: frame.NotAuthorised}
	}
	id, err := c.v.records.accountID(ctx, t.Account)
	if err != nil {
		return c.unavailable("authorise", err)
	}
	c.account, c.device, c.expires, c.id = t.Account, vaultmsg.Thumbprint(t.Thumbprint), t.Expires, id
	c.authorised = true
	return c.status(ctx)
}

func ticketStatus(err error) frame.Status {
	switch {
	case errors.Is(err, ticket.ErrExpired):
		return frame.TicketExpired
	case errors.Is(err, ticket.ErrAudience):
		return frame.WrongFleet
	case errors.Is(err, ticket.ErrUnavailable):
		return frame.Unavailable
	}
	return frame.NotAuthorised
}

func (c *Conversation) status(ctx context.Context) vaultmsg.Reply {
	var s vaultmsg.AccountStatus
	var left uint8
	err := c.update(ctx, func(r *record.Record) (*record.Record, bool, error) {
		now := c.v.cfg.Now()
		settled := r != nil && rules.Settle(r, now, c.v.params())
		s, left = rules.Status(r, c.device, now, c.v.params()), leftOf(r)
		if r != nil {
			c.told, c.toldIn = r.Base, r.Generation
		}
		return r, settled, nil
	})
	if err != nil {
		return c.unavailable("status", err)
	}
	s.Issuer = c.account.Issuer
	return vaultmsg.Reply{Status: frame.OK, Left: left, Body: s}
}

// update loads the account's record (nil: none), lets decide look at it and
// change it, and stores it if decide says so; if somebody else stored first, all
// of it is done again on the new record. After any other failure nothing that
// decide concluded may be used.
func (c *Conversation) update(ctx context.Context, decide func(*record.Record) (next *record.Record, write bool, err error)) error {
	unlock, err := c.v.lock(ctx, c.id)
	if err != nil {
		return err
	}
	defer unlock()
	return c.decideLoaded(ctx, decide)
}

// updateStale is update, begun on a read that may be stale: a charge then waits for
// one exchange with the majority of a cluster, not two. What decide concludes from
// it counts once it is stored, or once a Load has shown that it was not stale.
// Else all of it is done again on what a Load shows.
func (c *Conversation) updateStale(ctx context.Context, decide func(*record.Record) (next *record.Record, write bool, err error)) error {
	unlock, err := c.v.lock(ctx, c.id)
	if err != nil {
		return err
	}
	defer unlock()
	r, version, err := c.v.records.loadStale(ctx, c.id)
	if errors.Is(err, errCorrupt) {
		return c.decideLoaded(ctx, decide) // it may be sound by now
	}
	if err != nil {
		return err
	}
	before := stateOf(r)
	next, write, err := decide(r)
	if err != nil {
		return err
	}
	if write {
		err := c.v.records.swap(ctx, c.id, version, next)
		c.v.stored(err, before, next)
		if !errors.Is(err, recordstore.ErrConflict) {
			return err
		}
	} else if still, err := c.v.records.still(ctx, c.id, version); still || err != nil {
		return err
	}
	return c.decideLoaded(ctx, decide)
}

func (c *Conversation) decideLoaded(ctx context.Context, decide func(*record.Record) (next *record.Record, write bool, err error)) error {
	for {
		r, version, err := c.v.records.load(ctx, c.id)
		if err != nil {
			return err
		}
		if r != nil {
			copied := r.Clone()
			r = &copied
		}
		before := stateOf(r)
		next, write, err := decide(r)
		if err != nil || !write {
			return err
		}
		err = c.v.records.swap(ctx, c.id, version, next)
		c.v.stored(err, before, next)
		if !errors.Is(err, recordstore.ErrConflict) {
			return err
		}
		// Under the lock only a sweep collides with this on the same node, and
		// other nodes rarely do; ctx bounds it.
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// unavailable answers for a store or HSM that failed, without a charge.
func (c *Conversation) unavailable(op string, err error) vaultmsg.Reply {
	c.v.cfg.Logger.Error("operation failed", "op", op, "err", err)
	return vaultmsg.Reply{Status: frame.Unavailable}
}

func leftOf(r *record.Record) uint8 {
	if r == nil {
		return 0
	}
	return uint8(r.Left())
}
