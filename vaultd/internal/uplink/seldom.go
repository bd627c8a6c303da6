package uplink

import (
	"sync"
	"time"
)

// A stranger decides how often a handshake fails: the first lines in a row are
// written, then one every sayEvery. The counters count all of them.
const (
	sayAtOnce = 10
	sayEvery  = 10 * time.Second
)

// seldom bounds how often something is logged.
type seldom struct {
	mu     sync.Mutex // guards what follows
	left   int        // lines that may be written at once
	since  time.Time  // left counts from here; zero: nothing was said yet
	unsaid int
}

// say says whether to write a line now, and how many were left out before it.
func (s *seldom) say(now time.Time) (unsaid int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		s.left, s.since = sayAtOnce, now
	}
	if n := int(now.Sub(s.since) / sayEvery); n > 0 {
		s.left = min(sayAtOnce, s.left+n)
		s.since = s.since.Add(time.Duration(n) * sayEvery)
	}
	if s.left == 0 {
		s.unsaid++
		return 0, false
	}
	s.left--
	unsaid, s.unsaid = s.unsaid, 0
	return unsaid, true
}
