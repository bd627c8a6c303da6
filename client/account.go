package client

import (
	"bytes"
	"context"
	"errors"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/secret"
	"chatvault/protocol/vaultmsg"
)

// Status asks what stands under the account.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var out Status
	err := c.run(ctx, "status", nil, func(_ context.Context, o *operation) error {
		out = o.export()
		return nil
	})
	return out, err
}

// CheckReceipt asks for the status and compares it with what this device
// registered or recovered last. Call it before each backup: a *StoryError says
// that the backup key in hand may not be the one that the vault keeps, or that
// somebody else is trying passwords. The status is returned beside a StoryError
// too. ErrNotRegistered: this device has registered or recovered nothing.
func (c *Client) CheckReceipt(ctx context.Context, accept ...Story) (Status, error) {
	var out Status
	err := c.run(ctx, "check-receipt", accept, func(ctx context.Context, o *operation) error {
		out = o.export()
		// An interrupted registration that was stored is this device's.
		p := c.state.At(o.keys.Fleet).Pending
		if p != nil && o.status.State == StateLive && bytes.Equal(p.ID, o.status.Registration[:]) {
			if _, err := o.finish(ctx, p); err != nil {
				return err
			}
		}
		return o.compare()
	})
	return out, err
}

// compare compares the vault's status with this device's registration.
func (o *operation) compare() error {
	mine := o.c.state.At(o.keys.Fleet).Registered
	if mine == nil {
		return &Error{Code: frame.NotRegistered, AttemptsLeft: Unknown, Err: errors.New("by or on this device")}
	}
	s := o.status
	if !bytes.Equal(mine.ID, s.Registration[:]) || !bytes.Equal(mine.BodyHash, s.BodyHash[:]) || mine.Generation != s.Generation {
		return o.story(StoryReplaced, mine.Generation, s.Generation)
	}
	if s.State != StateLive {
		return o.story(StoryGone, mine.Generation, s.Generation)
	}
	if s.Owner && s.OtherFailure > 0 {
		return o.story(StoryOtherFailures, 0, uint64(s.OtherFailure))
	}
	return nil
}

// Delete destroys the record: by the owner device, or one whose delete claim is
// ripe (ErrPending before, ErrNotOwner without). ErrNotRegistered: nothing live
// was there.
func (c *Client) Delete(ctx context.Context) error {
	sent := false
	return c.run(ctx, "delete", nil, func(ctx context.Context, o *operation) error {
		return o.delete(ctx, &sent)
	})
}

// DeleteWithPassword is Delete for a device that owns nothing but knows the
// password; a wrong one costs an attempt.
func (c *Client) DeleteWithPassword(ctx context.Context, typed secret.Bytes) error {
	pw, err := normalize("delete", typed)
	if err != nil {
		return err
	}
	defer pw.Wipe()
	sent := false
	return c.run(ctx, "delete", nil, func(ctx context.Context, o *operation) error {
		if !(sent && o.status.State == StateDeleted) {
			if _, _, err := o.attempt(ctx, pw); err != nil {
				return err
			}
		}
		return o.delete(ctx, &sent)
	})
}

// delete asks for the deletion; sent says that it was asked for before, in a
// session that was lost, so that what is deleted now was deleted by that.
func (o *operation) delete(ctx context.Context, sent *bool) error {
	if !*sent || o.status.State != StateDeleted {
		*sent = true
		if _, err := o.resend(ctx, vaultmsg.Delete{Generation: o.status.Generation}); err != nil {
			return err
		}
	}
	at := o.c.state.At(o.keys.Fleet)
	at.Registered, at.Pending, at.Blind = nil, nil, nil
	return o.c.save()
}

// Claim asks for the right to replace or delete a record that another device
// owns and whose password is lost. It ripens after the fleet's delay (72 h)
// unless somebody objects; then call Replace or Delete. A claim of this kind
// that stands already is returned again.
func (c *Client) Claim(ctx context.Context, what ClaimKind) (Claim, error) {
	var out Claim
	err := c.run(ctx, "claim", nil, func(ctx context.Context, o *operation) error {
		body, err := o.resend(ctx, vaultmsg.Claim{What: what, Generation: o.status.Generation})
		if err != nil {
			return err
		}
		made := body.(vaultmsg.Claimed)
		out = Claim{ID: made.ID, What: what, Mine: true, Ripe: unix(made.Ripe), Expires: unix(made.Expires)}
		return nil
	})
	return out, err
}

// Cancel removes a claim: the owner's objection, or any ticketed device's.
func (c *Client) Cancel(ctx context.Context, id ClaimID) error {
	sent := false
	return c.run(ctx, "cancel", nil, func(ctx context.Context, o *operation) error {
		_, err := o.resend(ctx, vaultmsg.Cancel{ID: id})
		if e, ok := errors.AsType[*Error](err); ok && e.Code == frame.NoClaim && sent {
			return nil // the one before was heard, its reply was lost
		}
		sent = true
		return err
	})
}

// Watch keeps a connection to the relay, reconnecting as needed, until the
// context ends, so that Config.Notice hears the doorbells. It returns when the
// relay refuses for good, or with the context's error. Operations may run
// beside it.
//
// It returns ErrReplaced when another process with this device's key has
// connected: a device has one connection. Watch again when the app is in use
// again, not at once, or the two push each other out.
func (c *Client) Watch(ctx context.Context) error {
	o := &operation{c: c, name: "watch", left: Unknown}
	err := c.link.Hold(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return o.wrap(err)
}

// export is the status in the API's types.
func (o *operation) export() Status {
	s := o.status
	out := Status{
		Fleet: o.keys.Fleet, Issuer: o.account.Issuer, Subject: o.account.Subject,
		State: s.State, Owner: s.Owner, Generation: s.Generation, AttemptsLeft: max(o.left, 0),
		Failures: int(s.Failures), OtherFailures: int(s.OtherFailure),
		Registration: s.Registration, BodyHash: s.BodyHash, KSF: s.KSF,
		Events: o.events(),
	}
	for _, c := range s.Claims {
		out.Claims = append(out.Claims, Claim{ID: c.ID, What: c.What, Mine: c.Mine, Ripe: unix(c.Ripe), Expires: unix(c.Expires)})
	}
	return out
}

func (o *operation) events() []Event {
	var out []Event
	mine := o.c.cfg.Device.Thumbprint()
	for _, e := range o.status.Events {
		out = append(out, Event{Kind: e.Kind, Time: unix(e.Time), Device: e.Device, Mine: bytes.Equal(e.Device[:], mine[:4])})
	}
	return out
}

// unix bounds a peer's seconds to what time.Time prints sensibly.
func unix(s uint64) time.Time { return time.Unix(int64(min(s, 1<<37)), 0).UTC() }
