package p11

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"chatvault/vaultd/internal/hsm"
)

// A library is one loaded PKCS#11 module. Its state belongs to the process:
// C_Finalize ends the sessions of everybody who uses it. So all users of a
// path share one library, and learn from its generation that their sessions
// and handles are gone.
type library struct {
	path string   // static after construction
	api  cryptoki // static after construction

	// drain is held for reading during calls, for writing to initialise and
	// finalise: a module must not be finalised under a call.
	drain sync.RWMutex

	// guarded by drain
	users      int
	generation uint64

	// created counts session objects since the module was initialised.
	created atomic.Int64
}

// libraries are never unloaded: modules start threads and exit handlers that
// do not survive it.
var libraries = struct {
	sync.Mutex
	byPath map[string]*library
}{byPath: map[string]*library{}}

// loader makes a cryptoki from a path.
type loader func(path string) (cryptoki, error)

func load(path string) (cryptoki, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: PKCS#11 module: %w", hsm.ErrConfig, err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: PKCS#11 module %s is not a file", hsm.ErrConfig, path)
	}
	api := pkcs11.New(path)
	if api == nil {
		return nil, fmt.Errorf("%w: %s cannot be loaded as a PKCS#11 module", hsm.ErrConfig, path)
	}
	return api, nil
}

// acquire loads the module at path if need be, and initialises it for its
// first user. Each acquire needs one release.
func acquire(path string, load loader) (*library, error) {
	libraries.Lock()
	defer libraries.Unlock()
	l := libraries.byPath[path]
	if l == nil {
		api, err := load(path)
		if err != nil {
			return nil, err
		}
		l = &library{path: path, api: api}
		libraries.byPath[path] = l
	}
	l.drain.Lock()
	defer l.drain.Unlock()
	if l.users == 0 {
		if err := l.initialize(); err != nil {
			return nil, fmt.Errorf("%w: initialise %s: %w", hsm.ErrUnavailable, path, err)
		}
	}
	l.users++
	return l, nil
}

// release gives up one acquire; the last one finalises the module.
func (l *library) release() error {
	l.drain.Lock()
	defer l.drain.Unlock()
	l.users--
	if l.users > 0 {
		return nil
	}
	if err := l.api.Finalize(); err != nil {
		return fmt.Errorf("finalise: %w", err)
	}
	return nil
}

// recover finalises and initialises the module, unless somebody did since
// generation, and says whether it did. This is what brings back a token that vanished, and a login
// that another session ended; it also frees what the module leaked.
func (l *library) recover(generation uint64) (bool, error) {
	l.drain.Lock()
	defer l.drain.Unlock()
	if l.generation != generation {
		return false, nil
	}
	return true, l.restart()
}

// restart is recover with drain held for writing.
func (l *library) restart() error {
	l.api.Finalize() // when it fails, Initialize says what state it left
	return l.initialize()
}

func (l *library) initialize() error {
	err := l.api.Initialize()
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		// Whatever is left from before must go, or its handles live on.
		l.api.Finalize()
		err = l.api.Initialize()
	}
	l.generation++
	l.created.Store(0)
	return err
}

// recycle restarts the module if it made more than limit session objects and
// nobody is calling it just now; at twice the limit it waits for the calls to
// end. SoftHSM frees destroyed session objects only in C_Finalize.
func (l *library) recycle(limit int64) (bool, error) {
	switch created := l.created.Load(); {
	case created < limit:
		return false, nil
	case created < 2*limit:
		if !l.drain.TryLock() {
			return false, nil
		}
	default:
		l.drain.Lock()
	}
	defer l.drain.Unlock()
	if l.created.Load() < limit { // another goroutine was faster
		return false, nil
	}
	return true, l.restart()
}
