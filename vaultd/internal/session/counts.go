package session

import "sync/atomic"

// Event is something that a table counts: what became of sessions and of frames.
type Event uint8

// Events. An ignored frame changed nothing and was not answered.
const (
	Opened           Event = iota
	Attached               // to a line, other than the one it was opened on
	Requests               // accepted, each under a new sequence number
	Repeated               // the last reply was sent again
	RepeatedAtWork         // a repeat whose reply was on the way
	Held                   // a reply that waited for credit of the uplink
	IgnoredOld             // an older sequence number
	IgnoredAhead           // a later one than the next, or the next before the reply
	IgnoredDiffers         // other bytes under the last sequence number
	IgnoredSealed          // does not decrypt
	RefusedSessions        // MaxSessions
	RefusedPerPeer         // MaxPerPeer
	RefusedDraining        // OPEN while draining
	RefusedHandshake       // message 1 was wrong
	FailedHandshake        // the HSM was
	RefusedAttach          // no such session, or another peer's
	RefusedData            // no such session, or not attached here
	EndedIdle
	EndedByClient
	EndedInternal // the conversation had no reply, or panicked
	EndedDraining
	EndedUnheard      // the connection was gone before the handshake was done
	EndedBeyondWindow // chatd sent more than it had credit for, or gave more than it was sent
	EndedForRoom      // no connection held it, and its peer opened another beyond MaxPerPeer
	events
)

var eventNames = [events]string{
	"opened", "attached", "requests", "repeated", "repeated_at_work", "held",
	"ignored_old", "ignored_ahead", "ignored_differs", "ignored_sealed",
	"refused_sessions", "refused_per_peer", "refused_draining", "refused_handshake",
	"failed_handshake", "refused_attach", "refused_data",
	"ended_idle", "ended_by_client", "ended_internal", "ended_draining", "ended_unheard", "ended_beyond_window", "ended_for_room",
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

// Count says how often an event happened since the table was made.
func (t *Table) Count(e Event) uint64 { return t.counts[e].Load() }
