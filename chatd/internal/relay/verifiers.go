package relay

import (
	"context"
	"runtime"
	"sync"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// verification is what a client brings for who it is, on its way.
type verification struct {
	nonce [frame.NonceSize]byte
	auth  frame.Auth
	now   time.Time
	found *ticket.Unverified // nil: not looked for

	verified ticket.Verified
	err      error
	done     chan struct{} // of 1
}

var verifications = sync.Pool{New: func() any { return &verification{done: make(chan struct{}, 1)} }}

// release gives it back: nobody reads it any more.
func (v *verification) release() {
	*v = verification{done: v.done}
	verifications.Put(v)
}

// noWait is over: what is not there is not waited for.
var noWait = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// verify returns ErrUnavailable when it would have to wait for an issuer's keys.
func (v *verification) verify(tickets *ticket.Verifier) (err error) {
	if v.found == nil {
		if v.found, err = tickets.Find(noWait, v.auth.Ticket, v.now); err != nil {
			return err
		}
	}
	if v.verified, err = v.found.Verify(v.auth.DeviceKey[:], v.now); err != nil {
		return err
	}
	// The nonce is this connection's: what was recorded on another one does not
	// verify.
	return ticket.VerifyRelayAuth(v.auth.DeviceKey[:], v.auth.Signature[:], v.nonce, v.auth.Host, v.verified.TicketHash)
}

// verifiers are the goroutines on which proofs are verified, as many as the gate
// has places. A ticket and its signature take a stack of some 8 KiB: a
// connection's own goroutine would grow to that, copying itself twice, and the
// garbage collector would make each one small again.
type verifiers struct {
	tickets *ticket.Verifier
	start   sync.Once
	ctx     context.Context
	work    chan *verification
}

// verify verifies on one of them. Whoever calls it is inside of the gate.
func (s *verifiers) verify(v *verification) error {
	s.start.Do(func() {
		for range perCore * runtime.GOMAXPROCS(0) {
			go s.run()
		}
	})
	select {
	case s.work <- v:
		<-v.done
		return v.err
	case <-s.ctx.Done(): // the relay is over
		return ticket.ErrUnavailable
	}
}

func (s *verifiers) run() {
	for {
		select {
		case v := <-s.work:
			v.err = v.verify(s.tickets)
			v.done <- struct{}{}
		case <-s.ctx.Done():
			return
		}
	}
}
