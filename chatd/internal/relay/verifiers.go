package relay

import (
	"context"
	"runtime"
	"sync"
	"time"

	"chatvault/protocol/frame"
	"chatvault/protocol/ticket"
)

// proof is what a client brings for who it is.
type proof struct {
	nonce [frame.NonceSize]byte
	found *ticket.Unverified // nil: not looked for
	auth  *frame.Auth
	now   time.Time
}

// noWait is over: what is not there is not waited for.
var noWait = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// verify returns ErrUnavailable when it would have to wait for an issuer's keys.
func (p *proof) verify(tickets *ticket.Verifier) (ticket.Verified, error) {
	if p.found == nil {
		found, err := tickets.Find(noWait, p.auth.Ticket, p.now)
		if err != nil {
			return ticket.Verified{}, err
		}
		p.found = &found
	}
	v, err := p.found.Verify(p.auth.DeviceKey[:], p.now)
	if err == nil {
		// The nonce is this connection's: what was recorded on another one
		// does not verify.
		err = ticket.VerifyRelayAuth(p.auth.DeviceKey[:], p.auth.Signature[:], p.nonce, p.auth.Host, v.TicketHash)
	}
	return v, err
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

// verification is a proof on its way.
type verification struct {
	proof
	verified ticket.Verified
	err      error
	done     chan struct{} // of 1
}

var verifications = sync.Pool{New: func() any { return &verification{done: make(chan struct{}, 1)} }}

// verify verifies on one of them. Whoever calls it is inside of the gate.
func (s *verifiers) verify(p proof) (ticket.Verified, error) {
	s.start.Do(func() {
		for range perCore * runtime.GOMAXPROCS(0) {
			go s.run()
		}
	})
	v := verifications.Get().(*verification)
	v.proof = p
	select {
	case s.work <- v:
		<-v.done
	case <-s.ctx.Done(): // the relay is over
		return ticket.Verified{}, ticket.ErrUnavailable
	}
	verified, err := v.verified, v.err
	*v = verification{done: v.done}
	verifications.Put(v)
	return verified, err
}

func (s *verifiers) run() {
	for {
		select {
		case v := <-s.work:
			v.verified, v.err = v.proof.verify(s.tickets)
			v.done <- struct{}{}
		case <-s.ctx.Done():
			return
		}
	}
}
