// Package session is a vault session as the client sees it: requests in, the
// vault's replies out, whatever happens to the connections below.
package session

import (
	"context"
	"errors"
	"fmt"

	"chatvault/client/internal/relay"
	"chatvault/protocol/fleet"
	"chatvault/protocol/noisenk"
	"chatvault/protocol/ticket"
	"chatvault/protocol/vaultmsg"
)

// ErrVault says that the vault itself, not anybody between, answered what the
// protocol does not allow.
var ErrVault = errors.New("vault violates the protocol")

// Session is one vault session, strictly one request at a time. After an error
// of Call it is of no more use. Not safe for concurrent use.
type Session struct {
	relay    *relay.Session
	noise    *noisenk.Session
	fleet    string
	sequence uint32
	failed   error
}

// Open makes a session with a vault that holds the fleet's Noise key: a relay
// that routes to another one fails here (attacks A9, A10), with
// noisenk.ErrHandshake.
func Open(ctx context.Context, link *relay.Link, keys fleet.Keys) (*Session, error) {
	hs, err := noisenk.NewInitiator(keys.Fleet, keys.Noise[:])
	if err != nil {
		return nil, err
	}
	message1, err := hs.Message1()
	if err != nil {
		return nil, err
	}
	r, message2, err := link.Open(ctx, message1)
	if err != nil {
		return nil, err
	}
	n, err := hs.ReadMessage2(message2)
	if err != nil {
		r.Close()
		return nil, err
	}
	return &Session{relay: r, noise: n, fleet: keys.Fleet}, nil
}

// HandshakeHash is h.
func (s *Session) HandshakeHash() [32]byte { return [32]byte(s.noise.HandshakeHash()) }

// Authorise is the first request: ticket, device key, and the proof that binds
// both to this session.
func (s *Session) Authorise(ctx context.Context, device ticket.DeviceKey, t string) (vaultmsg.Reply, error) {
	proof, err := ticket.SignVaultAuth(device, s.fleet, s.HandshakeHash(), ticket.Hash(t))
	if err != nil {
		return vaultmsg.Reply{}, err
	}
	return s.Call(ctx, vaultmsg.Authorise{DeviceKey: device.Public(), Signature: proof, Ticket: t})
}

// Call sends a request and returns its reply. The request is sealed once: its
// repetitions are the same bytes, since a second ciphertext under one sequence
// number would break the cipher.
func (s *Session) Call(ctx context.Context, req vaultmsg.Request) (vaultmsg.Reply, error) {
	if s.failed != nil {
		return vaultmsg.Reply{}, s.failed
	}
	s.sequence++
	id := s.relay.ID()
	sealed := s.noise.Seal(id[:], s.sequence, vaultmsg.EncodeRequest(req))
	var plain []byte
	err := s.relay.Exchange(ctx, s.sequence, sealed, func(payload []byte) bool {
		p, err := s.noise.Open(id[:], s.sequence, payload)
		plain = p
		return err == nil
	})
	if err != nil {
		s.failed = err
		return vaultmsg.Reply{}, err
	}
	reply, err := vaultmsg.ParseReply(plain)
	if err == nil && reply.Kind != req.Kind() {
		err = fmt.Errorf("reply of kind %d to a request of kind %d", reply.Kind, req.Kind())
	}
	if err != nil {
		s.failed = fmt.Errorf("%w: %w", ErrVault, err)
		return vaultmsg.Reply{}, s.failed
	}
	return reply, nil
}

// Close tells the vault that the session is over.
func (s *Session) Close() {
	if errors.Is(s.failed, relay.ErrLost) {
		s.relay.Abandon()
	} else {
		s.relay.Close()
	}
}
