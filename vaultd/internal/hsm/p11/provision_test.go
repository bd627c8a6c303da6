package p11

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/hsmtest"
	"chatvault/vaultd/internal/hsm/pkcs11uri"
)

// objectCount counts all objects of the token.
func objectCount(t *testing.T, token hsmtest.Token) (count int) {
	t.Helper()
	raw(t, token, func(api *pkcs11.Ctx, session pkcs11.SessionHandle) {
		if err := api.FindObjectsInit(session, nil); err != nil {
			t.Fatal(err)
		}
		found, _, err := api.FindObjects(session, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if err := api.FindObjectsFinal(session); err != nil {
			t.Fatal(err)
		}
		count = len(found)
	})
	return count
}

// destroy takes the objects of one class and label out of the token.
func destroy(t *testing.T, token hsmtest.Token, class uint, label string) {
	t.Helper()
	raw(t, token, func(api *pkcs11.Ctx, session pkcs11.SessionHandle) {
		found, err := find(api, session, class, label)
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		if err := api.DestroyObject(session, found[0]); err != nil {
			t.Fatal(err)
		}
	})
}

// What every key must be, read back from the token: the flags are written out
// here, not taken from the templates that the keys were made with.
func TestProvisionedAttributes(t *testing.T) {
	token := provisioned(t)
	may := map[hsm.Use]string{
		hsm.UseWrap: "WRAP UNWRAP", hsm.UseSeal: "ENCRYPT DECRYPT", hsm.UseMAC: "SIGN",
		hsm.UseDH: "DERIVE", hsm.UseDHX: "DERIVE", hsm.UseSign: "SIGN",
	}
	names := map[string]uint{
		"TOKEN": pkcs11.CKA_TOKEN, "PRIVATE": pkcs11.CKA_PRIVATE, "SENSITIVE": pkcs11.CKA_SENSITIVE,
		"ALWAYS_SENSITIVE": pkcs11.CKA_ALWAYS_SENSITIVE, "NEVER_EXTRACTABLE": pkcs11.CKA_NEVER_EXTRACTABLE,
		"LOCAL": pkcs11.CKA_LOCAL, "EXTRACTABLE": pkcs11.CKA_EXTRACTABLE, "COPYABLE": pkcs11.CKA_COPYABLE,
		"MODIFIABLE": pkcs11.CKA_MODIFIABLE, "ENCRYPT": pkcs11.CKA_ENCRYPT, "DECRYPT": pkcs11.CKA_DECRYPT,
		"SIGN": pkcs11.CKA_SIGN, "VERIFY": pkcs11.CKA_VERIFY, "WRAP": pkcs11.CKA_WRAP,
		"UNWRAP": pkcs11.CKA_UNWRAP, "DERIVE": pkcs11.CKA_DERIVE, "SIGN_RECOVER": pkcs11.CKA_SIGN_RECOVER,
	}
	symmetric := "ENCRYPT DECRYPT SIGN VERIFY WRAP UNWRAP DERIVE"
	private := "DECRYPT SIGN SIGN_RECOVER UNWRAP DERIVE"
	raw(t, token, func(api *pkcs11.Ctx, session pkcs11.SessionHandle) {
		for _, key := range hsm.Keys() {
			found, err := find(api, session, class(key), DefaultPrefix+"."+string(key))
			if err != nil || len(found) != 1 {
				t.Fatalf("%s: %v, %v", key, found, err)
			}
			want := map[string]bool{
				"TOKEN": true, "PRIVATE": true, "SENSITIVE": true, "ALWAYS_SENSITIVE": true, "NEVER_EXTRACTABLE": true,
				"LOCAL": true, "EXTRACTABLE": false, "COPYABLE": false, "MODIFIABLE": false,
			}
			all := symmetric
			if key.Use().Asymmetric() {
				all = private
			}
			for _, flag := range strings.Fields(all) {
				want[flag] = false
			}
			for _, flag := range strings.Fields(may[key.Use()]) {
				want[flag] = true
			}
			for name, on := range want {
				got, err := api.GetAttributeValue(session, found[0], attributes{attr(names[name], nil)})
				if err != nil || isTrue(got[0]) != on || isFalse(got[0]) == on {
					t.Errorf("%s: %s is %v, %v, want %v", key, name, got, err, on)
				}
			}
		}
	})
	if got := objectCount(t, token); got != len(hsm.Keys())+4 {
		t.Errorf("%d objects, want %d keys and 4 public halves", got, len(hsm.Keys()))
	}
}

func TestProvisionOnce(t *testing.T) {
	token := provisioned(t)
	before := objectCount(t, token)
	err := Provision(t.Context(), Config{URI: token.URI})
	var exists *hsm.ExistsError
	if !errors.Is(err, hsm.ErrExists) || !errors.As(err, &exists) || exists.Partial() || len(exists.Present) != len(hsm.Keys()) {
		t.Errorf("again: %v, want ErrExists with all keys", err)
	}
	if after := objectCount(t, token); after != before {
		t.Errorf("%d objects before, %d after", before, after)
	}
	// Another prefix is another hierarchy, on the same token.
	other := changed(t, token, func(u *pkcs11uri.URI) { u.Object = "fleet-2" })
	if err := Provision(t.Context(), Config{URI: other}); err != nil {
		t.Fatalf("another prefix: %v", err)
	}
	a, b := opened(t, Config{URI: token.URI}), opened(t, Config{URI: other})
	pa, err := a.Public(t.Context(), hsm.Noise)
	if err != nil {
		t.Fatal(err)
	}
	if pb, err := b.Public(t.Context(), hsm.Noise); err != nil || bytes.Equal(pa, pb) {
		t.Errorf("two hierarchies share a key: %x, %v", pb, err)
	}
}

func TestProvisionPartial(t *testing.T) {
	token := provisioned(t)
	destroy(t, token, pkcs11.CKO_SECRET_KEY, DefaultPrefix+".seal-09")
	destroy(t, token, pkcs11.CKO_PRIVATE_KEY, DefaultPrefix+".noise") // its public half stays
	destroy(t, token, pkcs11.CKO_PRIVATE_KEY, DefaultPrefix+".audit")
	destroy(t, token, pkcs11.CKO_PUBLIC_KEY, DefaultPrefix+".audit")
	err := Provision(t.Context(), Config{URI: token.URI})
	var exists *hsm.ExistsError
	if !errors.As(err, &exists) || !exists.Partial() || len(exists.Missing) != 2 ||
		exists.Missing[0] != "seal-09" || exists.Missing[1] != hsm.Audit {
		t.Fatalf("%v, want seal-09 and audit missing", err)
	}
	for _, word := range []string{"some keys but not all", "missing: seal-09 audit", "initialise it again"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in: %v", word, err)
		}
	}
	if _, err := Open(t.Context(), Config{URI: token.URI}); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("Open: %v, want ErrNoKey", err)
	}
}

// An epoch that is over has no key; everything else goes on.
func TestOpenWithoutAPastEpoch(t *testing.T) {
	token := provisioned(t)
	destroy(t, token, pkcs11.CKO_SECRET_KEY, DefaultPrefix+".seal-01")
	m := opened(t, Config{URI: token.URI})
	if _, err := m.Seal(t.Context(), 1, nil, nil); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("Seal in a past epoch: %v, want ErrNoKey", err)
	}
	if _, err := m.Seal(t.Context(), 2, nil, nil); err != nil {
		t.Error(err)
	}
}

// Keys that could leave, or that there are two of, are not served with.
func TestOpenRefusesKeys(t *testing.T) {
	for name, change := range map[string]attributes{
		"extractable": {attr(pkcs11.CKA_EXTRACTABLE, true)},
		"readable":    {attr(pkcs11.CKA_SENSITIVE, false)},
		"a second":    nil,
	} {
		t.Run(name, func(t *testing.T) {
			token := provisioned(t)
			label := DefaultPrefix + ".lookup"
			if change != nil {
				destroy(t, token, pkcs11.CKO_SECRET_KEY, label)
			}
			raw(t, token, func(api *pkcs11.Ctx, session pkcs11.SessionHandle) {
				template := append(secretTemplate(hsm.UseMAC, true), attr(pkcs11.CKA_LABEL, label))
				for _, a := range change {
					template = append(without(template, a.Type), a)
				}
				if _, err := api.GenerateKey(session, mechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, nil), template); err != nil {
					t.Fatal(err)
				}
			})
			if _, err := Open(t.Context(), Config{URI: token.URI}); !errors.Is(err, hsm.ErrUnfit) {
				t.Errorf("%v, want ErrUnfit", err)
			}
		})
	}
}

// Whichever call fails, nothing stays on the token, and the next try works.
func TestProvisionFailsCleanly(t *testing.T) {
	token := hsmtest.NewSoftHSM(t)
	s := &shim{}
	run := func(ctx context.Context) error {
		return provision(ctx, settingsOf(t, Config{URI: token.URI}, s.through))
	}
	alone(t, settingsOf(t, Config{URI: token.URI}, load).uri.ModulePath)
	clean := func(name string, err, want error) {
		t.Helper()
		s.on(nil)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if count := objectCount(t, token); count != 0 {
			t.Fatalf("%s: %d objects stay", name, count)
		}
	}
	for _, nth := range []int{0, 20, 33} { // the wrap key, a seal key, lookup
		made := 0
		s.on(func(call string, _ pkcs11.SessionHandle) error {
			// The probe makes three symmetric keys.
			if call == "GenerateKey" {
				if made++; made == 3+nth+1 {
					return pkcs11.Error(pkcs11.CKR_DEVICE_MEMORY)
				}
			}
			return nil
		})
		clean("device full", run(t.Context()), hsm.ErrUnavailable)
	}

	// Made, but the answer was lost.
	s.generated = func(_ pkcs11.SessionHandle, a attributes) error {
		if labelled(a, DefaultPrefix+".seal-05") {
			return pkcs11.Error(pkcs11.CKR_DEVICE_MEMORY)
		}
		return nil
	}
	clean("made without an answer", run(t.Context()), hsm.ErrUnavailable)
	s.generated = nil

	s.generate = func(a attributes) attributes { // only token objects, to get past the probe
		if !isTrue(a[0]) {
			return a
		}
		return append(without(a, pkcs11.CKA_COPYABLE), attr(pkcs11.CKA_COPYABLE, true))
	}
	clean("COPYABLE ignored", run(t.Context()), hsm.ErrUnfit)
	s.generate = nil

	ctx, cancel := context.WithCancel(t.Context())
	s.on(func(call string, _ pkcs11.SessionHandle) error {
		if call == "GenerateKeyPair" {
			cancel()
		}
		return nil
	})
	clean("cancelled", run(ctx), context.Canceled)

	if err := run(t.Context()); err != nil {
		t.Errorf("at last: %v", err)
	}
}

func labelled(a attributes, label string) bool {
	for _, attribute := range a {
		if attribute.Type == pkcs11.CKA_LABEL && string(attribute.Value) == label {
			return true
		}
	}
	return false
}

// Two inits at a time, both of which saw an empty token.
func TestProvisionRace(t *testing.T) {
	token := hsmtest.NewSoftHSM(t)
	s := &shim{}
	settings := settingsOf(t, Config{URI: token.URI}, s.through)
	alone(t, settings.uri.ModulePath)
	s.generated = func(session pkcs11.SessionHandle, a attributes) error {
		if !labelled(a, DefaultPrefix+".lookup") {
			return nil
		}
		_, err := s.cryptoki.GenerateKey(session, mechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, nil), a)
		return err
	}
	if err := provision(t.Context(), settings); !errors.Is(err, hsm.ErrExists) || !strings.Contains(err.Error(), "same time") {
		t.Errorf("%v, want ErrExists", err)
	}
}

func TestProbeLeavesNothing(t *testing.T) {
	token := hsmtest.NewSoftHSM(t)
	for range 3 {
		if report, err := Probe(t.Context(), Config{URI: token.URI}); err != nil || !report.Fit() {
			t.Fatal(err, report)
		}
	}
	if count := objectCount(t, token); count != 0 {
		t.Errorf("%d objects stay", count)
	}
}

// What the report says, as people read it.
func TestProbeNamesWhatIsMissing(t *testing.T) {
	token := hsmtest.NewSoftHSM(t)
	s := &shim{}
	settings := settingsOf(t, Config{URI: token.URI}, s.through)
	alone(t, settings.uri.ModulePath)
	lib, err := acquire(settings.uri.ModulePath, settings.load)
	if err != nil {
		t.Fatal(err)
	}
	defer lib.release()
	s.on(func(call string, _ pkcs11.SessionHandle) error {
		if call == "DeriveKey" {
			return pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID)
		}
		return nil
	})
	report, err := probe(t.Context(), &settings, lib)
	if err != nil || report.Fit() {
		t.Fatal(err, report)
	}
	text := report.String()
	for _, want := range []string{"MISSING evaluation", "MISSING static key agreement", "CKR_MECHANISM_INVALID", "ok      signing", "does not fit"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}

	// A weakness is told, and does not make a module unfit.
	s.on(nil)
	s.generate = func(a attributes) attributes { return without(a, pkcs11.CKA_UNWRAP_TEMPLATE) }
	report, err = probe(t.Context(), &settings, lib)
	if err != nil || !report.Fit() || !strings.Contains(report.String(), "weak    unwrap template honoured") {
		t.Errorf("%v\n%v", err, report)
	}
}
