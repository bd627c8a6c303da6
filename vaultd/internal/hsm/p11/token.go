package p11

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"chatvault/vaultd/internal/hsm"
	"chatvault/vaultd/internal/hsm/pkcs11uri"
)

// findSlot returns the slot of the one token that the URI names.
func findSlot(api cryptoki, uri pkcs11uri.URI) (slot uint, info pkcs11.TokenInfo, err error) {
	slots, err := api.GetSlotList(true)
	if err != nil {
		return 0, info, fmt.Errorf("list slots: %w", err)
	}
	found := 0
	for _, candidate := range slots {
		token, err := api.GetTokenInfo(candidate)
		if err != nil || token.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue // an empty or broken slot is not the one that is looked for
		}
		if matches(uri, token) {
			slot, info = candidate, token
			found++
		}
	}
	switch found {
	case 0:
		return 0, info, errNoToken
	case 1:
		return slot, info, nil
	}
	return 0, info, fmt.Errorf("%w: %d tokens match the URI; add serial=", hsm.ErrConfig, found)
}

func matches(uri pkcs11uri.URI, token pkcs11.TokenInfo) bool {
	for _, pair := range [][2]string{
		{uri.Token, token.Label}, {uri.Serial, token.SerialNumber},
		{uri.Manufacturer, token.ManufacturerID}, {uri.Model, token.Model},
	} {
		if pair[0] != "" && pair[0] != pair[1] {
			return false
		}
	}
	return true
}

// login logs the user in on behalf of all sessions of the process. It is one
// try: tokens lock after a few wrong PINs, some for ever. When another part of
// the process is logged in to the token already, the PIN is not looked at.
func login(api cryptoki, session pkcs11.SessionHandle, info pkcs11.TokenInfo, pin string) error {
	switch {
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: the token says that the PIN is locked", hsm.ErrPIN)
	case info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w: the token would lock at the next wrong PIN, so it is not tried; "+
			"log in once with the vendor's tool", hsm.ErrPIN)
	}
	err := api.Login(session, pkcs11.CKU_USER, pin)
	if err == nil || errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		return nil
	}
	return fmt.Errorf("log in: %w", err)
}

// find returns the token objects of a class with a label.
func find(api cryptoki, session pkcs11.SessionHandle, class uint, label string) (found []pkcs11.ObjectHandle, err error) {
	err = api.FindObjectsInit(session, attributes{
		attr(pkcs11.CKA_CLASS, class), attr(pkcs11.CKA_LABEL, label), attr(pkcs11.CKA_TOKEN, true),
	})
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", label, err)
	}
	found, _, err = api.FindObjects(session, 8)
	if final := api.FindObjectsFinal(session); err == nil {
		err = final
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", label, err)
	}
	return found, nil
}

// class is the object class of the half of a key that is secret.
func class(key hsm.Key) uint {
	if key.Use().Asymmetric() {
		return pkcs11.CKO_PRIVATE_KEY
	}
	return pkcs11.CKO_SECRET_KEY
}

// keyring is what the token holds of the hierarchy.
type keyring struct {
	handles map[hsm.Key]pkcs11.ObjectHandle
	public  map[hsm.Key][]byte // uncompressed
}

// findKeys looks for every key. Sealing keys of epochs that are over may have
// been destroyed; all others, and one sealing key, must be there.
func findKeys(api cryptoki, session pkcs11.SessionHandle, s *settings) (keyring, error) {
	ring := keyring{map[hsm.Key]pkcs11.ObjectHandle{}, map[hsm.Key][]byte{}}
	var missing []hsm.Key
	seals := 0
	for _, key := range hsm.Keys() {
		found, err := find(api, session, class(key), s.label(key))
		if err != nil {
			return ring, err
		}
		switch {
		case len(found) > 1:
			return ring, fmt.Errorf("%w: %d keys are labelled %s", hsm.ErrUnfit, len(found), s.label(key))
		case len(found) == 0 && key.Use() != hsm.UseSeal:
			missing = append(missing, key)
			continue
		case len(found) == 0:
			continue
		}
		if key.Use() == hsm.UseSeal {
			seals++
		}
		if err := guardedIn(api, session, found[0]); err != nil {
			return ring, fmt.Errorf("key %s: %w", key, err)
		}
		ring.handles[key] = found[0]
		if key.Use().Asymmetric() {
			if ring.public[key], err = findPublic(api, session, s.label(key)); err != nil {
				return ring, err
			}
		}
	}
	if len(missing) > 0 || seals == 0 {
		return ring, fmt.Errorf("%w: the token lacks %v (%d sealing keys found); run init, or name the right token",
			hsm.ErrNoKey, missing, seals)
	}
	return ring, nil
}

func findPublic(api cryptoki, session pkcs11.SessionHandle, label string) ([]byte, error) {
	found, err := find(api, session, pkcs11.CKO_PUBLIC_KEY, label)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%w: %d public keys are labelled %s", hsm.ErrNoKey, len(found), label)
	}
	return readPoint(api, session, found[0])
}

// guardedIn refuses a key that could leave the module.
func guardedIn(api cryptoki, session pkcs11.SessionHandle, key pkcs11.ObjectHandle) error {
	safe, err := readGuards(api, session, key)
	if err != nil {
		return err
	}
	if !safe {
		return fmt.Errorf("%w: the key is not protected (SENSITIVE=0 or EXTRACTABLE=1)", hsm.ErrUnfit)
	}
	return nil
}

func readGuards(api cryptoki, session pkcs11.SessionHandle, key pkcs11.ObjectHandle) (safe bool, err error) {
	got, err := api.GetAttributeValue(session, key, attributes{
		attr(pkcs11.CKA_SENSITIVE, nil), attr(pkcs11.CKA_EXTRACTABLE, nil),
	})
	if err != nil {
		return false, fmt.Errorf("read attributes: %w", err)
	}
	return isTrue(got[0]) && isFalse(got[1]), nil
}

func isTrue(a *pkcs11.Attribute) bool  { return len(a.Value) == 1 && a.Value[0] == 1 }
func isFalse(a *pkcs11.Attribute) bool { return len(a.Value) == 1 && a.Value[0] == 0 }
