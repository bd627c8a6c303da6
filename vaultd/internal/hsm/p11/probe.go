package p11

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"chatvault/protocol/oprf"
	"chatvault/vaultd/internal/hsm"
)

// Probe tries on the module everything that a vault does, with session
// objects that are gone afterwards, and says what is missing. The error is for
// a module, token or PIN that could not be tried at all.
func Probe(ctx context.Context, config Config) (hsm.Report, error) {
	s, err := config.settings()
	if err != nil {
		return hsm.Report{}, err
	}
	defer s.pin.Wipe()
	lib, err := acquire(s.uri.ModulePath, s.load)
	if err != nil {
		return hsm.Report{}, err
	}
	report, err := probe(ctx, &s, lib)
	return report, errors.Join(err, lib.release())
}

func probe(ctx context.Context, s *settings, lib *library) (report hsm.Report, err error) {
	err = withVisit(ctx, s, lib, 0, true, func(v *visit) error {
		p := &prober{visit: v}
		p.run()
		p.cleanUp()
		report = p.report
		return p.fault
	})
	return report, err
}

// A prober fills a report. Checks whose prerequisite failed are not tried.
type prober struct {
	*visit
	report hsm.Report
	made   []pkcs11.ObjectHandle
	fault  error // the device went away: nothing was learnt

	kek     pkcs11.ObjectHandle
	wrapped []byte
	public  []byte // compressed
}

func (p *prober) run() {
	p.describe()
	if p.needed("wrapping key (AES, unwrap template)", p.makeWrap) &&
		p.needed("P-256 keys wrapped (AES key wrap)", p.wrapKey) {
		p.needed("evaluation (unwrap, ECDH)", p.evaluate)
		p.needed("tampered wrapped keys refused", p.tamper)
		p.advisory("unwrap template honoured", p.extract)
		p.advisory("MODIFIABLE=0 honoured", p.modify)
	}
	p.needed("sealing (AES-GCM with AAD)", p.sealing)
	p.needed("HMAC-SHA256", p.mac)
	p.needed("static key agreement (ECDH)", p.agree)
	p.needed("signing (ECDSA)", p.signing)
	p.needed("session objects destroyed", p.destroy)
}

func (p *prober) describe() {
	if info, err := p.api.GetInfo(); err == nil {
		p.report.Module = fmt.Sprintf("%s, %s %d.%d, PKCS#11 %d.%d", info.ManufacturerID, info.LibraryDescription,
			info.LibraryVersion.Major, info.LibraryVersion.Minor, info.CryptokiVersion.Major, info.CryptokiVersion.Minor)
	}
	p.report.Token = fmt.Sprintf("%s, %s, serial %s", p.token.Label, p.token.Model, p.token.SerialNumber)
}

func (p *prober) needed(name string, f func() (string, error)) bool   { return p.try(name, false, f) }
func (p *prober) advisory(name string, f func() (string, error)) bool { return p.try(name, true, f) }

func (p *prober) try(name string, advisory bool, f func() (string, error)) bool {
	if p.fault != nil {
		return false
	}
	detail, err := f()
	if lost(err) {
		p.fault = fmt.Errorf("probe %s: %w", name, err)
		return false
	}
	if err != nil {
		detail = err.Error()
	}
	p.report.Checks = append(p.report.Checks, hsm.CheckResult{Name: name, OK: err == nil, Advisory: advisory, Detail: detail})
	return err == nil
}

// makeWrap makes a wrapping key like the one that init makes.
func (p *prober) makeWrap() (string, error) {
	err := withUnwrapTemplate(func(template *pkcs11.Attribute) (err error) {
		p.kek, err = p.secret(hsm.UseWrap, template)
		return err
	})
	return "AES-256", err
}

func (p *prober) secret(use hsm.Use, more ...*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	kind := uint(pkcs11.CKM_AES_KEY_GEN)
	if use == hsm.UseMAC {
		kind = pkcs11.CKM_GENERIC_SECRET_KEY_GEN
	}
	key, err := p.api.GenerateKey(p.session, mechanism(kind, nil), append(secretTemplate(use, false), more...))
	if err != nil {
		return 0, fmt.Errorf("generate key: %w", err)
	}
	p.made = append(p.made, key)
	return key, guardedIn(p.api, p.session, key)
}

// pair makes a key pair and returns the uncompressed public key.
func (p *prober) pair(use hsm.Use) (private pkcs11.ObjectHandle, public []byte, err error) {
	pub, private, err := p.api.GenerateKeyPair(p.session, mechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil),
		publicTemplate(use, false), privateTemplate(use, false))
	if err != nil {
		return 0, nil, fmt.Errorf("generate key pair: %w", err)
	}
	p.made = append(p.made, pub, private)
	if public, err = readPoint(p.api, p.session, pub); err != nil {
		return 0, nil, err
	}
	return private, public, guardedIn(p.api, p.session, private)
}

func (p *prober) wrapKey() (detail string, err error) {
	p.wrapped, p.public, err = p.newOPRFKey(p.kek)
	return fmt.Sprintf("%d bytes", len(p.wrapped)), err
}

// evaluate compares k(sG) of the module with s(kG) of our own.
func (p *prober) evaluate() (string, error) {
	key, err := p.unwrap(p.kek, p.wrapped)
	if err != nil {
		return "", err
	}
	p.made = append(p.made, key)
	s, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	var scalar oprf.PrivateKey
	copy(scalar.B[:], s.Bytes())
	want, err := oprf.Evaluate(scalar, p.public)
	if err != nil {
		return "", err
	}
	peer, err := oprf.Compress(s.PublicKey().Bytes())
	if err != nil {
		return "", err
	}
	got, err := p.multiply(key, p.public, peer)
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("wrong result")
	}
	return "unwrapped keys stay SENSITIVE, not EXTRACTABLE", err
}

func (p *prober) tamper() (string, error) {
	for _, at := range []int{0, len(p.wrapped) / 2, len(p.wrapped) - 1} {
		bad := bytes.Clone(p.wrapped)
		bad[at] ^= 1
		key, err := p.unwrap(p.kek, bad)
		if err == nil {
			p.made = append(p.made, key)
			return "", fmt.Errorf("byte %d of a wrapped key was changed, and it was unwrapped", at)
		}
		if lost(err) {
			return "", err
		}
	}
	return "", nil
}

// extract does what a thief of the PIN would do.
func (p *prober) extract() (string, error) {
	key, err := p.api.UnwrapKey(p.session, mechanism(pkcs11.CKM_AES_KEY_WRAP, nil), p.kek, p.wrapped, unwrapTemplate(true))
	if lost(err) {
		return "", err
	}
	if err == nil {
		p.made = append(p.made, key)
		return "", errors.New("a holder of the PIN can unwrap an OPRF key as EXTRACTABLE and read it")
	}
	return "unwrapping as EXTRACTABLE is refused", nil
}

func (p *prober) modify() (string, error) {
	err := p.api.SetAttributeValue(p.session, p.kek, attributes{attr(pkcs11.CKA_DECRYPT, true)})
	if lost(err) {
		return "", err
	}
	if err == nil {
		return "", errors.New("the wrapping key could be changed to decrypt")
	}
	return "", nil
}

func (p *prober) sealing() (string, error) {
	key, err := p.secret(hsm.UseSeal)
	if err != nil {
		return "", err
	}
	aad, text := []byte("associated data"), bytes.Repeat([]byte("text "), 200)
	sealed, err := p.seal(key, aad, text)
	if err != nil {
		return "", err
	}
	opened, err := p.open(key, aad, sealed)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(opened, text) {
		return "", errors.New("opened to another text")
	}
	if _, err := p.open(key, []byte("other data"), sealed); err == nil {
		return "", errors.New("opened under other associated data")
	} else if lost(err) {
		return "", err
	}
	return "AES-256, nonce 12, tag 16", nil
}

func (p *prober) mac() (string, error) {
	key, err := p.secret(hsm.UseMAC)
	if err != nil {
		return "", err
	}
	var macs [2][]byte
	for i := range macs {
		if macs[i], err = p.sign(pkcs11.CKM_SHA256_HMAC, key, canaryLabel, hsm.MACSize); err != nil {
			return "", err
		}
	}
	if !bytes.Equal(macs[0], macs[1]) {
		return "", errors.New("two MACs of one text differ")
	}
	return "", nil
}

func (p *prober) agree() (string, error) {
	private, public, err := p.pair(hsm.UseDHX)
	if err != nil {
		return "", err
	}
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	known, err := ecdh.P256().NewPublicKey(public)
	if err != nil {
		return "", err
	}
	want, err := peer.ECDH(known)
	if err != nil {
		return "", err
	}
	got, err := p.ecdh(private, peer.PublicKey().Bytes())
	if err == nil && !bytes.Equal(got[:], want) {
		err = errors.New("wrong result")
	}
	return "CKD_NULL, share readable", err
}

func (p *prober) signing() (string, error) {
	private, public, err := p.pair(hsm.UseSign)
	if err != nil {
		return "", err
	}
	digest := make([]byte, hsm.DigestSize)
	rand.Read(digest)
	sig, err := p.sign(pkcs11.CKM_ECDSA, private, digest, hsm.SignatureSize)
	if err == nil && !verify(public, digest, sig) {
		err = errors.New("the signature does not verify")
	}
	return "P-256", err
}

func (p *prober) destroy() (string, error) {
	if len(p.made) == 0 {
		return "", errors.New("not tried: nothing could be made")
	}
	object := p.made[0]
	if err := p.api.DestroyObject(p.session, object); err != nil {
		return "", fmt.Errorf("destroy: %w", err)
	}
	p.made = p.made[1:]
	if _, err := p.api.GetAttributeValue(p.session, object, attributes{attr(pkcs11.CKA_CLASS, nil)}); err == nil {
		return "", errors.New("a destroyed object can still be read")
	}
	return "", nil
}

// cleanUp destroys what is left. What cannot be destroyed goes with the
// session.
func (p *prober) cleanUp() {
	for _, object := range p.made {
		p.api.DestroyObject(p.session, object)
	}
	p.lib.created.Add(int64(len(p.made)))
}
