package p11

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// A visit is a session on the token, logged in, outside any pool.
type visit struct {
	call
	token pkcs11.TokenInfo
}

// withVisit runs f in a session of its own, which is closed afterwards; that
// ends all session objects that f made. Faults of the device restart the
// module and run f again when again is set.
func withVisit(ctx context.Context, s *settings, lib *library, flags uint, again bool, f func(*visit) error) error {
	for try := 0; ; try++ {
		began, generation, err := visitOnce(ctx, s, lib, flags, f)
		retry := lost(err) && (again || !began)
		if !retry || try == maxRetries {
			return settle(err)
		}
		if _, err := lib.recover(generation); err != nil {
			return fmt.Errorf("initialise: %w", settle(err))
		}
	}
}

func visitOnce(ctx context.Context, s *settings, lib *library, flags uint, f func(*visit) error) (began bool, generation uint64, err error) {
	if err := ctx.Err(); err != nil {
		return false, 0, err
	}
	lib.drain.RLock()
	defer lib.drain.RUnlock()
	generation = lib.generation
	slot, info, err := findSlot(lib.api, s.uri)
	if err != nil {
		return false, generation, err
	}
	session, err := lib.api.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|flags)
	if err != nil {
		return false, generation, fmt.Errorf("open session: %w", err)
	}
	defer lib.api.CloseSession(session)
	if err := login(lib.api, session, info, string(s.pin)); err != nil {
		return false, generation, err
	}
	return true, generation, f(&visit{call{api: lib.api, lib: lib, session: session}, info})
}

// lost says that the device or the login went away, and so that the same call
// may succeed on a module that was initialised again.
func lost(err error) bool {
	return errors.Is(err, errNoToken) || isOneOf(err,
		pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_SLOT_ID_INVALID,
		pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_TOKEN_NOT_PRESENT,
		pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
		pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
		pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID, pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID)
}
