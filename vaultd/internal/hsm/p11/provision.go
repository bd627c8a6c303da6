package p11

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"chatvault/vaultd/internal/hsm"
)

// Provision makes all keys of the hierarchy on the token, once. It refuses
// with an *hsm.ExistsError (ErrExists) if the token holds any of them, and
// with ErrUnfit if the module does not pass the probe or does not keep the
// attributes that a key was made with. When it fails, it destroys what it
// made; if that fails too, the error says so.
func Provision(ctx context.Context, config Config) error {
	s, err := config.settings()
	if err != nil {
		return err
	}
	return provision(ctx, s)
}

func provision(ctx context.Context, s settings) error {
	defer s.pin.Wipe()
	lib, err := acquire(s.uri.ModulePath, s.load)
	if err != nil {
		return err
	}
	report, err := probe(ctx, &s, lib)
	if err == nil && !report.Fit() {
		err = fmt.Errorf("%w: %s", hsm.ErrUnfit, report.Why())
	}
	if err == nil {
		// Never again by itself: half of the keys may be there.
		err = withVisit(ctx, &s, lib, pkcs11.CKF_RW_SESSION, false, func(v *visit) error {
			p := &provisioner{visit: v, settings: &s}
			return p.run(ctx)
		})
	}
	return errors.Join(err, lib.release())
}

type provisioner struct {
	*visit
	*settings
	made []pkcs11.ObjectHandle
}

func (p *provisioner) run(ctx context.Context) error {
	if err := p.refuseExisting(); err != nil {
		return err
	}
	for _, key := range hsm.Keys() {
		err := ctx.Err()
		if err == nil {
			err = p.make(key)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("make key %s: %w", key, err), p.undo(key))
		}
	}
	return p.alone()
}

func (p *provisioner) refuseExisting() error {
	var exists hsm.ExistsError
	for _, key := range hsm.Keys() {
		held, err := p.holds(key)
		if err != nil {
			return err
		}
		if held {
			exists.Present = append(exists.Present, key)
		} else {
			exists.Missing = append(exists.Missing, key)
		}
	}
	if len(exists.Present) > 0 {
		return &exists
	}
	return nil
}

// holds looks for the key, and for a public half that was left alone.
func (p *provisioner) holds(key hsm.Key) (bool, error) {
	classes := []uint{class(key)}
	if key.Use().Asymmetric() {
		classes = append(classes, pkcs11.CKO_PUBLIC_KEY)
	}
	for _, class := range classes {
		found, err := find(p.api, p.session, class, p.label(key))
		if err != nil || len(found) > 0 {
			return len(found) > 0, err
		}
	}
	return false, nil
}

func (p *provisioner) make(key hsm.Key) error {
	switch use := key.Use(); use {
	case hsm.UseWrap:
		return withUnwrapTemplate(func(template *pkcs11.Attribute) error {
			return p.makeSecret(key, pkcs11.CKM_AES_KEY_GEN, template)
		})
	case hsm.UseSeal:
		return p.makeSecret(key, pkcs11.CKM_AES_KEY_GEN)
	case hsm.UseMAC:
		return p.makeSecret(key, pkcs11.CKM_GENERIC_SECRET_KEY_GEN)
	default:
		return p.makePair(key)
	}
}

func (p *provisioner) named(key hsm.Key, template attributes) attributes {
	return append(template, attr(pkcs11.CKA_LABEL, p.label(key)), attr(pkcs11.CKA_ID, p.label(key)))
}

func (p *provisioner) makeSecret(key hsm.Key, kind uint, more ...*pkcs11.Attribute) error {
	template := p.named(key, secretTemplate(key.Use(), true))
	handle, err := p.api.GenerateKey(p.session, mechanism(kind, nil), append(template, more...))
	if err != nil {
		return fmt.Errorf("generate: %w", err)
	}
	p.made = append(p.made, handle)
	return p.kept(handle, template)
}

func (p *provisioner) makePair(key hsm.Key) error {
	public := p.named(key, publicTemplate(key.Use(), true))
	private := p.named(key, privateTemplate(key.Use(), true))
	pub, priv, err := p.api.GenerateKeyPair(p.session, mechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil), public, private)
	if err != nil {
		return fmt.Errorf("generate: %w", err)
	}
	p.made = append(p.made, pub, priv)
	if err := p.kept(pub, public); err != nil {
		return fmt.Errorf("public half: %w", err)
	}
	return p.kept(priv, private)
}

// kept reads back what a key was made with: modules drop attributes that they
// do not know without a word.
func (p *provisioner) kept(handle pkcs11.ObjectHandle, template attributes) error {
	got, err := p.api.GetAttributeValue(p.session, handle, template)
	if err != nil {
		return fmt.Errorf("read attributes: %w", err)
	}
	for i, want := range template {
		if !bytes.Equal(got[i].Value, want.Value) {
			return fmt.Errorf("%w: attribute 0x%x is %x, not %x", hsm.ErrUnfit, want.Type, got[i].Value, want.Value)
		}
	}
	return nil
}

// undo destroys what was made. The key that failed is looked for by its label:
// the module may have made it before it failed to say so.
func (p *provisioner) undo(failed hsm.Key) error {
	left := 0
	for _, handle := range p.made {
		if err := p.api.DestroyObject(p.session, handle); err != nil {
			left++
		}
	}
	for _, class := range []uint{class(failed), pkcs11.CKO_PUBLIC_KEY} {
		found, err := find(p.api, p.session, class, p.label(failed))
		if err != nil {
			left++
		}
		for _, handle := range found {
			if err := p.api.DestroyObject(p.session, handle); err != nil {
				left++
			}
		}
	}
	if left > 0 {
		return fmt.Errorf("the token may hold some of the keys now (%d calls failed while undoing): initialise it again", left)
	}
	return nil
}

// alone checks that no other init made keys at the same time.
func (p *provisioner) alone() error {
	for _, key := range hsm.Keys() {
		found, err := find(p.api, p.session, class(key), p.label(key))
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("%w: the token holds %d keys labelled %s, so another init ran at the same time; "+
				"initialise the token again", hsm.ErrExists, len(found), p.label(key))
		}
	}
	return nil
}
