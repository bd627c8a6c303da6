package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"chatvault/protocol/frame"
	"chatvault/protocol/opaque"
	"chatvault/protocol/vaultmsg"
	"chatvault/vaultd/internal/record"
	"chatvault/vaultd/internal/recordstore"
	"chatvault/vaultd/internal/rules"
)

// recoverStart takes KE1: charge, store, and only then evaluate.
func (c *Conversation) recoverStart(ctx context.Context, m vaultmsg.RecoverStart) vaultmsg.Reply {
	ke1, err := opaque.ParseKE1(m.KE1[:])
	if err != nil {
		return vaultmsg.Reply{Status: frame.Malformed} // A3: uncharged, nothing was evaluated
	}
	c.dropAttempt()
	a := &attempt{Attempt: rules.Attempt{Device: c.device}, ends: c.v.cfg.Now().Add(c.v.cfg.AKE)}
	live, verdict, err := c.charge(ctx, a, ke1.BlindedMessage)
	if err != nil {
		return c.chargeInDoubt(ctx, a, verdict, err)
	}
	if verdict.Status != frame.OK {
		c.v.pretend(ctx, c.account, ke1)
		a.refused, a.until = verdict.Status, verdict.Until
		c.attempt = a
		return vaultmsg.Reply{Status: verdict.Status, Left: uint8(live.Left()), Until: verdict.Until}
	}
	// The charge is durable: from here on, and not before, the HSM may evaluate.
	if verdict.Write { // else the same attempt goes on
		c.v.cfg.Count(Charged)
	}
	reply := vaultmsg.Reply{Charged: true, Left: uint8(live.Left())}
	ke2, err := c.generateKE2(ctx, a, &live, ke1)
	if err != nil {
		c.v.cfg.Logger.Error("operation failed", "op", "evaluate", "err", err)
		reply.Status = frame.Unavailable // the entry stands: the same blind goes on, uncharged
		return reply
	}
	c.attempt = a
	body := vaultmsg.RecoverStarted{Generation: a.generation, KSF: live.KSF}
	copy(body.KE2[:], ke2.Bytes())
	reply.Body = body
	return reply
}

// charge charges the attempt, or finds why not; live is the record as it is then.
func (c *Conversation) charge(ctx context.Context, a *attempt, blinded [33]byte) (live record.Record, verdict rules.Verdict, err error) {
	noLease := c.v.permits.ready(ctx)
	var taken taken
	var idle sync.WaitGroup
	var panicked any
	defer func() {
		if idle.Wait(); panicked != nil {
			panic(panicked) // here it ends this session, there it ended them all
		}
	}()
	refused := sync.OnceFunc(func() {
		// At once, while a Load confirms what may have been stale: else a refusal
		// took longer than a charge, by that Load (A11).
		idle.Go(func() {
			defer func() { panicked = recover() }()
			_ = c.v.decoys.write(ctx, c.v, c.account, false)
		})
	})
	decide := func(r *record.Record) (*record.Record, bool, error) {
		taken.give() // what a try took that lost its swap
		if r != nil {
			a.generation = r.Generation
			a.ID = vaultmsg.AttemptID(r.Generation, c.device, blinded)
			if a.Told = 0; r.Generation == c.toldIn {
				a.Told = c.told
			}
		}
		var before record.Record
		if r != nil {
			before = r.Clone()
		}
		a.charge, verdict = rules.Charge(r, a.Attempt, c.v.cfg.Now(), c.v.params())
		if verdict.Status == frame.OK && verdict.Write {
			var until uint64
			var err error
			taken, until, err = c.v.take(c.id, kindsOf(r))
			switch {
			case errors.Is(err, errSpent):
				*r = before // uncharged
				verdict = rules.Verdict{Status: frame.Paced, Until: c.v.clock.told(until), Write: rules.Miss(r, a.Attempt)}
			case err != nil:
				return nil, false, err
			}
		}
		live = record.Record{}
		if r != nil {
			live = *r
		}
		if verdict.Status != frame.OK && !verdict.Write {
			refused()
		}
		// What goes on is stored too, as it is: a store that takes no charges must not
		// tell by this who types what he typed before.
		return r, verdict.Write || verdict.Status == frame.OK, nil
	}
	for {
		// What was taken is not given back after a failure: the charge may stand.
		err := c.updateStale(ctx, decide)
		if !errors.Is(err, errNoPermit) {
			return live, verdict, err
		}
		if noLease == nil {
			noLease = ctx.Err()
		}
		if noLease != nil {
			if err := c.update(ctx, func(r *record.Record) (*record.Record, bool, error) {
				return r, r != nil && rules.Miss(r, a.Attempt), nil
			}); err != nil {
				return live, verdict, fmt.Errorf("%w: refusal: %v", errNoPermit, err)
			}
			// Without %w: that a lease may have been stored is no doubt about the charge.
			return live, verdict, fmt.Errorf("%w: %v", errNoPermit, noLease)
		}
		noLease = c.v.permits.ready(ctx) // others were faster
	}
}

// kindsOf says what permits charging r takes, r being as it is after the charge.
func kindsOf(r *record.Record) []permitKind {
	if r.Left() == 0 {
		return []permitKind{permitCharge, permitLast}
	}
	return []permitKind{permitCharge}
}

func (c *Conversation) generateKE2(ctx context.Context, a *attempt, r *record.Record, ke1 opaque.KE1) (opaque.KE2, error) {
	stored, err := opaque.ParseRegistrationRecord(r.OPAQUE[:])
	if err != nil {
		return opaque.KE2{}, fmt.Errorf("stored registration: %w", err)
	}
	ke2, state, err := opaque.GenerateKE2(ctx, opaque.ServerParams{
		ServerIdentity:  []byte(c.v.cfg.Fleet),
		ServerPublicKey: c.v.serverPublic,
		Evaluate:        c.v.evaluate(r.OPRFKey[:], r.OPRFPublic[:]),
		DH:              c.v.staticDH,
		Context:         vaultmsg.Context(r.KSF, c.h),
	}, stored, vaultmsg.ClientIdentity(c.account.Issuer, c.account.Subject, a.generation), ke1)
	a.state = state
	return ke2, err
}

// chargeInDoubt answers when the charge was not stored, or maybe was. Nothing
// has been evaluated. It looks once more for what is left. After ErrUnknown it says
// that there was a charge, also when it sees none: in a cluster the swap may still
// land.
func (c *Conversation) chargeInDoubt(ctx context.Context, a *attempt, verdict rules.Verdict, cause error) vaultmsg.Reply {
	c.v.cfg.Logger.Error("operation failed", "op", "charge", "err", cause)
	reply := vaultmsg.Reply{Status: frame.Unavailable, Charged: verdict.Status == frame.OK && errors.Is(cause, recordstore.ErrUnknown)}
	r, _, err := c.v.records.load(ctx, c.id)
	if err != nil || r == nil {
		return reply
	}
	reply.Left = leftOf(r)
	for _, e := range r.Entries {
		reply.Charged = reply.Charged || a.GoesOn(e)
	}
	return reply
}

// recoverFinish takes KE3: restore, store, and only then release the wrapped key.
func (c *Conversation) recoverFinish(ctx context.Context, m vaultmsg.RecoverFinish) vaultmsg.Reply {
	a := c.attempt
	if a == nil {
		c.idleWrite(ctx)
		return vaultmsg.Reply{Status: frame.NoAttempt}
	}
	if a.refused != frame.OK {
		return c.repeatRefusal(ctx)
	}
	if !c.v.cfg.Now().Before(a.ends) {
		c.dropAttempt() // the entry stands: the same blind goes on, uncharged
		c.idleWrite(ctx)
		return vaultmsg.Reply{Status: frame.NoAttempt, Charged: true}
	}
	if !a.verified {
		key, err := a.state.Finish(opaque.KE3{ClientMAC: m.KE3})
		a.state = nil
		if err != nil {
			return c.fail(ctx, vaultmsg.EventWrongFinish)
		}
		a.verified, a.ke3, a.sessionKey = true, m.KE3, key
	}
	if a.ke3 != m.KE3 {
		return vaultmsg.Reply{Status: frame.Malformed, Charged: true}
	}
	return c.restore(ctx, a)
}

func (c *Conversation) restore(ctx context.Context, a *attempt) vaultmsg.Reply {
	var wrap [vaultmsg.WrapSize]byte
	var failures uint32
	var left uint8
	var verdict rules.Verdict
	err := c.update(ctx, func(r *record.Record) (*record.Record, bool, error) {
		var base uint64
		if r != nil {
			failures, base, wrap = r.Failures(), r.Base, r.Wrap
		}
		now := c.v.cfg.Now()
		if !now.Before(a.ends) {
			// This node stood still, and another device may have recovered since:
			// it is to stay the owner (A20).
			verdict, left = rules.Verdict{Status: frame.NoAttempt}, leftOf(r)
			return r, false, nil
		}
		verdict = rules.Restore(r, a.Attempt, a.generation, a.charge, now)
		if verdict.Status == frame.OK && r.Base > base {
			failures-- // this attempt was charged since, too
		}
		left = leftOf(r)
		return r, verdict.Write, nil
	})
	if err != nil {
		reply := c.unavailable("restore", err)
		reply.Charged = true // until it is restored; the same KE3 may come again
		return reply
	}
	if verdict.Status != frame.OK {
		c.dropAttempt()
		return vaultmsg.Reply{Status: verdict.Status, Charged: true, Left: left}
	}
	if verdict.Write {
		c.v.cfg.Count(Restored)
	}
	body := vaultmsg.Recovered{Generation: a.generation, Failures: failures}
	body.Release = vaultmsg.SealRelease(a.sessionKey.Key, a.ID, wrap)
	c.ke3 = a.generation
	c.dropAttempt()
	return vaultmsg.Reply{Left: left, Body: body}
}

// abort takes the client's word that KE2 did not verify.
func (c *Conversation) abort(ctx context.Context) vaultmsg.Reply {
	if c.attempt == nil {
		c.idleWrite(ctx)
		return vaultmsg.Reply{Status: frame.NoAttempt}
	}
	if c.attempt.refused != frame.OK {
		return c.repeatRefusal(ctx)
	}
	return c.fail(ctx, vaultmsg.EventFailed)
}

// fail closes the attempt. The charge stands.
func (c *Conversation) fail(ctx context.Context, kind vaultmsg.EventKind) vaultmsg.Reply {
	a := c.attempt
	reply := vaultmsg.Reply{Charged: true}
	err := c.update(ctx, func(r *record.Record) (*record.Record, bool, error) {
		verdict := rules.Fail(r, a.Attempt, a.generation, kind, c.v.cfg.Now(), c.v.params())
		reply.Status, reply.Left = verdict.Status, leftOf(r)
		return r, verdict.Write, nil
	})
	if err != nil {
		reply = c.unavailable("fail", err)
		reply.Charged = true
		if a.state != nil {
			return reply // the Abort may come again; a KE3 is used up
		}
	}
	c.dropAttempt()
	return reply
}

// repeatRefusal is the third exchange of an attempt that was refused: the same
// answer, and the same write.
func (c *Conversation) repeatRefusal(ctx context.Context) vaultmsg.Reply {
	a := c.attempt
	c.dropAttempt()
	c.idleWrite(ctx)
	return vaultmsg.Reply{Status: a.refused, Until: a.until}
}

// idleWrite stores what a verdict would have stored, where there is none.
func (c *Conversation) idleWrite(ctx context.Context) {
	_ = c.v.decoys.write(ctx, c.v, c.account, true)
}
