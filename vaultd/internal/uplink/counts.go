package uplink

import "sync/atomic"

// Event is something that a server counts.
type Event uint8

// Events. Those from Ended on say why an uplink ended.
const (
	Connected         Event = iota
	FailedHandshake         // TLS: another CA, no certificate, an old version, too slow
	WrongRole               // a certificate of the CA, but not chatd's
	TooManyHandshakes       // closed unseen
	TooManyUplinks          // MaxUplinks
	EndedByPeer
	EndedMalformed   // what chatd sent is not the protocol
	EndedTooMany     // MaxConnections
	EndedSilent      // HandshakeTimeout or DeadAfter
	EndedSlow        // QueueBytes
	EndedWriteFailed // WriteTimeout among others
	EndedShutdown
	events
)

var eventNames = [events]string{
	"connected", "failed_handshake", "wrong_role", "too_many_handshakes", "too_many_uplinks",
	"ended_by_peer", "ended_malformed", "ended_too_many", "ended_silent", "ended_slow",
	"ended_write_failed", "ended_shutdown",
}

// String is the event's name in metrics.
func (e Event) String() string { return eventNames[e] }

// Events lists them all.
func Events() []Event {
	all := make([]Event, events)
	for e := range all {
		all[e] = Event(e)
	}
	return all
}

type counters [events]atomic.Uint64

func (c *counters) add(e Event) { c[e].Add(1) }

// Count says how often an event happened since the server was made.
func (s *Server) Count(e Event) uint64 { return s.counts[e].Load() }
