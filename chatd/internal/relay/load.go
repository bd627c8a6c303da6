package relay

import (
	"slices"
	"sync/atomic"
)

// Load is what a relay carries at a moment, and what it has carried since its
// start. Bytes are those of frames, without WebSocket, TLS and TCP around them.
type Load struct {
	Active, Parked      int // connections
	Sessions            int // vault sessions attached to them
	QueuedBytes         int64
	FramesIn, BytesIn   int64 // from clients
	FramesOut, BytesOut int64 // to clients
}

// traffic counts without a lock: it is on the path of every frame.
type traffic struct{ framesIn, bytesIn, framesOut, bytesOut atomic.Int64 }

// Load reads the counts.
func (r *Relay) Load() Load {
	r.mu.Lock()
	l := Load{Active: len(r.conns), Sessions: len(r.sessions)}
	r.mu.Unlock()
	l.Parked = int(r.parked.Load())
	l.Active = max(l.Active-l.Parked, 0)
	l.QueuedBytes = r.queued.Load()
	l.FramesIn, l.BytesIn = r.traffic.framesIn.Load(), r.traffic.bytesIn.Load()
	l.FramesOut, l.BytesOut = r.traffic.framesOut.Load(), r.traffic.bytesOut.Load()
	return l
}

// Reasons names every reason for which a connection may end.
func Reasons() []string {
	var names []string
	for _, row := range reasons {
		names = append(names, row.name)
	}
	slices.Sort(names)
	return names
}
