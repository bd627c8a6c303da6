package relay

import (
	"crypto/sha256"
	"errors"
	"time"

	"chatvault/chatd/internal/ratelimit"
	"chatvault/chatd/internal/route"
	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// limited is the refusal by a limit.
func limited(t frame.Type, limit string, wait time.Duration) frame.Refuse {
	return frame.Refuse{Refused: t, Status: frame.RateLimited, RetryMillis: millis(wait), Limit: limit}
}

// millis rounds up: a client that comes back in that time is let in.
func millis(d time.Duration) uint32 {
	return uint32(min((d+time.Millisecond-1)/time.Millisecond, 1<<32-1))
}

// refuse answers a frame that was not acted upon.
func (c *conn) refuse(f frame.Refuse) {
	c.relay.Counts.Add("refused_" + f.Status.String())
	if f.Limit != "" {
		c.relay.Counts.Add("limited_" + f.Limit)
	}
	c.sendFrame(f)
}

// refuseAndEnd does what refuse does and closes the connection for the same
// reason.
func (c *conn) refuseAndEnd(f frame.Refuse) {
	c.refuse(f)
	c.end(reasonOf(f.Status))
}

// onAuth verifies an AUTH: the first one, or a later one that extends the
// connection. It is a goroutine's deepest point, so what is large stands
// elsewhere: see verifiers.
func (c *conn) onAuth(a frame.Auth) {
	first := c.who() == nil
	refusal := frame.Refuse{Refused: frame.TAuth}
	if wait := c.spend(&c.authsTAT, ratelimit.AuthsPerConnection); wait > 0 {
		refusal = limited(frame.TAuth, ratelimit.AuthsPerConnection, wait)
	} else {
		v := verifications.Get().(*verification)
		v.nonce, v.auth = c.nonce, a
		if refusal.Status = c.verify(v); refusal.Status == frame.OK {
			refusal = c.verified(&v.verified, first)
		}
		v.release()
	}
	switch {
	case refusal.Status == frame.OK:
	case first:
		c.refuseAndEnd(refusal)
	default:
		// The connection goes on under the ticket that it has.
		c.refuse(refusal)
	}
}

// verified acts on an AUTH that was verified. It returns the refusal, or one with
// the status OK.
func (c *conn) verified(v *ticket.Verified, first bool) frame.Refuse {
	if !first {
		return frame.Refuse{Refused: frame.TAuth, Status: c.extend(v)}
	}
	id := identityOf(v)
	claim, d := c.mayConnect(id)
	if !d.Allowed {
		claim.Drop()
		return limited(frame.TAuth, d.Limit, d.Retry)
	}
	c.accept(v, id, claim)
	return frame.Refuse{}
}

// verify checks host, ticket and proof, the cheapest first.
func (c *conn) verify(v *verification) frame.Status {
	r := c.relay
	// A proof made for another relay opens nothing here.
	if !r.cfg.Hosts.Has(v.auth.Host) {
		return frame.WrongHost
	}
	v.now = r.Clock.Now()
	err := c.gated(v)
	if errors.Is(err, ticket.ErrUnavailable) {
		// An issuer's keys must be fetched first. Nobody waits for that inside of
		// the gate.
		if v.found, err = r.Tickets.Find(r.ctx, v.auth.Ticket, v.now); err == nil {
			err = c.gated(v)
		}
	}
	switch {
	case err == nil:
		return frame.OK
	case errors.Is(err, ticket.ErrExpired):
		return frame.TicketExpired
	case errors.Is(err, errGate):
		r.Counts.Add("refused_auth_gate")
		return frame.AuthTimeout
	case errors.Is(err, ticket.ErrUnavailable):
		r.Log.Warn("a ticket could not be verified", "reason", err)
		return frame.Internal
	}
	// The error is one of the package's constants and holds nothing of the
	// ticket; the client is not told which.
	r.Log.Debug("a ticket was refused", "reason", err)
	return frame.NotAuthorised
}

// gated verifies a proof when there is a place. It waits for nothing else.
func (c *conn) gated(v *verification) error {
	r := c.relay
	if !r.gate.enter(r.ctx, hasBegun, r.cfg.AuthTimeout) {
		return errGate
	}
	defer r.gate.leave()
	return r.verifiers.verify(v)
}

func identityOf(v *ticket.Verified) *identity {
	account := v.Account.Bytes()
	return &identity{
		account: sha256.Sum256(account),
		issuer:  v.Account.Issuer,
		peer:    sha256.Sum256(append(account, v.Thumbprint[:]...)),
	}
}

// mayConnect asks Redis all that a connect asks, in one round trip: whether
// account and device may connect, and to have the device.
func (c *conn) mayConnect(id *identity) (*route.Claim, ratelimit.Decision) {
	claim := c.relay.Directory.Claim(id.account, id.device())
	return claim, c.relay.spendAlong(claim.Queue, ratelimit.ConnectionsPerAccount, ratelimit.ConnectionsPerDevice, id)
}

// accept makes the connection the account's, and says so.
func (c *conn) accept(v *ticket.Verified, id *identity, claim *route.Claim) {
	if c.relay.Unheard != nil {
		name := v.Account
		id.name = &name
	}
	c.mu.Lock()
	if c.ended { // AUTH came too late
		c.mu.Unlock()
		claim.Drop()
		return
	}
	c.identity, c.expires = id, v.Expires.UnixMilli()
	c.mu.Unlock()
	c.relay.Counts.Add("authenticated")
	if c.relay.Handshake != nil {
		c.relay.Handshake(c.relay.Clock.Now().Sub(time.Unix(0, c.began)))
	}
	if !c.relay.enter(c, id, claim, c.ready(v.Expires)) {
		c.end(slowConsumer)
	}
	c.Due()
}

// device names the device to other relays.
func (id *identity) device() route.Device { return route.Device(id.peer[:len(route.Device{})]) }

// extend takes a fresh ticket of the same account and device.
func (c *conn) extend(v *ticket.Verified) frame.Status {
	if identityOf(v).peer != c.who().peer {
		return frame.NotAuthorised
	}
	c.mu.Lock()
	c.expires = max(c.expires, v.Expires.UnixMilli())
	expires := c.expires
	c.mu.Unlock()
	c.sendFrame(c.ready(time.UnixMilli(expires)))
	c.Due()
	return frame.OK
}

func (c *conn) ready(expires time.Time) frame.Ready {
	return frame.Ready{
		TicketEnds: uint64(max(expires.Unix(), 0)),
		PingMillis: millis(c.relay.cfg.Ping),
	}
}
