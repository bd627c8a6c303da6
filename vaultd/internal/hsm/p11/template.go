package p11

import (
	"encoding/asn1"
	"runtime"
	"unsafe"

	"github.com/miekg/pkcs11"

	"chatvault/vaultd/internal/hsm"
)

type attributes = []*pkcs11.Attribute

var attr = pkcs11.NewAttribute

// p256 is the DER of the curve's object identifier, 1.2.840.10045.3.1.7.
var p256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

func mechanism(kind uint, parameter any) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(kind, parameter)}
}

// May-flags of a key. Every one is written out, because modules differ in
// what they assume for those left out: SoftHSM assumes that a key may do all.
var (
	secretUses  = []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE}
	privateUses = []uint{pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_SIGN_RECOVER, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE}
	publicUses  = []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_VERIFY, pkcs11.CKA_VERIFY_RECOVER, pkcs11.CKA_WRAP, pkcs11.CKA_DERIVE}
)

// allowed is the list of may-flags of a key for its one use.
func allowed(use hsm.Use) []uint {
	switch use {
	case hsm.UseWrap:
		return []uint{pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP}
	case hsm.UseSeal:
		return []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT}
	case hsm.UseMAC, hsm.UseSign:
		return []uint{pkcs11.CKA_SIGN}
	case hsm.UseDH, hsm.UseDHX:
		return []uint{pkcs11.CKA_DERIVE}
	}
	return nil
}

func flags(all, set []uint) attributes {
	var out attributes
	for _, flag := range all {
		on := false
		for _, s := range set {
			on = on || s == flag
		}
		out = append(out, attr(flag, on))
	}
	return out
}

// guarded are the attributes of a key that never leaves the module and never
// changes: without MODIFIABLE=0 the user could turn on DECRYPT on the wrap
// key, without COPYABLE=0 make a copy that has it.
func guarded(token bool) attributes {
	return attributes{
		attr(pkcs11.CKA_TOKEN, token),
		attr(pkcs11.CKA_PRIVATE, true),
		attr(pkcs11.CKA_SENSITIVE, true),
		attr(pkcs11.CKA_EXTRACTABLE, false),
		attr(pkcs11.CKA_MODIFIABLE, false),
		attr(pkcs11.CKA_COPYABLE, false),
	}
}

// secretTemplate is for C_GenerateKey of a symmetric key of 32 bytes.
func secretTemplate(use hsm.Use, token bool) attributes {
	return append(append(guarded(token), attr(pkcs11.CKA_VALUE_LEN, 32)), flags(secretUses, allowed(use))...)
}

// privateTemplate and publicTemplate are for C_GenerateKeyPair on P-256.
func privateTemplate(use hsm.Use, token bool) attributes {
	return append(guarded(token), flags(privateUses, allowed(use))...)
}

func publicTemplate(use hsm.Use, token bool) attributes {
	var may []uint
	if use == hsm.UseSign {
		may = []uint{pkcs11.CKA_VERIFY}
	}
	return append(attributes{
		attr(pkcs11.CKA_TOKEN, token),
		attr(pkcs11.CKA_PRIVATE, false),
		attr(pkcs11.CKA_MODIFIABLE, false),
		attr(pkcs11.CKA_EC_PARAMS, p256),
	}, flags(publicUses, may)...)
}

// oprfPrivateTemplate is for the key pair of a record, a session object that
// lives until it is wrapped. EXTRACTABLE is what lets it be wrapped.
func oprfPrivateTemplate() attributes {
	return append(attributes{
		attr(pkcs11.CKA_TOKEN, false),
		attr(pkcs11.CKA_PRIVATE, true),
		attr(pkcs11.CKA_SENSITIVE, true),
		attr(pkcs11.CKA_EXTRACTABLE, true),
	}, flags(privateUses, []uint{pkcs11.CKA_DERIVE})...)
}

// unwrapTemplate is for C_UnwrapKey of that key. It repeats SENSITIVE and
// EXTRACTABLE of the wrap key's unwrap template, as it must.
func unwrapTemplate(extractable bool) attributes {
	return append(attributes{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
		attr(pkcs11.CKA_TOKEN, false),
		attr(pkcs11.CKA_PRIVATE, true),
		attr(pkcs11.CKA_SENSITIVE, !extractable),
		attr(pkcs11.CKA_EXTRACTABLE, extractable),
	}, flags(privateUses, []uint{pkcs11.CKA_DERIVE})...)
}

// shareTemplate is for the result of ECDH. SENSITIVE=0 and EXTRACTABLE=1 must
// both be said, else SoftHSM makes a share that cannot be read.
func shareTemplate() attributes {
	return attributes{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		attr(pkcs11.CKA_TOKEN, false),
		attr(pkcs11.CKA_PRIVATE, false),
		attr(pkcs11.CKA_SENSITIVE, false),
		attr(pkcs11.CKA_EXTRACTABLE, true),
		attr(pkcs11.CKA_VALUE_LEN, hsm.ShareSize),
	}
}

// ckAttribute is CK_ATTRIBUTE of PKCS#11 on systems whose C long is as wide as
// a pointer, which is every one that vaultd runs on (not Windows).
type ckAttribute struct {
	kind   uintptr
	value  unsafe.Pointer
	length uintptr
}

// withUnwrapTemplate calls f with the attribute CKA_UNWRAP_TEMPLATE
// {SENSITIVE=1, EXTRACTABLE=0}. The module then refuses to unwrap a key into
// anything that could be read, whoever asks: this is what stops a holder of
// the PIN from taking the OPRF keys of stolen records out of the HSM.
//
// The value is an array of CK_ATTRIBUTE, with pointers in it. miekg/pkcs11
// copies values as plain bytes, so that what they point to must stay where it
// is while f runs.
func withUnwrapTemplate(f func(*pkcs11.Attribute) error) error {
	bools := &[2]byte{1, 0}
	array := []ckAttribute{
		{pkcs11.CKA_SENSITIVE, unsafe.Pointer(&bools[0]), 1},
		{pkcs11.CKA_EXTRACTABLE, unsafe.Pointer(&bools[1]), 1},
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(bools)
	size := len(array) * int(unsafe.Sizeof(array[0]))
	raw := make([]byte, size)
	copy(raw, unsafe.Slice((*byte)(unsafe.Pointer(&array[0])), size))
	return f(attr(pkcs11.CKA_UNWRAP_TEMPLATE, raw))
}

// point reads CKA_EC_POINT: a DER octet string around the uncompressed point
// by the standard, the bare point in some modules.
func point(value []byte) []byte {
	if len(value) == hsm.PublicSize {
		return value // its first two bytes may look like DER
	}
	var inner []byte
	if rest, err := asn1.Unmarshal(value, &inner); err == nil && len(rest) == 0 {
		return inner
	}
	return value
}
