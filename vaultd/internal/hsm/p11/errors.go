package p11

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"chatvault/vaultd/internal/hsm"
)

// errNoToken: no token of the module matches the URI. Modules notice tokens
// that come and go only when they are initialised again.
var errNoToken = errors.New("no token matches the URI")

// doubt is an error that either the caller's input or a failing device can
// have caused: SoftHSM answers CKR_GENERAL_ERROR to associated data that does
// not fit as well as to a lost token, and a product that does not fit its
// public key comes from a wrong record or from a device that computes wrongly.
type doubt struct{ err error }

func (d *doubt) Error() string { return d.err.Error() }
func (d *doubt) Unwrap() error { return d.err }

// doubtful marks the return codes that bad input may cause.
func doubtful(err error) error {
	if isOneOf(err, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED,
		pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE,
		pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE,
		pkcs11.CKR_DATA_INVALID, pkcs11.CKR_DATA_LEN_RANGE, ckrAEADDecryptFailed) {
		return &doubt{err}
	}
	return err
}

// ckrAEADDecryptFailed is CKR_AEAD_DECRYPT_FAILED of PKCS#11 3.0, which the
// headers of miekg/pkcs11 are too old for.
const ckrAEADDecryptFailed = 0x42

// final returns the error if another try cannot change it, else nil: then it
// is a fault, to be met by recovering the module.
//
// ErrUnfit is not final. Open saw the module do everything, and a login that
// ends under a call makes SoftHSM deny what it can do: it answers ECDH with
// CKR_KEY_TYPE_INCONSISTENT.
func final(err error) error {
	for _, known := range []error{
		hsm.ErrIntegrity, hsm.ErrPoint, hsm.ErrUnavailable, hsm.ErrPIN, hsm.ErrNoKey,
		hsm.ErrExists, hsm.ErrConfig, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, known) {
			return err
		}
	}
	if isOneOf(err, pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE,
		pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_USER_PIN_NOT_INITIALIZED) {
		return fmt.Errorf("%w: %w", hsm.ErrPIN, err)
	}
	return nil
}

// settle gives every error that leaves the package a type.
func settle(err error) error {
	if err == nil || errors.Is(err, hsm.ErrUnfit) {
		return err
	}
	if known := final(err); known != nil {
		return known
	}
	if isOneOf(err, pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID,
		pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED,
		pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_KEY_SIZE_RANGE, pkcs11.CKR_KEY_UNEXTRACTABLE,
		pkcs11.CKR_KEY_NOT_WRAPPABLE, pkcs11.CKR_DOMAIN_PARAMS_INVALID,
		pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
		pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_ATTRIBUTE_SENSITIVE,
		pkcs11.CKR_TEMPLATE_INCOMPLETE, pkcs11.CKR_TEMPLATE_INCONSISTENT,
		pkcs11.CKR_TOKEN_WRITE_PROTECTED) {
		return fmt.Errorf("%w: %w", hsm.ErrUnfit, err)
	}
	return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
}

// isOneOf says whether err is one of these return codes.
func isOneOf(err error, codes ...uint) bool {
	var code pkcs11.Error
	return errors.As(err, &code) && slices.Contains(codes, uint(code))
}
