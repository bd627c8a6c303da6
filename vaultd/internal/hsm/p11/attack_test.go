package p11

import (
	"errors"
	"testing"

	"github.com/miekg/pkcs11"

	"chatvault/vaultd/internal/hsm"
)

// A thief of the PIN and of a record uses the token with a program of his
// own. He can evaluate; he must not get a key out.
func TestPINHolderCannotTakeKeysOut(t *testing.T) {
	token := provisioned(t)
	m := opened(t, Config{URI: token.URI})
	wrapped, _, err := m.NewOPRFKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw(t, token, func(api *pkcs11.Ctx, session pkcs11.SessionHandle) {
		handles := map[hsm.Key]pkcs11.ObjectHandle{}
		for _, key := range hsm.Keys() {
			found, err := find(api, session, class(key), DefaultPrefix+"."+string(key))
			if err != nil || len(found) != 1 {
				t.Fatal(found, err)
			}
			handles[key] = found[0]
		}
		refused := func(name string, err error, codes ...uint) {
			t.Helper()
			for _, code := range codes {
				if errors.Is(err, pkcs11.Error(code)) {
					return
				}
			}
			t.Errorf("%s: %v, want one of %v", name, err, codes)
		}
		kek := handles[hsm.Wrap]
		wrap := mechanism(pkcs11.CKM_AES_KEY_WRAP, nil)

		// Unwrap a record's key so that it can be read.
		for name, change := range map[string]attributes{
			"extractable": {attr(pkcs11.CKA_EXTRACTABLE, true)},
			"readable":    {attr(pkcs11.CKA_SENSITIVE, false)},
			"both":        {attr(pkcs11.CKA_EXTRACTABLE, true), attr(pkcs11.CKA_SENSITIVE, false)},
			"as a generic secret": {attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
				attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), attr(pkcs11.CKA_EXTRACTABLE, true)},
		} {
			template := unwrapTemplate(false)
			for _, a := range change {
				template = append(without(template, a.Type), a)
			}
			_, err := api.UnwrapKey(session, wrap, kek, wrapped, template)
			refused("unwrap "+name, err, pkcs11.CKR_TEMPLATE_INCONSISTENT)
		}
		// Unwrap it as the vault does, then read, export or loosen it.
		key, err := api.UnwrapKey(session, wrap, kek, wrapped, unwrapTemplate(false))
		if err != nil {
			t.Fatal(err)
		}
		_, err = api.GetAttributeValue(session, key, attributes{attr(pkcs11.CKA_VALUE, nil)})
		refused("read an unwrapped key", err, pkcs11.CKR_ATTRIBUTE_SENSITIVE)
		_, err = api.WrapKey(session, wrap, kek, key)
		refused("wrap an unwrapped key", err, pkcs11.CKR_KEY_UNEXTRACTABLE)
		refused("loosen an unwrapped key", api.SetAttributeValue(session, key, attributes{attr(pkcs11.CKA_EXTRACTABLE, true)}),
			pkcs11.CKR_ATTRIBUTE_READ_ONLY)

		// Decrypt the blob with the wrap key, or with a copy that may.
		ecb := mechanism(pkcs11.CKM_AES_ECB, nil)
		refused("decrypt with the wrap key", api.DecryptInit(session, ecb, kek), pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED)
		for _, key := range hsm.Keys() {
			name, handle := string(key), handles[key]
			_, err := api.GetAttributeValue(session, handle, attributes{attr(pkcs11.CKA_VALUE, nil)})
			refused("read "+name, err, pkcs11.CKR_ATTRIBUTE_SENSITIVE)
			_, err = api.WrapKey(session, wrap, kek, handle)
			refused("wrap "+name, err, pkcs11.CKR_KEY_UNEXTRACTABLE)
			for _, flag := range []uint{pkcs11.CKA_DECRYPT, pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_COPYABLE} {
				refused("modify "+name, api.SetAttributeValue(session, handle, attributes{attr(flag, true)}),
					pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_ACTION_PROHIBITED)
			}
			_, err = api.CopyObject(session, handle, attributes{attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_DECRYPT, true)})
			refused("copy "+name, err, pkcs11.CKR_ACTION_PROHIBITED)
		}
	})
}
