package p11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"chatvault/vaultd/internal/hsm"
)

// maxRetries is how often an operation is done again after a fault, each time
// on a module that was initialised anew.
const maxRetries = 2

// Module is an hsm.Module on one token of one PKCS#11 module.
//
// On a fault of the device the calls in flight are waited for, the module is
// finalised, initialised and logged in to again, and the operation that met
// the fault is done again. Every operation may be repeated: none changes the
// token. C_Logout is never called: it would end the login of every session of
// the process, and SoftHSM 2.6.1 crashes if a call is under way.
type Module struct {
	settings           // static after Open
	lib      *library  // static after Open
	identity *identity // static after Open

	recoveries atomic.Uint64
	recycles   atomic.Uint64

	mu       sync.Mutex
	attached *attachment // guarded by mu; nil when there is none
	refused  error       // guarded by mu; set when the token refused the PIN
	closed   bool        // guarded by mu
}

// identity is what must be the same each time the module attaches: else
// somebody put another token of the same name in its place.
type identity struct {
	public map[hsm.Key][]byte
	canary [hsm.MACSize]byte
}

// An attachment is a login and what came of it. It is worth nothing once the
// library has a newer generation.
type attachment struct {
	generation uint64
	// owner logs in and finds the keys. It stands apart from the pool because
	// session handles of the pool come and go with their users, while the
	// handles of keys must stay good.
	owner pkcs11.SessionHandle
	pool  chan pkcs11.SessionHandle
	keys  keyring
}

// Stats is how the module stands, and what happened since Open.
type Stats struct {
	Recoveries uint64 // restarts of the module after a fault
	Recycles   uint64 // restarts to free its memory
	Idle, Busy int    // HSM sessions; none while the module is away
}

// Open loads the module, checks that it can do what the vault needs, logs in
// and finds the keys. Errors: ErrConfig, ErrPIN, ErrUnfit (the text names
// what is missing), ErrNoKey, ErrUnavailable.
func Open(ctx context.Context, config Config) (*Module, error) {
	s, err := config.settings()
	if err != nil {
		return nil, err
	}
	return open(ctx, s)
}

func open(ctx context.Context, s settings) (*Module, error) {
	lib, err := acquire(s.uri.ModulePath, s.load)
	if err != nil {
		return nil, err
	}
	m := &Module{settings: s, lib: lib}
	if err := m.begin(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Module) begin(ctx context.Context) error {
	report, err := probe(ctx, &m.settings, m.lib)
	if err != nil {
		return err
	}
	if !report.Fit() {
		return fmt.Errorf("%w: %s", hsm.ErrUnfit, report.Why())
	}
	return m.do(ctx, func(*call) error { return nil })
}

// Stats may be called at any time.
func (m *Module) Stats() Stats {
	s := Stats{Recoveries: m.recoveries.Load(), Recycles: m.recycles.Load()}
	if !m.mu.TryLock() {
		return s // attaching: it is away, and may hang
	}
	defer m.mu.Unlock()
	if m.attached != nil {
		s.Idle = len(m.attached.pool)
		s.Busy = cap(m.attached.pool) - s.Idle
	}
	return s
}

// Close implements hsm.Module. It waits for the calls in flight.
func (m *Module) Close() error {
	m.lib.drain.Lock()
	m.mu.Lock()
	already := m.closed
	m.closed = true
	if !already {
		m.detach()
		m.pin.Wipe()
	}
	m.mu.Unlock()
	m.lib.drain.Unlock()
	if already {
		return nil
	}
	return m.lib.release()
}

// do runs f on a session of its own, again after faults.
func (m *Module) do(ctx context.Context, f func(*call) error) error {
	for try := 0; ; try++ {
		generation, err := m.attempt(ctx, f)
		if err == nil {
			m.recycle()
			return nil
		}
		if known := final(err); known != nil {
			return known
		}
		if try == maxRetries {
			return settle(err)
		}
		done, rerr := m.lib.recover(generation)
		if done {
			m.recoveries.Add(1)
			m.log.Warn("HSM fault; the module was initialised again", "fault", err, "error", rerr)
		}
		if rerr != nil {
			return fmt.Errorf("%w: initialise: %w", hsm.ErrUnavailable, rerr)
		}
	}
}

// recycle restarts the module when it has leaked enough. If that fails the
// next operation meets a fault and deals with it.
func (m *Module) recycle() {
	done, err := m.lib.recycle(m.recycleAfter)
	if !done {
		return
	}
	m.recycles.Add(1)
	m.log.Info("initialised the HSM module again to free its memory", "error", err)
}

// attempt runs f once on the generation that it returns.
func (m *Module) attempt(ctx context.Context, f func(*call) error) (generation uint64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.lib.drain.RLock()
	defer m.lib.drain.RUnlock()
	generation = m.lib.generation
	a, err := m.attach()
	if err != nil {
		return generation, err
	}
	var session pkcs11.SessionHandle
	select {
	case session = <-a.pool:
	case <-ctx.Done():
		return generation, ctx.Err()
	}
	defer func() { a.pool <- session }()
	return generation, m.judge(&call{m.lib.api, m.lib, session, a.keys}, f)
}

// judge runs f, and decides whether the input or the device is to blame when
// that is in doubt. Blaming the input is final and may cost a record, so it
// takes two refusals by a device that gives a known answer in between.
func (m *Module) judge(c *call, f func(*call) error) error {
	err := f(c)
	var in *doubt
	if !errors.As(err, &in) {
		return err
	}
	mac, sick := c.canary()
	if sick != nil {
		return sick
	}
	if mac != m.identity.canary {
		return errCanary
	}
	if err = f(c); !errors.As(err, &in) {
		return err
	}
	return fmt.Errorf("%w: %w", hsm.ErrIntegrity, err)
}

// attach returns the attachment of the current generation, made if need be.
// It is called with drain held for reading.
func (m *Module) attach() (*attachment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return nil, fmt.Errorf("%w: closed", hsm.ErrUnavailable)
	case m.refused != nil:
		return nil, m.refused
	case m.attached != nil && m.attached.generation == m.lib.generation:
		return m.attached, nil
	}
	m.attached = nil // its sessions went with the generation
	a, err := m.newAttachment()
	if err != nil {
		if errors.Is(final(err), hsm.ErrPIN) {
			m.refused = final(err)
		}
		if m.identity != nil && errors.Is(err, hsm.ErrNoKey) {
			// They were there: the token or the login is going. Another try
			// may find them, so the error must not be the final one.
			err = fmt.Errorf("attach: %v", err)
		}
		return nil, err
	}
	m.attached = a
	return a, nil
}

func (m *Module) newAttachment() (_ *attachment, err error) {
	api := m.lib.api
	slot, info, err := findSlot(api, m.uri)
	if err != nil {
		return nil, err
	}
	a := &attachment{generation: m.lib.generation, pool: make(chan pkcs11.SessionHandle, m.sessions)}
	if a.owner, err = api.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION); err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	defer func() {
		if err != nil {
			a.close(api)
		}
	}()
	if err := login(api, a.owner, info, string(m.pin)); err != nil {
		return nil, err
	}
	if a.keys, err = findKeys(api, a.owner, &m.settings); err != nil {
		return nil, err
	}
	if err := m.identify(&call{api, m.lib, a.owner, a.keys}); err != nil {
		return nil, err
	}
	for range m.sessions {
		session, err := api.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			return nil, fmt.Errorf("open session: %w", err)
		}
		a.pool <- session
	}
	return a, nil
}

// identify remembers the token's public keys and canary the first time, and
// compares them afterwards.
func (m *Module) identify(c *call) error {
	mac, err := c.canary()
	if err != nil {
		return err
	}
	if m.identity == nil {
		m.identity = &identity{c.keys.public, mac}
		return nil
	}
	same := mac == m.identity.canary
	for key, public := range m.identity.public {
		same = same && bytes.Equal(public, c.keys.public[key])
	}
	if !same {
		return fmt.Errorf("%w: another token stands in place of the one that was opened", hsm.ErrUnfit)
	}
	return nil
}

// detach closes the sessions; with drain held for writing, and mu.
func (m *Module) detach() {
	if m.attached != nil && m.attached.generation == m.lib.generation {
		m.attached.close(m.lib.api)
	}
	m.attached = nil
}

// close closes the sessions of the pool and then the owner. Closing fails
// only for sessions that are closed already.
func (a *attachment) close(api cryptoki) {
	for {
		select {
		case session := <-a.pool:
			api.CloseSession(session)
		default:
			api.CloseSession(a.owner)
			return
		}
	}
}

var _ hsm.Module = (*Module)(nil)
