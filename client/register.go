package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"chatvault/client/internal/state"
	"chatvault/protocol/backupfile"
	"chatvault/protocol/frame"
	"chatvault/protocol/keywrap"
	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/password"
	"chatvault/protocol/secret"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

// Register stores key under the password, where nothing live is registered
// (ErrConflict otherwise). The password is the person's, as typed.
//
// If an earlier Register of this device was interrupted and turns out to have
// been stored, this one replaces it: the password given last counts.
func (c *Client) Register(ctx context.Context, typed secret.Bytes, key BackupKey, opts RegisterOptions) (Receipt, error) {
	return c.register(ctx, "register", vaultmsg.PurposeRegister, typed, key, opts)
}

// Replace registers anew over a live record without its password: by the owner
// device (a forgotten password while the phone is still here, at most three
// times in 24 hours), or by a device whose replace claim is ripe (ErrPending
// before). ErrNotOwner: make a Claim first.
func (c *Client) Replace(ctx context.Context, newPassword secret.Bytes, key BackupKey, opts RegisterOptions) (Receipt, error) {
	return c.register(ctx, "replace", vaultmsg.PurposeReplace, newPassword, key, opts)
}

func (c *Client) register(ctx context.Context, op string, purpose vaultmsg.Purpose, typed secret.Bytes, key BackupKey, opts RegisterOptions) (out Receipt, err error) {
	pw, err := normalize(op, typed)
	if err != nil {
		return out, err
	}
	defer pw.Wipe()
	e := &enrolment{purpose: purpose, password: pw, key: key}
	if e.ksf, err = opts.ksf(op); err != nil {
		return out, err
	}
	err = c.run(ctx, op, opts.Accept, func(ctx context.Context, o *operation) error {
		var err error
		out, err = o.register(ctx, e)
		return err
	})
	return out, err
}

// register begins, or goes on with, a Register or Replace.
func (o *operation) register(ctx context.Context, e *enrolment) (Receipt, error) {
	if err := o.mayRegister(); err != nil {
		return Receipt{}, err
	}
	receipt, stored, err := o.settle(ctx, e)
	if err != nil || (stored && e.sent) {
		return receipt, err
	}
	if stored {
		// An earlier, interrupted registration of this device stands. Whether
		// it was for the same password nobody can tell, so it is replaced.
		e.purpose = vaultmsg.PurposeReplace
	}
	return o.enrol(ctx, e)
}

// Changed is what ChangePassword brings back.
type Changed struct {
	Receipt Receipt
	// Key is what the new password stands for now: the old backup key, or a
	// fresh one if newKey was asked for.
	Key BackupKey
	// OldKey is the key that the old password stood for: backups made so far
	// open with it.
	OldKey BackupKey
}

// ChangePassword proves the old password, as Recover does with the same
// attempts, and registers the backup key under the new one. With newKey a fresh
// backup key is registered instead: after a compromise.
//
// ErrConflict before anything was charged: an earlier, interrupted registration
// of this device turns out to have been stored; its password counts now.
func (c *Client) ChangePassword(ctx context.Context, oldPassword, newPassword secret.Bytes, newKey bool, opts RegisterOptions) (out Changed, err error) {
	const op = "change-password"
	oldPW, err := normalize(op, oldPassword)
	if err != nil {
		return out, err
	}
	defer oldPW.Wipe()
	newPW, err := normalize(op, newPassword)
	if err != nil {
		return out, err
	}
	defer newPW.Wipe()
	e := &enrolment{purpose: vaultmsg.PurposeChange, password: newPW}
	if e.ksf, err = opts.ksf(op); err != nil {
		return out, err
	}
	if newKey {
		out.Key = backupfile.NewBackupKey()
	}
	err = c.run(ctx, op, opts.Accept, func(ctx context.Context, o *operation) error {
		if err := o.mayRegister(); err != nil {
			return err
		}
		receipt, stored, err := o.settle(ctx, e)
		if stored && !e.sent && err == nil {
			return &Error{Code: frame.Conflict, AttemptsLeft: Unknown,
				Err: errors.New("an earlier registration of this device was interrupted, but stored: its password counts")}
		}
		if !stored && err == nil {
			if out.OldKey, _, err = o.attempt(ctx, oldPW); err != nil {
				return err
			}
			if !newKey {
				out.Key = out.OldKey
			}
			e.key = out.Key
			receipt, err = o.enrol(ctx, e)
		}
		out.Receipt = receipt
		return err
	})
	return out, err
}

func (opts RegisterOptions) ksf(op string) (KSF, error) {
	ksf := opts.KSF
	if ksf == (KSF{}) {
		ksf = opaque.DefaultArgon2id
	}
	if err := ksf.Check(); err != nil {
		return ksf, &Error{Op: op, AttemptsLeft: Unknown, Err: err}
	}
	return ksf, nil
}

// enrolment is a registration that is wanted.
type enrolment struct {
	purpose  vaultmsg.Purpose
	password password.Password
	key      BackupKey
	ksf      KSF
	sent     bool // its RegisterFinish may have been sent in this operation
}

// mayRegister stops before anything is sent when a person has to decide first.
func (o *operation) mayRegister() error {
	if !o.current {
		return ErrPreviousFleet
	}
	if o.status.State == StateLive && o.status.Owner && o.status.OtherFailure > 0 {
		return o.story(StoryOtherFailures, 0, uint64(o.status.OtherFailure))
	}
	return nil
}

// settle finds out what became of a registration whose outcome is unknown. With
// stored it is the account's registration now, and receipt is its receipt.
func (o *operation) settle(ctx context.Context, e *enrolment) (receipt Receipt, stored bool, err error) {
	p := o.c.state.At(o.keys.Fleet).Pending
	if p == nil {
		return Receipt{}, false, nil
	}
	stored = bytes.Equal(p.ID, o.status.Registration[:]) && o.status.State == StateLive
	// One of this operation that was not stored yet is sent again; one of an
	// earlier run is given up, because its password may have been another.
	if !stored && (!e.sent || o.status.Generation+1 != p.Generation) {
		return Receipt{}, false, o.forget()
	}
	receipt, err = o.finish(ctx, p)
	if refused, ok := errors.AsType[*Error](err); ok && refused.Code == frame.Conflict && !stored {
		// The vault has dropped the fresh key, and stored nothing.
		return Receipt{}, false, nil
	}
	if err == nil && !stored {
		o.status.Generation, o.status.Registration = p.Generation, vaultmsg.RegistrationID(p.ID)
	}
	return receipt, err == nil, err
}

func (o *operation) forget() error {
	o.c.state.At(o.keys.Fleet).Pending = nil
	return o.c.save()
}

// enrol is RegisterStart and RegisterFinish.
func (o *operation) enrol(ctx context.Context, e *enrolment) (Receipt, error) {
	blind, err := oprf.NewBlind(rand.Reader)
	if err != nil {
		return Receipt{}, err
	}
	input := vaultmsg.OPRFInput(e.password.Bytes(), o.keys.Fleet, o.account.Issuer, o.account.Subject)
	defer input.Wipe()
	registration, request, err := opaque.CreateRegistrationRequest(input, blind)
	if err != nil {
		return Receipt{}, err
	}
	body, err := o.call(ctx, vaultmsg.RegisterStart{
		Purpose: e.purpose, Generation: o.status.Generation, Blinded: request.BlindedMessage,
	})
	if err != nil {
		return Receipt{}, err
	}
	started := body.(vaultmsg.RegisterStarted)
	if started.Generation != o.status.Generation+1 {
		return Receipt{}, fmt.Errorf("%w: generation %d after %d", ErrProtocol, started.Generation, o.status.Generation)
	}
	finish, err := o.seal(e, registration, started)
	if err != nil {
		return Receipt{}, err
	}
	// Stored before it is sent: whatever happens then, the next run asks what
	// became of this id before it starts another (attack A6).
	p := state.NewPending(finish, started.Generation, o.status.State == StateLive)
	st := o.c.state
	st.Issuer, st.Subject = o.account.Issuer, o.account.Subject
	st.At(o.keys.Fleet).Pending = p
	if err := o.c.save(); err != nil {
		return Receipt{}, err
	}
	e.sent = true
	return o.finish(ctx, p)
}

// seal makes the RegisterFinish: the registration record, and the backup key
// wrapped under the export key, which wraps nothing else ever.
func (o *operation) seal(e *enrolment, registration *opaque.ClientRegistration, started vaultmsg.RegisterStarted) (vaultmsg.RegisterFinish, error) {
	response, err := opaque.ParseRegistrationResponse(started.Response[:])
	if err != nil {
		return vaultmsg.RegisterFinish{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	record, exportKey, err := registration.FinalizeRegistrationRequest(opaque.ClientParams{
		ClientIdentity:  vaultmsg.ClientIdentity(o.account.Issuer, o.account.Subject, started.Generation),
		ServerIdentity:  []byte(o.keys.Fleet),
		ServerPublicKey: o.keys.OPAQUE[:],
		KSF:             e.ksf.KSF(),
	}, response)
	if err != nil {
		// ErrAuthentication here means another server key than the bundle's.
		return vaultmsg.RegisterFinish{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	defer exportKey.Wipe()
	m := vaultmsg.RegisterFinish{
		ID: started.ID, Record: [opaque.RegistrationRecordSize]byte(record.Bytes()), KSF: e.ksf,
	}
	wrapped := keywrap.Wrap(exportKey.Key, e.key.Key, o.binding(started.Generation))
	m.Wrap[0] = vaultmsg.WrapKey64
	copy(m.Wrap[1:], wrapped[:])
	return m, nil
}

// finish sends a RegisterFinish, for the first time or again, and takes its
// receipt.
func (o *operation) finish(ctx context.Context, p *state.Pending) (Receipt, error) {
	m := p.Finish()
	body, err := o.resend(ctx, m)
	if refused, ok := errors.AsType[*Error](err); ok {
		switch refused.Code {
		case frame.Unavailable, frame.Internal, frame.TicketExpired, frame.Busy:
			// maybe stored: the pending registration stays
		default:
			if err := o.forget(); err != nil {
				return Receipt{}, err
			}
		}
	}
	if err != nil {
		return Receipt{}, err
	}
	signed := body.(vaultmsg.Receipt)
	receipt, err := o.checkReceipt(signed, m, p.Generation)
	if err != nil {
		return Receipt{}, err
	}
	renewed := o.c.state.At(o.keys.Fleet).Generation != p.Generation
	o.adopt(&state.Registered{ID: m.ID[:], BodyHash: signed.BodyHash[:], Generation: p.Generation, Receipt: receipt.Signed})
	at := o.c.state.At(o.keys.Fleet)
	if at.Pending = nil; renewed {
		at.Blind = nil // attempts at the generation before are over
	}
	if err := o.c.save(); err != nil {
		return receipt, err
	}
	if p.Replaces && receipt.Replaced != p.Generation-1 {
		return receipt, o.story(StoryReplacedNothing, p.Generation-1, receipt.Replaced)
	}
	return receipt, nil
}

// checkReceipt verifies that the vault has signed for what was sent.
func (o *operation) checkReceipt(r vaultmsg.Receipt, m vaultmsg.RegisterFinish, generation uint64) (Receipt, error) {
	device := o.c.cfg.Device.Thumbprint()
	err := r.Verify(o.keys.Receipt[:], o.keys.Fleet, o.account.Hash())
	if err == nil && (r.ID != m.ID || r.BodyHash != m.BodyHash() || r.Generation != generation || r.Owner != device) {
		err = errors.New("receipt for another registration")
	}
	if err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return Receipt{
		ID: r.ID, Generation: r.Generation, Replaced: r.Replaced, ReplacedFailures: int(r.ReplacedFailures),
		Owner: ticket.Thumbprint(r.Owner), Time: unix(r.Time), Signed: r.Encode(),
	}, nil
}
