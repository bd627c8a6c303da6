package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"chatvault/client/internal/relay"
	"chatvault/client/internal/state"
	"chatvault/protocol/frame"
	"chatvault/protocol/keywrap"
	"chatvault/protocol/opaque"
	"chatvault/protocol/oprf"
	"chatvault/protocol/password"
	"chatvault/protocol/secret"
	"chatvault/protocol/vaultmsg"
)

// maxAttempts is how many attempts a password has (SPEC 11.1).
const maxAttempts = 10

// maxResends is how often a request whose failure consumed nothing is sent again
// in its session.
const maxResends = 4

// Recover fetches the backup key with the password. Each new wrong password
// costs one of ten attempts; the same one typed again after a broken
// connection, also after a restart, goes on with the same attempt.
//
// ErrWrongPassword comes with AttemptsLeft; the last one matches ErrDestroyed
// too. A success makes this device the owner, and gives back what was charged up to
// it: ten attempts are left, less what was charged to others after this one.
func (c *Client) Recover(ctx context.Context, typed secret.Bytes) (Recovered, error) {
	var out Recovered
	pw, err := normalize("recover", typed)
	if err != nil {
		return out, err
	}
	defer pw.Wipe()
	err = c.run(ctx, "recover", nil, func(ctx context.Context, o *operation) error {
		events := o.events()
		key, body, err := o.attempt(ctx, pw)
		if err != nil {
			return err
		}
		out = Recovered{
			Key: key, Generation: body.Generation, FailuresBefore: max(int(body.Failures), o.failures),
			AttemptsLeft: o.left, Events: events,
		}
		return nil
	})
	return out, err
}

func normalize(op string, typed secret.Bytes) (password.Password, error) {
	pw, err := password.Normalize(typed)
	if err != nil {
		return pw, &Error{Op: op, AttemptsLeft: Unknown, Err: fmt.Errorf("%w: %w", ErrPassword, err)}
	}
	return pw, nil
}

// attempt is the three exchanges of a login: AUTHORISE has been, then KE1, then
// KE3 or an abort. Its pattern does not depend on what stands in the vault
// (attack A11), so KE1 is sent also when AUTHORISE said that nothing does.
func (o *operation) attempt(ctx context.Context, pw password.Password) (BackupKey, vaultmsg.Recovered, error) {
	var none vaultmsg.Recovered
	release, err := o.reserve()
	if err != nil {
		return BackupKey{}, none, err
	}
	defer release()
	blind, err := o.blind()
	if err != nil {
		return BackupKey{}, none, err
	}
	input := vaultmsg.OPRFInput(pw.Bytes(), o.keys.Fleet, o.account.Issuer, o.account.Subject)
	defer input.Wipe()
	login, ke1, err := opaque.GenerateKE1(input, blind)
	if err != nil {
		return BackupKey{}, none, err
	}
	started, err := o.sendKE1(ctx, ke1, release)
	if err != nil {
		return BackupKey{}, none, err
	}
	o.noteFailures(started.Generation)
	ke3, sessionKey, exportKey, err := o.finalize(login, started, release)
	if errors.Is(err, opaque.ErrAuthentication) {
		return BackupKey{}, none, o.abort(ctx)
	}
	if err != nil {
		return BackupKey{}, none, err
	}
	defer sessionKey.Wipe()
	defer exportKey.Wipe()
	body, err := o.sendKE3(ctx, ke3)
	if err != nil {
		return BackupKey{}, none, err
	}
	id := vaultmsg.AttemptID(started.Generation, o.c.cfg.Device.Thumbprint(), ke1.BlindedMessage)
	key, err := o.unwrap(sessionKey, exportKey, id, body)
	if err != nil {
		return BackupKey{}, none, err
	}
	if body.Generation != started.Generation {
		return BackupKey{}, none, fmt.Errorf("%w: recovered generation %d of %d", ErrProtocol, body.Generation, started.Generation)
	}
	o.recovered()
	return key, body, nil
}

// reserve checks the KSF's parameters and takes its memory before KE1, so that
// neither a vault that asks for too much nor a phone that is too small costs an
// attempt. Parameters below the bounds would make the password cheap to guess
// for whoever steals the records.
func (o *operation) reserve() (release func(), err error) {
	release, err = o.ksf().Reserve()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return release, nil
}

// ksf is the record's KSF, or the usual one where no record is live.
func (o *operation) ksf() KSF {
	if o.status.State != StateLive {
		return opaque.DefaultArgon2id
	}
	return o.status.KSF
}

// blind returns the blind of attempts without a verdict, or a new one, which is
// stored before anything is sent: with the same blind the same password makes the
// same element, and the vault goes on with it uncharged (attack A18).
//
// One that an earlier operation left behind outlives wrong_password and locked. What
// was typed now may be a typo, while an attempt with the right password, whose KE2 a
// relay dropped, is still open in the vault: without its blind nobody could go on
// with it.
//
// Another password under the same blind makes another element and is charged, as
// it should be. That the two elements share a blind tells nobody anything: to
// see it one would have to solve the decisional Diffie-Hellman problem.
func (o *operation) blind() (oprf.Blind, error) {
	at := o.c.state.At(o.keys.Fleet)
	var b oprf.Blind
	if at.Blind != nil {
		copy(b.B[:], at.Blind)
		return b, nil
	}
	b, err := oprf.NewBlind(rand.Reader)
	if err != nil {
		return b, err
	}
	o.drew = true
	at.Blind = append(state.Secret(nil), b.B[:]...)
	if err := o.c.save(); err != nil {
		at.Blind = nil // or the next operation would use one that a restart forgets
		return b, err
	}
	return b, nil
}

// gone says that there is no record any more, and so no open attempt at it.
func gone(code frame.Status) bool { return code == frame.Destroyed || code == frame.NotRegistered }

// forgetBlind is for when no attempt can go on with it. Beside a record that
// somebody has opened, whose attempt ids are hashes of elements, a blind tests
// passwords offline: it is kept no longer than it serves.
func (o *operation) forgetBlind() error {
	at := o.c.state.At(o.keys.Fleet)
	clear(at.Blind)
	at.Blind = nil
	return o.c.save()
}

// sendKE1 returns KE2. A refusal is followed by an abort, so that it looks like
// every other attempt from outside: and not before the time that the KSF takes,
// or the relay would see from the pause who has nothing to recover (A11).
func (o *operation) sendKE1(ctx context.Context, ke1 opaque.KE1, release func()) (vaultmsg.RecoverStarted, error) {
	body, err := o.call(ctx, vaultmsg.RecoverStart{KE1: [opaque.KE1Size]byte(ke1.Bytes())})
	if refused, ok := errors.AsType[*Error](err); ok {
		switch refused.Code {
		case frame.Locked, frame.NotRegistered, frame.Destroyed, frame.Paced:
			release()
			if _, err := o.ksf().KSF()(make([]byte, opaque.Nh)); err != nil {
				return vaultmsg.RecoverStarted{}, err
			}
			if _, err := o.s.Call(ctx, vaultmsg.Abort{}); err != nil {
				o.c.cfg.Logger.Debug("abort after a refusal failed", "error", err)
			}
			if gone(refused.Code) {
				if err := o.forgetBlind(); err != nil {
					return vaultmsg.RecoverStarted{}, err
				}
			}
		}
		// No abort after other failures: it would close the entry, and a record
		// that is used up waits for the open ones only.
		return vaultmsg.RecoverStarted{}, refused
	}
	if err != nil {
		return vaultmsg.RecoverStarted{}, err
	}
	started := body.(vaultmsg.RecoverStarted)
	if o.status.State != StateLive || started.Generation != o.status.Generation || started.KSF != o.status.KSF {
		return vaultmsg.RecoverStarted{}, errChanged
	}
	return started, nil
}

// noteFailures takes what KE2's reply told. Another generation has a count of its
// own: what was guessed at the one before, the receipt told who replaced it.
func (o *operation) noteFailures(generation uint64) {
	if generation != o.failuresOf {
		o.failures, o.failuresOf = 0, generation
	}
	o.failures = max(o.failures, maxAttempts-o.left-1)
}

// finalize makes KE3. ErrAuthentication: the password is wrong.
func (o *operation) finalize(login *opaque.ClientLogin, started vaultmsg.RecoverStarted, release func()) (opaque.KE3, opaque.SessionKey, opaque.ExportKey, error) {
	ke2, err := opaque.ParseKE2(started.KE2[:])
	if err != nil {
		return opaque.KE3{}, opaque.SessionKey{}, opaque.ExportKey{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	stretch := started.KSF.KSF()
	return login.GenerateKE3(opaque.ClientParams{
		ClientIdentity:  vaultmsg.ClientIdentity(o.account.Issuer, o.account.Subject, started.Generation),
		ServerIdentity:  []byte(o.keys.Fleet),
		ServerPublicKey: o.keys.OPAQUE[:],
		Context:         vaultmsg.Context(started.KSF, o.s.HandshakeHash()),
		KSF: func(oprfOutput []byte) ([]byte, error) {
			release()
			return stretch(oprfOutput)
		},
	}, ke2)
}

// abort tells the vault that the password was wrong, and returns the verdict, which
// stands also if it is not known whether the vault was told. It is told in this
// session only; see run.
func (o *operation) abort(ctx context.Context) error {
	wrong := &Error{Op: o.name, Code: frame.WrongPassword, Charged: true, AttemptsLeft: o.left}
	o.verdict = wrong
	_, err := o.resend(ctx, vaultmsg.Abort{})
	if told, ok := errors.AsType[*Error](err); ok {
		switch told.Code {
		case frame.WrongPassword, frame.Locked, frame.Conflict, frame.NotRegistered:
			wrong.AttemptsLeft = told.AttemptsLeft
		case frame.Destroyed:
			wrong = &Error{Op: o.name, Code: frame.Destroyed, Charged: true, AttemptsLeft: 0, Err: ErrWrongPassword}
		default:
			return err
		}
		o.verdict = wrong
		if gone(told.Code) || o.drew {
			if err := o.forgetBlind(); err != nil {
				o.c.cfg.Logger.Warn("the blind of a finished attempt could not be removed", "error", err)
			}
		}
	} else if err != nil {
		return err
	}
	return wrong
}

// sendKE3 returns the released key. A wrong password shows here only if KE2 was
// made to verify by somebody who has the record.
func (o *operation) sendKE3(ctx context.Context, ke3 opaque.KE3) (vaultmsg.Recovered, error) {
	body, err := o.resend(ctx, vaultmsg.RecoverFinish{KE3: ke3.ClientMAC})
	refused, ok := errors.AsType[*Error](err)
	if !ok {
		o.finished++
	} else if gone(refused.Code) || o.drew && refused.Code == frame.WrongPassword {
		if err := o.forgetBlind(); err != nil {
			return vaultmsg.Recovered{}, err
		}
	}
	if err != nil {
		return vaultmsg.Recovered{}, err
	}
	return body.(vaultmsg.Recovered), nil
}

// resend is call for requests that consume nothing when storage fails: they come
// again under the next sequence number.
func (o *operation) resend(ctx context.Context, req vaultmsg.Request) (vaultmsg.Body, error) {
	for n := 1; ; n++ {
		body, err := o.call(ctx, req)
		refused, ok := errors.AsType[*Error](err)
		if !ok || n > maxResends || (refused.Code != frame.Unavailable && refused.Code != frame.Internal) {
			return body, err
		}
		if relay.Sleep(ctx, relay.Backoff(n)) != nil {
			return nil, err
		}
	}
}

// unwrap opens what the vault released: first under this attempt's session key,
// then under the password's export key, bound to fleet, account and generation.
func (o *operation) unwrap(sessionKey opaque.SessionKey, exportKey opaque.ExportKey, attempt [32]byte, body vaultmsg.Recovered) (BackupKey, error) {
	wrap, err := vaultmsg.OpenRelease(sessionKey.Key, attempt, body.Release)
	if err != nil {
		return BackupKey{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if wrap[0] != vaultmsg.WrapKey64 || [vaultmsg.WrapSize - 1 - keywrap.Size]byte(wrap[1+keywrap.Size:]) != [vaultmsg.WrapSize - 1 - keywrap.Size]byte{} {
		return BackupKey{}, fmt.Errorf("%w: wrapped key of type %d, which needs a newer version", ErrProtocol, wrap[0])
	}
	key, err := keywrap.Unwrap(exportKey.Key, [keywrap.Size]byte(wrap[1:]), o.binding(body.Generation))
	if err != nil {
		return BackupKey{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return BackupKey{Key: key}, nil
}

func (o *operation) binding(generation uint64) keywrap.Binding {
	return keywrap.Binding{Fleet: o.keys.Fleet, Account: o.account.Bytes(), Generation: generation}
}

// recovered notes the account and the registration that this device stands for
// from now on, and forgets the blind. A Store that fails must not keep the key
// from the person who has just proved the password.
func (o *operation) recovered() {
	at := o.c.state.At(o.keys.Fleet)
	if at.Registered == nil || !bytes.Equal(at.Registered.ID, o.status.Registration[:]) {
		o.adopt(&state.Registered{
			ID: o.status.Registration[:], BodyHash: o.status.BodyHash[:], Generation: o.status.Generation,
		})
	}
	at.Pending = nil // whatever became of it: this is what stands now
	if err := o.forgetBlind(); err != nil {
		o.c.cfg.Logger.Warn("the recovery could not be noted", "error", err)
	}
}

// adopt makes a registration the one that this device stands for. The caller
// saves.
func (o *operation) adopt(r *state.Registered) {
	st := o.c.state
	st.Issuer, st.Subject = o.account.Issuer, o.account.Subject
	at := st.At(o.keys.Fleet)
	at.Generation, at.Registered = r.Generation, r
}
