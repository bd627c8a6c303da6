package vault

import (
	"context"
	"crypto/rand"

	"chatvault/protocol/frame"
	"chatvault/protocol/opaque"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/rules"
)

// registerStart evaluates a RegistrationRequest under a fresh OPRF key. Under
// the live one it would be an oracle that nobody counts (A4).
func (c *Conversation) registerStart(ctx context.Context, m vaultmsg.RegisterStart) vaultmsg.Reply {
	request, err := opaque.ParseRegistrationRequest(m.Blinded[:])
	if err != nil {
		return vaultmsg.Reply{Status: frame.Malformed}
	}
	s := started{account: c.account, Registration: rules.Registration{
		Device: c.device, Purpose: m.Purpose, Generation: m.Generation + 1,
		KE3: c.ke3 != 0 && c.ke3 == m.Generation,
	}}
	auth, verdict, left, err := c.mayRegister(ctx, s.Registration)
	if err != nil {
		return c.unavailable("register", err)
	}
	if auth == rules.NoAuthority {
		return vaultmsg.Reply{Status: verdict.Status, Until: verdict.Until, Left: left}
	}
	rand.Read(s.ID[:])
	response, err := c.freshKey(ctx, &s, request)
	if err != nil {
		return c.unavailable("register", err)
	}
	if !c.v.pending.add(s, c.v.cfg.Now()) {
		return vaultmsg.Reply{Status: frame.Busy, Left: left}
	}
	if auth == rules.ByKE3 {
		c.ke3 = 0 // used once
	}
	body := vaultmsg.RegisterStarted{ID: s.ID, Generation: s.Generation}
	copy(body.Response[:], response.Bytes())
	return vaultmsg.Reply{Left: left, Body: body}
}

func (c *Conversation) mayRegister(ctx context.Context, g rules.Registration) (auth rules.Authority, v rules.Verdict, left uint8, err error) {
	err = c.update(ctx, func(r *record.Record) (*record.Record, bool, error) {
		auth, v = rules.MayRegister(r, g, c.v.cfg.Now(), c.v.params())
		left = leftOf(r)
		return r, v.Write, nil
	})
	return auth, v, left, err
}

func (c *Conversation) freshKey(ctx context.Context, s *started, request opaque.RegistrationRequest) (opaque.RegistrationResponse, error) {
	wrapped, public, err := c.v.cfg.HSM.NewOPRFKey(ctx)
	if err != nil {
		return opaque.RegistrationResponse{}, err
	}
	copy(s.wrapped[:], wrapped)
	copy(s.public[:], public)
	return opaque.CreateRegistrationResponse(ctx, c.v.evaluate(wrapped, public), c.v.serverPublic, request)
}

// registerFinish stores a registration, or finds that it is stored already: a
// repeated finish writes nothing and gets the same receipt, so that a relay that
// drops receipts gains no fresh attempts (A6).
func (c *Conversation) registerFinish(ctx context.Context, m vaultmsg.RegisterFinish) vaultmsg.Reply {
	if _, err := opaque.ParseRegistrationRecord(m.Record[:]); err != nil || m.KSF.Check() != nil || m.Wrap[0] == 0 {
		return vaultmsg.Reply{Status: frame.Malformed}
	}
	s, known := c.v.pending.get(m.ID, c.account, c.device, c.v.cfg.Now())
	var reply vaultmsg.Reply
	err := c.update(ctx, func(r *record.Record) (*record.Record, bool, error) {
		reply = vaultmsg.Reply{Left: leftOf(r)}
		if r != nil && r.Registration == m.ID {
			reply.Status = frame.Conflict
			if r.BodyHash == m.BodyHash() && r.RegisteredBy == c.device {
				reply.Status, reply.Body = frame.OK, receiptOf(r)
			}
			return nil, false, nil
		}
		if !known {
			reply.Status = frame.Conflict
			return nil, false, nil
		}
		next, v, err := c.register(ctx, r, s, m)
		if next != nil {
			reply.Body, reply.Left = receiptOf(next), uint8(next.Left())
			return next, true, nil
		}
		reply.Status, reply.Until = v.Status, v.Until
		return r, v.Write, err
	})
	if err != nil {
		return c.unavailable("register", err)
	}
	if reply.Status == frame.OK {
		c.v.pending.drop(m.ID)
		c.dropAttempt() // it was of the generation before
	}
	return reply
}

// register makes the next generation's record, signed; nil if the rules refuse.
func (c *Conversation) register(ctx context.Context, r *record.Record, s started, m vaultmsg.RegisterFinish) (*record.Record, rules.Verdict, error) {
	now := c.v.cfg.Now()
	auth, v := rules.MayRegister(r, s.Registration, now, c.v.params())
	if auth == rules.NoAuthority {
		return nil, v, nil
	}
	next := rules.Register(r, s.Registration, auth, record.Record{
		OPRFKey: s.wrapped, OPRFPublic: s.public,
		OPAQUE: m.Record, Wrap: m.Wrap, KSF: m.KSF, BodyHash: m.BodyHash(),
	}, now)
	digest := receiptOf(&next).Digest(c.v.cfg.Fleet, c.account.Hash())
	var err error
	if next.ReceiptSignature, err = c.v.cfg.HSM.Sign(ctx, hsm.Receipt, digest); err != nil {
		return nil, v, err
	}
	return &next, v, nil
}

func receiptOf(r *record.Record) vaultmsg.Receipt {
	return vaultmsg.Receipt{
		ID: r.Registration, BodyHash: r.BodyHash, Generation: r.Generation,
		Replaced: r.Replaced, ReplacedFailures: r.ReplacedFailures,
		Owner: r.RegisteredBy, Time: r.RegisteredAt, Signature: r.ReceiptSignature,
	}
}

func (c *Conversation) delete(ctx context.Context, m vaultmsg.Delete) vaultmsg.Reply {
	return c.change(ctx, "delete", func(r *record.Record) rules.Verdict {
		return rules.Delete(r, c.device, m.Generation, c.v.cfg.Now(), c.v.params())
	})
}

func (c *Conversation) claim(ctx context.Context, m vaultmsg.Claim) vaultmsg.Reply {
	var id vaultmsg.ClaimID
	rand.Read(id[:])
	var made record.Claim
	reply := c.change(ctx, "claim", func(r *record.Record) (v rules.Verdict) {
		made, v = rules.AddClaim(r, c.device, m.What, m.Generation, id, c.v.cfg.Now(), c.v.params())
		return v
	})
	if reply.Status == frame.OK {
		ripens, lapses := rules.ClaimTimes(made, c.v.params())
		reply.Body = vaultmsg.Claimed{ID: made.ID, Ripe: ripens, Expires: lapses}
	}
	return reply
}

func (c *Conversation) cancel(ctx context.Context, m vaultmsg.Cancel) vaultmsg.Reply {
	return c.change(ctx, "cancel", func(r *record.Record) rules.Verdict {
		return rules.Cancel(r, c.device, m.ID, c.v.cfg.Now(), c.v.params())
	})
}

// change applies a rule and stores what it changed.
func (c *Conversation) change(ctx context.Context, op string, rule func(*record.Record) rules.Verdict) vaultmsg.Reply {
	var reply vaultmsg.Reply
	err := c.update(ctx, func(r *record.Record) (*record.Record, bool, error) {
		v := rule(r)
		reply = vaultmsg.Reply{Status: v.Status, Until: v.Until, Left: leftOf(r)}
		return r, v.Write, nil
	})
	if err != nil {
		return c.unavailable(op, err)
	}
	return reply
}
