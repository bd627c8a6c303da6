package load

import (
	"fmt"
	"sync"
	"time"

	"chatvault/client/cmd/chatload/internal/measure"
)

// Drain is the scenario of a relay that drains. OpTold is from its beginning until
// a held connection is told to leave; its latencies are how the relay spreads them.
const (
	Drain  = "drain"
	OpTold = "told"
)

// drainAfter is how long all are held before the relay is told: other processes
// of the same load may be a little behind.
const drainAfter = 2 * time.Second

// drain is what a crowd notes of a relay that drains. The zero value notes
// nothing.
type drain struct {
	on bool // static

	mu    sync.Mutex
	op    *measure.Op // nil: not begun
	begun time.Time   // zero: nobody was told yet
	early []early     // before it began here: another process of this load did so first
}

// early is somebody who was told to leave.
type early struct {
	code string
	at   time.Time
}

// planDrain: connections are made and held; then the relay is told to drain, by
// cfg.Drain, or by somebody else.
func planDrain(e *Env) (plan, error) {
	c := newCrowd(e)
	c.drain.on = true
	c.places(e.cfg.Connections)
	return plan{settle: c.settle, close: c.close, stages: []stage{
		{streams: []stream{{opConnect, e.opening(), e.cfg.MaxInFlight, c.open}}},
		{atLeast: drainAfter},
		{atLeast: e.cfg.Duration, begin: func() error { return c.drain.begin(e) }},
	}}, nil
}

func (d *drain) begin(e *Env) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.op = e.run.Op(OpTold)
	for _, t := range d.early {
		d.add(t.code, true, t.at)
	}
	if e.cfg.Drain == nil {
		e.cfg.Say("all are connected: let the relay drain now (SIGTERM)")
		return nil // begins with the first who is told
	}
	if d.begun.IsZero() {
		d.begun = time.Now()
	}
	if err := e.cfg.Drain(); err != nil {
		return fmt.Errorf("telling the relay to drain: %w", err)
	}
	return nil
}

// note notes that a connection is told to leave, or that it ended untold.
func (d *drain) note(code string, told bool) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.op != nil:
		d.add(code, told, now)
	case d.on && told:
		d.early = append(d.early, early{code, now})
	}
}

// add is called with mu held, when the drain has begun.
func (d *drain) add(code string, told bool, now time.Time) {
	if d.begun.IsZero() {
		d.begun = now
	}
	d.op.Begin(d.begun)
	d.op.End(d.begun, d.begun, now, measure.Outcome{Code: code, Failed: !told})
}
