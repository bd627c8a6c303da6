package noisenk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"chatvault/protocol/secret"

	"github.com/flynn/noise"
)

// SessionIDSize is the size of a vault session's id: 4 bytes of vault node, 16 random.
const SessionIDSize = 20

// The direction byte in a message's additional data.
const (
	initiatorToResponder byte = 0
	responderToInitiator byte = 1
)

// Session seals and opens the messages of one vault session, whose sequence
// number 0 was the handshake. Message n ≥ 1 uses Noise nonce n−1 of the sender's
// cipher, with additional data
//
//	session id (20) ‖ direction (1) ‖ n (4, big-endian)
//
// It outlives connections: sequence numbers are explicit, messages may come
// again. Safe for concurrent use.
type Session struct {
	hash      [HashSize]byte
	send      noise.Cipher
	receive   noise.Cipher
	direction byte // of what we send

	mu     sync.Mutex
	sealed uint32 // highest sequence number sealed; guarded by mu
}

func newSession(hash []byte, send, receive *noise.CipherState, direction byte) *Session {
	s := &Session{send: send.Cipher(), receive: receive.Cipher(), direction: direction}
	if copy(s.hash[:], hash) != HashSize || len(hash) != HashSize {
		panic("noisenk: handshake hash of a wrong size")
	}
	return s
}

// HandshakeHash returns h, 32 bytes, the same on both sides and in no other
// session. Signatures over it bind what they sign to this session.
func (s *Session) HandshakeHash() []byte { return bytes.Clone(s.hash[:]) }

// Seal encrypts our message number seq: TagSize bytes longer than the plaintext.
//
// One ciphertext per sequence number for ever: two plaintexts under one nonce
// give an observer their XOR and GCM's authentication key. So Seal panics for
// seq 0 and for any seq not above all earlier ones. Whoever has to send a
// message again keeps its ciphertext.
func (s *Session) Seal(sessionID []byte, seq uint32, plaintext []byte) []byte {
	if len(sessionID) != SessionIDSize {
		panic("noisenk: session id of a wrong size")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq <= s.sealed {
		panic("noisenk: Seal under a sequence number already used")
	}
	s.sealed = seq
	return s.send.Encrypt(nil, uint64(seq)-1, additionalData(sessionID, s.direction, seq), plaintext)
}

// Open decrypts the peer's message number seq or returns ErrDecrypt. It keeps
// no count and a failure changes nothing: refusing what is out of order is the
// caller's part.
func (s *Session) Open(sessionID []byte, seq uint32, ciphertext []byte) ([]byte, error) {
	if len(sessionID) != SessionIDSize {
		return nil, fmt.Errorf("%w: session id of %d bytes", ErrDecrypt, len(sessionID))
	}
	if seq == 0 {
		return nil, fmt.Errorf("%w: sequence number 0 is the handshake", ErrDecrypt)
	}
	plaintext, err := s.receive.Decrypt(nil, uint64(seq)-1, additionalData(sessionID, s.direction^1, seq), ciphertext)
	if err != nil {
		return nil, fmt.Errorf("%w: sequence number %d: %w", ErrDecrypt, seq, err)
	}
	return plaintext, nil
}

func additionalData(sessionID []byte, direction byte, seq uint32) []byte {
	ad := make([]byte, 0, SessionIDSize+1+4)
	ad = append(ad, sessionID...)
	ad = append(ad, direction)
	return binary.BigEndian.AppendUint32(ad, seq)
}

// Format implements fmt.Formatter for every verb: %s would print the keys.
func (*Session) Format(f fmt.State, _ rune) { io.WriteString(f, secret.Redacted) }

// LogValue implements slog.LogValuer.
func (*Session) LogValue() slog.Value { return slog.StringValue(secret.Redacted) }
